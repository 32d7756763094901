"""The weak classifier f_phi, whose loss draws the codes of one class together (section 3).

`WeakClassifier`: images float32 [B, H, W, C] in [-1, 1], NHWC -> logits float32 [B, K].
`LatentClassifier`: codes float32 [B, d] -> logits float32 [B, K] (section 5.2, "Latent Classifier").
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cglo_jax.models.layers import Conv3x3, batch_norm, max_pool_2x2

_BLOCKS = 4
_LARGEST_FLAT_SIDE = 4  # Larger last maps are averaged: 224 px would flatten to 12,544.


def drop_out(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Sets values to 0 with probability `rate` and divides the others by 1 - rate.

    Args:
      x: Float [B, ...].
      keys: Typed keys [B]: what an image loses does not depend on its batch. None: nothing.

    Returns:
      x with those values dropped, of its shape and type.
    """
    if keys is None or not rate:
        return x

    def keep(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep)(keys), x / (1 - rate), 0)


class WeakClassifier(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then a dense layer.

    The authors activate after pooling: as the activation never falls, that gives the same values.

    Attributes:
      num_classes: K, the number of logits.
      width: Channels of every block.
      dropout: Rate of dropout before the dense layer, see `drop_out`.
      dtype: Compute type; parameters and logits are float32.
      axis_name: Mapped axis over which batch norm averages.
      negative_slope: Slope of the activation below 0, from 0 (ReLU) to 1 (the identity).
    """

    num_classes: int
    width: int = 64
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    negative_slope: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
          x: Images float32 [B, H, W, C] in [-1, 1] of any size; pooling stops at a side of 1.
          train: Normalise by batch statistics, else by running statistics.
          keys: Typed keys [B] of dropout; None: no dropout.

        Returns:
          Logits [B, K] float32, and the maps after 'block1' to 'block4' and the
          'embedding' [B, F] float32: the last map flattened (F = 256 at 32 px), or
          its mean over positions (F = width) when it is larger than 4x4.
        """
        features = {}
        for i in range(1, _BLOCKS + 1):
            # A bias would be undone by the batch norm that follows.
            x = Conv3x3(self.width, use_bias=False, dtype=self.dtype, name=f"conv{i}")(
                x
            )
            x = batch_norm(train, self.axis_name, self.dtype, f"bn{i}")(x)
            # Not leaky_relu of slope 0, which is -0 below 0, with another gradient at 0.
            slope = self.negative_slope
            x = nn.leaky_relu(x, slope) if slope else nn.relu(x)
            if min(x.shape[1:3]) >= 2:
                x = max_pool_2x2(x)
            features[f"block{i}"] = x
        x = x.astype(jnp.float32)
        if max(x.shape[1:3]) > _LARGEST_FLAT_SIDE:
            x = x.mean((1, 2))
        features["embedding"] = x.reshape(len(x), -1)  # [B, F]
        x = drop_out(features["embedding"], self.dropout, keys)
        logits = nn.Dense(self.num_classes, name="head")(x)
        return logits, features


class LatentClassifier(nn.Module):
    """Classifies codes by three dense layers with ReLU between them.

    Attributes:
      num_classes: K, the number of logits.
      width: Of both hidden layers; the paper does not give it, we take d.
      dropout: Rate of dropout before the last dense layer, see `drop_out`.
      dtype: Compute type; parameters and logits are float32.
    """

    num_classes: int
    width: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, z: jax.Array, *, train: bool, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies codes.

        Args:
          z: Codes float32 [B, d], unit rows.
          train: Unused; dense layers are the same in both modes.
          keys: Typed keys [B] of dropout; None: no dropout.

        Returns:
          Logits [B, K] float32, and the outputs [B, width] of 'dense1' and 'dense2'
          after the ReLU; 'embedding' is the output of 'dense2' in float32.
        """
        del train
        features, x = {}, z
        for name in ("dense1", "dense2"):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=name)(x))
            features[name] = x
        features["embedding"] = x.astype(jnp.float32)
        x = drop_out(features["embedding"], self.dropout, keys)
        logits = nn.Dense(self.num_classes, name="head")(x)
        return logits, features
