"""The weak classifier f_phi on the codes themselves (section 5.2, "Latent Classifier")."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class LatentClassifier(nn.Module):
    """Three dense layers with ReLU between them.

    Attributes:
      num_classes: K, the number of logits.
      width: Of both hidden layers; the paper does not say, d is taken.
      dtype: Compute type; parameters and logits are float32.
    """

    num_classes: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, z: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies codes.

        Args:
          z: Codes [B, d], unit rows.
          train: Unused; dense layers are the same in both modes.

        Returns:
          Logits [B, K] float32, and the outputs [B, width] of 'dense1' and 'dense2'
          after the ReLU, the last one float32 as 'embedding' too.
        """
        del train
        features, x = {}, z
        for name in ("dense1", "dense2"):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=name)(x))
            features[name] = x
        features["embedding"] = x.astype(jnp.float32)
        logits = nn.Dense(self.num_classes, name="head")(features["embedding"])
        return logits, features
