"""PyTorch's side of experiments/speed/steps.py: the training steps of cGLO and of classifiers.

The same networks, losses and updates as ours, written as one would write them well (frozen VGG-16, no
graph for the targets, one pass of G, channels last, on a GPU bfloat16 by autocast and fused
optimisers), or with the passes of the authors' released code: VGG-16's parameters with gradients, both of
its passes recorded, G once for each of the two losses. They are eager.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cglo_jax.models.vgg import IMAGENET_MEAN, IMAGENET_STD
from experiments.parity.torch_networks import VGG16_TAPS, vgg16_features

_WIDTHS = (512, 256, 128, 64)  # of G's maps of 4, 8, 16 and 32 pixels


class Generator(nn.Module):
    """G([z, eps]) at 32 px."""

    def __init__(self, dim: int, noise_dim: int) -> None:
        super().__init__()
        self.noise = nn.Linear(noise_dim, noise_dim)
        self.dense = nn.Linear(dim + noise_dim, 16 * _WIDTHS[0], bias=False)
        self.bn0 = nn.BatchNorm2d(_WIDTHS[0])
        ups = []
        for inputs, outputs in itertools.pairwise(_WIDTHS):
            ups += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.ups = nn.Sequential(*ups)
        self.to_image = nn.Conv2d(_WIDTHS[-1], 3, 3, padding=1)

    def forward(self, z: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """Computes images [B, 3, 32, 32] of codes [B, d] and noise [B, noise_dim]."""
        eps = F.leaky_relu(self.noise(eps), 0.2)
        x = self.dense(torch.cat([z, eps.to(z.dtype)], 1)).view(-1, _WIDTHS[0], 4, 4)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.ups(torch.relu(self.bn0(x)))
        return torch.tanh(self.to_image(x).float())


class WeakClassifier(nn.Module):
    """f_phi at 32 px."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers, channels = [], 3
        for _ in range(4):
            conv = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
            channels = 64
        self.blocks, self.head = nn.Sequential(*layers), nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits [B, K]."""
        return self.head(self.blocks(x).flatten(1).float())


class CGLO:
    """Algorithm 1 at 32 px on resident uint8 images, a step at a time.

    Args:
      images: uint8 [n, 3, 32, 32]. labels: int64 [n], both on the device.
      as_authors: see the module.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        *,
        dim: int = 128,
        noise_dim: int = 100,
        gamma: float = 0.02,
        as_authors: bool = False,
    ) -> None:
        place = {"device": images.device, "memory_format": torch.channels_last}
        self.images, self.labels, self.gamma = images, labels, gamma
        self.as_authors, self.noise_dim = as_authors, noise_dim
        self.generator = Generator(dim, noise_dim).to(**place)
        self.weak = WeakClassifier(classes).to(**place)
        last = max(VGG16_TAPS.values())
        self.vgg = vgg16_features()[: last + 1].to(**place)
        self.vgg.requires_grad_(as_authors)
        # Of images in [-1, 1]; the constants are of images in [0, 1].
        mean, std = torch.tensor(np.stack([IMAGENET_MEAN, IMAGENET_STD])).to(
            images.device
        )[:, None, :, None, None]
        self.scale, self.offset = 0.5 / std, (0.5 - mean) / std
        z = torch.randn(len(images), dim, device=images.device)
        self.z = F.normalize(z)
        self.mu, self.nu = torch.zeros_like(z), torch.zeros_like(z)
        self.count = torch.zeros(len(images), 1, device=images.device)
        on_gpu = images.is_cuda
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), 7e-4, (0.5, 0.999), fused=on_gpu or None
        )
        self.weak_optimizer = torch.optim.SGD(
            self.weak.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=on_gpu or None
        )
        self.cached = None

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Computes the five taps of images in [-1, 1]."""
        x, taps = x * self.scale + self.offset, []
        for index, layer in enumerate(self.vgg):
            x = layer(x)
            if index in VGG16_TAPS.values():
                taps.append(x)
        return taps

    def cache(self) -> None:
        """Computes the targets' features of all images once."""
        with torch.no_grad(), self.autocast():
            parts = [
                self.features(part.float().div_(127.5).sub_(1))
                for part in self.images.split(128)
            ]
        self.cached = [torch.cat(taps) for taps in zip(*parts, strict=True)]

    def autocast(self) -> torch.autocast:
        """bfloat16 on a GPU."""
        on_gpu = self.images.is_cuda
        return torch.autocast(self.images.device.type, torch.bfloat16, enabled=on_gpu)

    def targets(self, x: torch.Tensor, indices: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features of the images."""
        if self.cached is not None:
            return [tap[indices] for tap in self.cached]
        with torch.set_grad_enabled(self.as_authors):
            return self.features(x)

    def step(self, indices: torch.Tensor) -> torch.Tensor:
        """Takes a step on the images `indices` [B]; returns its loss."""
        x = self.images[indices].float().div_(127.5).sub_(1)
        x = x.contiguous(memory_format=torch.channels_last)
        z = self.z[indices].requires_grad_()
        eps = 0.15 * torch.randn(len(indices), self.noise_dim, device=x.device)
        with self.autocast():
            y = self.generator(z, eps)
            taps = zip(self.features(y), self.targets(x, indices), strict=True)
            loss = sum(F.l1_loss(a.float(), b.float()) for a, b in taps)
            loss = loss + F.l1_loss(y, x)
            again = self.generator(z, eps) if self.as_authors else y
            weak = F.cross_entropy(self.weak(again), self.labels[indices])
            loss = loss + self.gamma * weak
        self.optimizer.zero_grad(set_to_none=True)
        self.weak_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.weak_optimizer.step()
        self.update_codes(indices, z.detach(), z.grad * len(indices))
        return loss.detach()

    def update_codes(
        self, indices: torch.Tensor, z: torch.Tensor, gradient: torch.Tensor
    ) -> None:
        """Adam for the rows of the batch, back to the sphere."""
        count = self.count[indices] + 1
        mu = self.mu[indices].lerp_(gradient, 0.5)
        nu = self.nu[indices].lerp_(gradient * gradient, 0.001)
        scale = (nu / (1 - 0.999**count)).sqrt_().add_(1e-8)
        z = F.normalize(z - 1e-3 * mu / (1 - 0.5**count) / scale)
        for table, rows in (
            (self.z, z),
            (self.mu, mu),
            (self.nu, nu),
            (self.count, count),
        ):
            table[indices] = rows


def classifier_step(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, pad: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns a function that takes a step of SGD with Nesterov momentum on the images of its indices.

    Flip and, unless `pad` is 0, a crop from that padding, an own draw per image, are part of it,
    as of ours.

    Args:
      images: uint8 [n, 3, H, W]. labels: int64 [n], both on the device.
    """
    net = net.to(images.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        net.parameters(),
        0.1,
        0.9,
        weight_decay=5e-4,
        nesterov=True,
        fused=images.is_cuda or None,
    )

    def step(indices: torch.Tensor) -> torch.Tensor:
        x = augment(images[indices], pad).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            loss = F.cross_entropy(net(x).float(), labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def augment(images: torch.Tensor, pad: int) -> torch.Tensor:
    """Crops and flips uint8 [B, 3, H, W], each with its own draw -> float32 in [-1, 1]."""
    b, _, height, width = images.shape
    x = images.float().div_(127.5).sub_(1)
    flipped = torch.rand(b, 1, 1, 1, device=images.device) < 0.5
    x = torch.where(flipped, x.flip(3), x)
    if not pad:
        return x
    x = F.pad(x, (pad,) * 4)
    top, left = torch.randint(0, 2 * pad + 1, (2, b, 1), device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    picked = torch.arange(b, device=x.device)[:, None, None]
    x = x.permute(0, 2, 3, 1)[picked, rows[:, :, None], columns[:, None]]
    return x.permute(0, 3, 1, 2)
