"""The convolutions of VGG-16 (Simonyan & Zisserman, 2015), for the perceptual loss, eq. (1).

Images float32 [B, H, W, 3] in [-1, 1], NHWC -> features [B, H, W, 64] (conv1_2) to
[B, H/16, W/16, 512] (conv5_3) and [B, H/32, W/32, 512] (pool5), sides rounded down but at least 1.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cglo_jax.models.layers import Conv3x3, max_pool_2x2

# torchvision's `vgg16().features`; '3_2' is the second convolution of block 3.
BLOCK_WIDTHS = {1: (64, 64), 2: (128, 128), 3: (256,) * 3, 4: (512,) * 3, 5: (512,) * 3}
LAYERS = tuple(
    name
    for block, widths in BLOCK_WIDTHS.items()
    for name in (*(f"conv{block}_{i + 1}" for i in range(len(widths))), f"pool{block}")
)
BEFORE_RELU = "_pre"  # ends the name of a convolution's output before its ReLU
# The paper's five.
TAPS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2")

# Per channel (RGB) of ImageNet's images in [0, 1]; torchvision's weights expect this normalisation.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

_vgg_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def to_rgb(x: jax.Array) -> jax.Array:
    """Repeats the channel of grey images: [B, H, W, 1 or 3] -> [B, H, W, 3].

    Raises:
      ValueError: the images have another number of channels.
    """
    if x.shape[-1] == 3:
        return x
    if x.shape[-1] != 1:
        raise ValueError(f"images have shape {x.shape}, expected 1 or 3 channels")
    return jnp.repeat(x, 3, axis=-1)


def normalize_imagenet(x: jax.Array) -> jax.Array:
    """Normalises RGB images [B, H, W, 3] in [-1, 1] to zero mean and unit std per channel over ImageNet."""
    scale = 0.5 / IMAGENET_STD
    offset = (0.5 - IMAGENET_MEAN) / IMAGENET_STD
    return x * scale[None, None, None] + offset[None, None, None]


def layers_until(taps: Sequence[str]) -> tuple[str, ...]:
    """Returns the convolutions and poolings that `taps` need, from the first to the deepest tap."""
    ends = [LAYERS.index(tap.removesuffix(BEFORE_RELU)) + 1 for tap in taps]
    return LAYERS[: max(ends, default=0)]


class VGG16(nn.Module):
    """VGG-16 without batch norm, from the image to its deepest tap.

    Parameters are named 'conv1_1' to at most 'conv5_3'. Freeze them by not differentiating
    with respect to them.

    Attributes:
      normalize: Whether ImageNet's normalisation is applied first.
      dtype: Compute type, and type of the features; parameters are float32.
      taps: Features to return, of `LAYERS`: 'conv3_2' after its ReLU, 'conv3_2_pre' before it,
        'pool3' after the pooling.
    """

    normalize: bool = True
    dtype: DTypeLike = jnp.float32
    taps: tuple[str, ...] = TAPS

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the perceptual features.

        Args:
          x: Images float32 [B, H, W, 3] in [-1, 1] (see `to_rgb`). At 16 px and below the maps of
            the last blocks are a single pixel: pooling stops at a side of 1.
          train: Unused; VGG-16's convolutions are the same in both modes.

        Returns:
          The output of the last layer that is needed, and the features by name, in the order of
          the network.

        Raises:
          ValueError: the images do not have three channels.
        """
        del train
        if x.shape[-1] != 3:
            raise ValueError(f"images have shape {x.shape}, expected 3 channels")
        if self.normalize:
            x = normalize_imagenet(x)
        features = {}
        for name in layers_until(self.taps):
            block = int(name[4])
            if name.startswith("conv"):
                width = BLOCK_WIDTHS[block][int(name[6]) - 1]
                layer = Conv3x3(
                    width, dtype=self.dtype, kernel_init=_vgg_init, name=name
                )
                features[name + BEFORE_RELU] = x = layer(x)
                x = nn.relu(x)
            elif min(x.shape[1:3]) >= 2:
                x = max_pool_2x2(x)
            features[name] = x
        return x, {name: f for name, f in features.items() if name in self.taps}
