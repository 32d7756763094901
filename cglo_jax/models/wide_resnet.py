"""Wide residual networks WRN-depth-width (Zagoruyko & Komodakis, 2016) in their form for CIFAR.

The final classifier of CIFAR-100 (section 4.2): images float32 [B, H, W, C] in [-1, 1], NHWC -> logits
float32 [B, K] and maps [B, H, W, 16k], [B, H/2, W/2, 32k] and [B, H/4, W/4, 64k], rounded up.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cglo_jax.errors import UserError
from cglo_jax.models.layers import Conv1x1, Conv3x3, batch_norm

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class WideBlock(nn.Module):
    """BN-ReLU-conv, BN-ReLU-dropout-conv, added to the input (basic-wide, B(3, 3)).

    [B, H, W, C] -> [B, H/s, W/s, features], rounded up. Where the shape changes, the shortcut is a 1x1
    convolution of the activated input.
    """

    features: int
    stride: int
    dropout: float
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bn = (train, self.axis_name, self.dtype)
        conv = {"dtype": self.dtype, "kernel_init": _conv_init}
        y = nn.relu(batch_norm(*bn, "bn1")(x))
        shortcut = x
        if x.shape[-1] != self.features or self.stride != 1:
            # Slicing first is the strided 1x1 convolution, with a cheaper gradient.
            kept = y[:, :: self.stride, :: self.stride]
            shortcut = Conv1x1(self.features, name="shortcut", **conv)(kept)
        y = Conv3x3(self.features, self.stride, use_bias=False, name="conv1", **conv)(y)
        y = nn.relu(batch_norm(*bn, "bn2")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = Conv3x3(self.features, use_bias=False, name="conv2", **conv)(y)
        return y + shortcut


class WideResNet(nn.Module):
    """The final classifier at 32 px; WRN-28-10 has 36.5 M parameters.

    Attributes:
      num_classes: K, the number of logits.
      depth: Number of convolutions on the longest path, 6n + 4.
      width: Widening factor k: the groups have 16k, 32k and 64k channels.
      dropout: Rate of dropout between the convolutions of a block; with a rate above 0,
        training needs `rngs={'dropout': key}`.
      dtype: Compute type; parameters and logits are float32.
      axis_name: Mapped axis over which batch norm averages.
    """

    num_classes: int
    depth: int = 28
    width: int = 10
    dropout: float = 0.3
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
          x: Images float32 [B, H, W, C] in [-1, 1].
          train: Use batch statistics and dropout, else running statistics and no dropout.

        Returns:
          Logits [B, K] float32, and the maps after 'group1' to 'group3' with the
          'embedding' [B, 64 * width] float32, the mean of the activated last map.

        Raises:
          UserError: the depth is not 6n + 4.
        """
        blocks = _blocks_per_group(self.depth)
        x = Conv3x3(
            16, use_bias=False, dtype=self.dtype, kernel_init=_conv_init, name="conv1"
        )(x)
        features = {}
        for group in (1, 2, 3):
            for block in range(1, blocks + 1):
                x = WideBlock(
                    16 * self.width * 2 ** (group - 1),
                    stride=2 if group > 1 and block == 1 else 1,
                    dropout=self.dropout,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"group{group}_block{block}",
                )(x, train=train)
            features[f"group{group}"] = x
        x = nn.relu(batch_norm(train, self.axis_name, self.dtype, "bn")(x))
        features["embedding"] = x.mean((1, 2), dtype=jnp.float32)  # [B, 64 * width]
        logits = nn.Dense(self.num_classes, name="head")(features["embedding"])
        return logits, features


def _blocks_per_group(depth: int) -> int:
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise UserError(
            f"a wide ResNet cannot have depth {depth}: "
            "set it to 6n + 4, such as 10, 16, 22, 28 or 40"
        )
    return blocks
