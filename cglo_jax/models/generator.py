"""The generator G([z, eps]) of cGLO (section 3): a DCGAN (Radford et al., 2016) from 4x4 or 7x7 pixels.

Codes float32 [B, d] and noise float32 [B, e] -> images float32 [B, S, S, C] in [-1, 1], NHWC.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cglo_jax.errors import UserError
from cglo_jax.models.layers import Conv3x3, ConvTranspose4x4, batch_norm

_dcgan_init = nn.initializers.normal(0.02)


def start_and_doublings(size: int) -> tuple[int, int]:
    """Splits an image side into (start, k), size = start * 2**k, start 4 or 7, k >= 1.

    Raises:
      UserError: the side has no start and k; the message names the nearest sides that have.
    """
    table = {start << k: (start, k) for start in (4, 7) for k in range(1, 12)}
    if size in table:
        return table[size]
    below = [str(s) for s in sorted(table) if s < size][-1:]
    above = [str(s) for s in sorted(table) if s > size][:1]
    raise UserError(
        f"image size {size} cannot be generated: it must be 4 or 7 doubled at least "
        f"once; set --config.dataset.size to {' or '.join(below + above)}"
    )


def stage_widths(doublings: int, width: int, max_width: int) -> list[int]:
    """Returns the channels of the `doublings` + 1 maps, smallest map first: `width` at full size."""
    return [min(width << (doublings - i), max_width) for i in range(doublings + 1)]


class Generator(nn.Module):
    """Maps codes and noise to images; at 32 px: 4x4x512, 256, 128, 64 -> channels.

    Attributes:
      size: Side of the images in pixels, see `start_and_doublings`.
      channels: Channels of the images.
      width: Channels of the last hidden map; each smaller map has twice as many.
      max_width: Limit to the channels of any map.
      noise: "concat": noise goes through a dense layer of its own and beside the codes; "additive":
        it is added to the codes (section 5.2); "none".
      noise_dim: Length of the noise that goes beside the codes.
      noise_std: Standard deviation of the noise.
      noise_gain: Gain of Xavier's normal initialisation of the noise's dense layer, which sets how
        strong the noise is beside the unit code when training starts: with noise_dim 100 and
        noise_std .15 its length after layer and activation is 1.07 times the gain.
      normalize_codes: Divide the codes by their length first, with additive noise the sums.
      dtype: Compute type; parameters and images are float32.
      axis_name: Mapped axis over which batch norm averages.
    """

    size: int
    channels: int = 3
    width: int = 64
    max_width: int = 512
    noise: str = "concat"
    noise_dim: int = 100
    noise_std: float = 0.15
    noise_gain: float = 2**0.5
    normalize_codes: bool = False
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, z: jax.Array, eps: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Generates images.

        Args:
          z: Codes [B, d], unit rows.
          eps: Noise [B, e], see `draw_noise`; None: without noise.
          train: Normalise by batch statistics, else by running statistics.

        Returns:
          Images [B, size, size, channels], float32 in [-1, 1].
        """
        start, doublings = start_and_doublings(self.size)
        widths = stage_widths(doublings, self.width, self.max_width)
        x = self._with_noise(z, eps)  # [B, d + noise_dim] or [B, d]
        x = nn.Dense(
            start * start * widths[0],
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_dcgan_init,
            name="dense",
        )(x)
        x = x.reshape(-1, start, start, widths[0])
        x = nn.relu(batch_norm(train, self.axis_name, self.dtype, "bn0")(x))
        for i, features in enumerate(widths[1:], 1):
            x = ConvTranspose4x4(
                features,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=_dcgan_init,
                name=f"up{i}",
            )(x)  # [B, start * 2**i, start * 2**i, features]
            x = nn.relu(batch_norm(train, self.axis_name, self.dtype, f"bn{i}")(x))
        x = Conv3x3(
            self.channels, dtype=self.dtype, kernel_init=_dcgan_init, name="to_image"
        )(x)
        return jnp.tanh(x.astype(jnp.float32))

    def noise_length(self, dim: int) -> int:
        """Returns e, the length of the noise that goes with codes in R^dim; 0 without noise."""
        return {"concat": self.noise_dim, "additive": dim, "none": 0}[self.noise]

    def draw_noise(self, keys: jax.Array, dim: int) -> jax.Array | None:
        """Draws eps ~ N(0, noise_std^2 I) for each image.

        Args:
          keys: Typed keys [B], one per image.
          dim: d, the length of the codes that the noise goes with.

        Returns:
          float32 [B, e], see `noise_length`; None if e is 0.
        """
        if not (length := self.noise_length(dim)):
            return None
        draw = jax.vmap(lambda key: jax.random.normal(key, (length,)))
        return self.noise_std * draw(keys)

    def _with_noise(self, z: jax.Array, eps: jax.Array | None) -> jax.Array:
        """Returns [z, eps], eps passed through a dense layer of its own, or z + eps (section 5.2).

        z + eps lies beside the sphere, in a ball around z, unless `normalize_codes` projects it.
        """
        project = _to_length_1 if self.normalize_codes else lambda z: z
        length = self.noise_length(z.shape[1])
        if eps is None or not length:
            return project(z)
        if eps.shape != (z.shape[0], length):
            raise ValueError(
                f"eps has shape {eps.shape}, expected {(z.shape[0], length)}"
            )
        if self.noise == "additive":
            return project(z + eps)
        z = project(z)
        init = nn.initializers.variance_scaling(self.noise_gain**2, "fan_avg", "normal")
        eps = nn.Dense(
            self.noise_dim, dtype=self.dtype, kernel_init=init, name="noise"
        )(eps)
        eps = nn.leaky_relu(eps, 0.2)
        return jnp.concatenate([z.astype(eps.dtype), eps], axis=1)


def _to_length_1(z: jax.Array) -> jax.Array:
    """Divides rows [B, d] by their lengths; rows of zeros stay.

    As in the authors' code, lengths are constants of the gradient, which keeps its radial part.
    """
    length = jnp.linalg.norm(jax.lax.stop_gradient(z), axis=1, keepdims=True)
    return z / jnp.where(length > 0, length, 1)
