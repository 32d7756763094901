"""PyTorch's side of experiments/parity/networks.py: torchvision's networks, or the same anew.

The definitions here are written from the papers and share nothing with cglo_jax but the
names of the wide ResNet's parts. Those of VGG-16 and ResNet-50 carry torchvision's names
and take its place where it cannot be imported.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

try:
    import torchvision
except (ImportError, RuntimeError):  # absent, or built for another torch
    torchvision = None

# Index in torchvision's `vgg16().features` of the ReLU after each tapped convolution.
VGG16_TAPS = {"conv1_2": 3, "conv2_2": 8, "conv3_2": 13, "conv4_2": 20, "conv5_2": 27}


def vgg16_features() -> nn.Sequential:
    """Returns VGG-16's convolutions (configuration D), ReLUs and poolings."""
    layers, channels = [], 3
    for repeats, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """He et al. (2016), figure 5 right, with the stride in the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            conv = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes [B, C, H, W] -> [B, 4 * width, H / stride, W / stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """He et al. (2016), table 1, 50 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, repeats in enumerate((3, 4, 6, 3)):
            blocks, width = [], 64 << i
            for block in range(repeats):
                stride = 2 if i > 0 and block == 0 else 1
                blocks.append(Bottleneck(channels, width, stride))
                channels = 4 * width
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the logits [B, K] of normalised images [B, 3, H, W]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(self.avgpool(x).flatten(1))


class WideBlock(nn.Module):
    """Zagoruyko & Komodakis (2016), basic-wide, pre-activated."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        activated = torch.relu(self.bn1(x))
        y = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Zagoruyko & Komodakis (2016), table 1, without dropout: WRN-28-10."""

    def __init__(self, blocks: int = 4, width: int = 10, classes: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stages, channels = [], 16
        for group, outputs in enumerate((16 * width, 32 * width, 64 * width), 1):
            for block in range(1, blocks + 1):
                stride = 2 if group > 1 and block == 1 else 1
                name = f"group{group}_block{block}"
                self.add_module(name, WideBlock(channels, outputs, stride))
                self.stages.append(name)
                channels = outputs
        self.bn = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the logits [B, K] of images [B, 3, H, W] in [-1, 1]."""
        x = self.conv1(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.head(torch.relu(self.bn(x)).mean((2, 3)))


def has_torchvision() -> bool:
    """Tells whether `create` can take torchvision's networks."""
    return torchvision is not None


def create(network: str, own: bool) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Builds a network without weights.

    Args:
      network: 'vgg16', 'resnet50' or 'wrn28_10'.
      own: Take the definition of this file, else torchvision's, if it has one.

    Returns:
      The network on the meta device, and the modules whose outputs are compared.
    """
    with torch.device("meta"):
        if network == "vgg16":
            features = vgg16_features() if own else torchvision.models.vgg16().features
            net = nn.Sequential()
            net.features = features[: max(VGG16_TAPS.values()) + 1]
            return net, {tap: net.features[i] for tap, i in VGG16_TAPS.items()}
        if network == "resnet50":
            net = ResNet50() if own else torchvision.models.resnet50()
            parts = {f"layer{i}": getattr(net, f"layer{i}") for i in (1, 2, 3, 4)}
            return net, {**parts, "logits": net.fc}
        net = WideResNet()
        parts = {f"group{i}": getattr(net, f"group{i}_block4") for i in (1, 2, 3)}
        return net, {**parts, "logits": net.head}


def keep_outputs(parts: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Returns a dict that a pass fills: {part: output}, and the logits' 'embedding'."""
    taps: dict[str, torch.Tensor] = {}

    def keep(name: str, inputs: tuple, output: torch.Tensor) -> None:
        if name == "logits":
            taps["embedding"] = inputs[0]
        taps[name] = output.clone()  # torchvision's ReLUs work in place

    for name, part in parts.items():
        part.register_forward_hook(lambda _, i, o, name=name: keep(name, i, o))
    return taps


def count_values(net: nn.Module) -> dict[str, int]:
    """Returns a dict that a pass fills: {batch norm: values per channel, B * H * W}."""
    counts: dict[str, int] = {}

    def count(name: str, inputs: tuple) -> None:
        counts[name] = inputs[0].numel() // inputs[0].shape[1]

    for name, part in net.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_pre_hook(lambda _, i, name=name: count(name, i))
    return counts


def with_biased_variances(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Returns `after` as if PyTorch averaged biased variances, as Flax does.

    A running variance goes a tenth of the way to the batch's unbiased variance, which is
    n / (n - 1) times the biased one.

    Args:
      before, after: {PyTorch's name: array} before and after one pass in training.
      counts: See `count_values`.
    """
    biased = dict(after)
    for name, n in counts.items():
        old, new = before[f"{name}.running_var"], after[f"{name}.running_var"]
        kept = 0.9 * old
        biased[f"{name}.running_var"] = kept + (new - kept) * ((n - 1) / n)
    return biased


def imagenet(x: torch.Tensor) -> torch.Tensor:
    """Takes [B, 3, H, W] from [-1, 1] to [0, 1], then normalises it."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=x.dtype).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=x.dtype).view(1, 3, 1, 1)
    return ((x + 1) / 2 - mean) / std


def run(
    network: str,
    tensors: Mapping[str, np.ndarray],
    x: np.ndarray,
    *,
    train: bool = False,
    normalize: bool = True,
    own: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Computes a network's taps and the gradient of a scalar, on the CPU.

    The scalar is the sum of the logits, weighted by cos(class), or without logits that of
    the taps' means.

    Args:
      network: See `create`.
      tensors: {PyTorch's name: array}, all of the network.
      x: Images [B, H, W, 3] in [-1, 1]; its type, float32 or float64, is computed in.
      train: Normalise by batch statistics, else by running ones.
      normalize: Apply ImageNet's normalisation; unused by the wide ResNet.
      own: See `create`.

    Returns:
      {tap: [B, H, W, C] or [B, C], ..., 'input gradient': [B, H, W, 3]}, and the
      network's tensors after the pass, which moves the running ones if `train`: the
      variances as in `with_biased_variances`.
    """
    net, parts = create(network, own)
    state = {k: torch.tensor(v.astype(x.dtype)) for k, v in tensors.items()}
    for name in net.state_dict():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
    net.load_state_dict(state, assign=True)
    net.train(train)
    taps, counts = keep_outputs(parts), count_values(net)
    images = torch.tensor(x, requires_grad=True)
    inputs = images.permute(0, 3, 1, 2)
    net(imagenet(inputs) if normalize and network != "wrn28_10" else inputs)
    if "logits" in taps:
        classes = torch.arange(taps["logits"].shape[1], dtype=inputs.dtype)
        scalar = (taps["logits"] * torch.cos(classes)).sum()
    else:
        scalar = sum(tap.mean() for tap in taps.values())
    (gradient,) = torch.autograd.grad(scalar, images)
    outputs = {
        name: (tap.permute(0, 2, 3, 1) if tap.ndim == 4 else tap).detach().numpy()
        for name, tap in taps.items()
    }
    after = {name: value.numpy() for name, value in net.state_dict().items()}
    if train:
        before = {name: value.astype(x.dtype) for name, value in tensors.items()}
        after = with_biased_variances(before, after, counts)
    return {**outputs, "input gradient": gradient.numpy()}, after
