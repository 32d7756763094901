"""ResNet-50 and ResNet-18 (He et al., 2016) in torchvision's form.

That is v1.5: the 3x3 convolutions have the strides.

ResNet-50 is the final classifier of CUB-200-2011 (section 4.2); codes can start from the activations
of both (section 5.2). Images float32 [B, H, W, 1 or 3] in [-1, 1], NHWC -> logits float32 [B, K] and
maps [B, H/4, W/4, C] to [B, H/32, W/32, 8 C], C = 256 (ResNet-50) or 64 (ResNet-18).
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cglo_jax.models.layers import Conv1x1, Conv3x3, batch_norm, max_pool_3x3
from cglo_jax.models.vgg import normalize_imagenet, to_rgb

BLOCKS = (3, 4, 6, 3)  # bottlenecks in layer1 to layer4 of a ResNet-50
BLOCKS_18 = (2, 2, 2, 2)  # basic blocks there of a ResNet-18
_EXPANSION = 4  # a bottleneck's output has this many times its width

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for a dense layer, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
_head_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Bottleneck(nn.Module):
    """1x1 to `width` channels, 3x3 (strided), 1x1 to 4 * width, added to the input.

    [B, H, W, C] -> [B, H/s, W/s, 4 * width], rounded up. Batch norm follows every convolution, ReLU all
    but the last; the sum is activated. Where the shape changes, the shortcut is a 1x1 convolution with
    batch norm.
    """

    width: int
    stride: int
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bn = (train, self.axis_name, self.dtype)
        conv = {"dtype": self.dtype, "kernel_init": _conv_init}
        features = _EXPANSION * self.width
        y = Conv1x1(self.width, name="conv1", **conv)(x)
        y = nn.relu(batch_norm(*bn, "bn1")(y))
        y = Conv3x3(self.width, self.stride, use_bias=False, name="conv2", **conv)(y)
        y = nn.relu(batch_norm(*bn, "bn2")(y))
        y = Conv1x1(features, name="conv3", **conv)(y)
        y = batch_norm(*bn, "bn3")(y)
        return nn.relu(y + _shortcut(x, features, self.stride, bn, conv))


class BasicBlock(nn.Module):
    """3x3 (strided) and 3x3 to `width` channels, added to the input.

    [B, H, W, C] -> [B, H/s, W/s, width], rounded up; otherwise as `Bottleneck`.
    """

    width: int
    stride: int
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bn = (train, self.axis_name, self.dtype)
        conv = {"dtype": self.dtype, "kernel_init": _conv_init}
        y = Conv3x3(self.width, self.stride, use_bias=False, name="conv1", **conv)(x)
        y = nn.relu(batch_norm(*bn, "bn1")(y))
        y = Conv3x3(self.width, use_bias=False, name="conv2", **conv)(y)
        y = batch_norm(*bn, "bn2")(y)
        return nn.relu(y + _shortcut(x, self.width, self.stride, bn, conv))


def _shortcut(
    x: jax.Array, features: int, stride: int, bn: tuple, conv: dict
) -> jax.Array:
    """Brings a block's input [B, H, W, C] to its output's shape, in the block's scope."""
    if x.shape[-1] == features and stride == 1:
        return x
    # Slicing first is the strided 1x1 convolution, with a cheaper gradient.
    x = x[:, ::stride, ::stride]
    x = Conv1x1(features, name="downsample_conv", **conv)(x)
    return batch_norm(*bn, "downsample_bn")(x)


class _ResNet(nn.Module):
    """What both networks share; blocks are named 'layer1_0', ..., the layers in them as torchvision's.

    Attributes:
      num_classes: K, the number of logits.
      normalize: Whether ImageNet's normalisation is applied first.
      dtype: Compute type, and type of the maps; parameters and logits are float32.
      axis_name: Mapped axis over which batch norm averages.
    """

    num_classes: int
    normalize: bool = True
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    block: ClassVar[type[Bottleneck] | type[BasicBlock]]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of blocks in layer1 to layer4."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
          x: Images float32 [B, H, W, 1 or 3] in [-1, 1]; a single channel is repeated.
          train: Normalise by batch statistics, else by running statistics.

        Returns:
          Logits [B, K] float32, and the maps after 'layer1' to 'layer4', of sides H/4 to
          H/32 rounded up, with the 'embedding' [B, F] float32, the last one's mean; F is 2048
          of a ResNet-50 and 512 of a ResNet-18.

        Raises:
          ValueError: the images have neither one nor three channels.
        """
        x = to_rgb(x)
        if self.normalize:
            x = normalize_imagenet(x)
        x = nn.Conv(
            64,
            (7, 7),
            (2, 2),
            padding=3,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_conv_init,
            name="conv1",
        )(x)
        x = nn.relu(batch_norm(train, self.axis_name, self.dtype, "bn1")(x))
        x = max_pool_3x3(x)
        features = {}
        for layer, blocks in enumerate(self.blocks, 1):
            for block in range(blocks):
                x = self.block(
                    64 * 2 ** (layer - 1),
                    stride=2 if layer > 1 and block == 0 else 1,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"layer{layer}_{block}",
                )(x, train=train)
            features[f"layer{layer}"] = x
        features["embedding"] = x.mean((1, 2), dtype=jnp.float32)  # [B, F]
        head = nn.Dense(self.num_classes, kernel_init=_head_init, name="head")
        return head(features["embedding"]), features


class ResNet50(_ResNet):
    """The final classifier at 224 px; 25.6 M parameters with 1000 classes."""

    block = Bottleneck

    @property
    def blocks(self) -> tuple[int, ...]:
        """3, 4, 6 and 3 bottlenecks."""
        return BLOCKS


class ResNet18(_ResNet):
    """The network of which the authors take codes; 11.7 M parameters with 1000 classes."""

    block = BasicBlock

    @property
    def blocks(self) -> tuple[int, ...]:
        """2, 2, 2 and 2 basic blocks."""
        return BLOCKS_18
