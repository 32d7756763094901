"""Augmentation on the device: functions of one key and one image, and their batch form.

Images are float32 [H, W, C] in [-1, 1]; a key is a typed PRNG key. Every draw is a
function of the example's own key, so it does not depend on the batch around it.
"""

import jax
import jax.numpy as jnp


def random_crop(key: jax.Array, x: jax.Array, pad: int, fill: float = 0.0) -> jax.Array:
    """Pads an image by `pad` pixels on every side and crops a window of its own size.

    All (2 pad + 1)^2 windows are equally likely.

    Args:
      key: PRNG key.
      x: Image [H, W, C].
      pad: Pixels added on every side, and the largest shift.
      fill: Value of the added pixels; 0 is mid-grey, as in zero padding of
        normalised images.
    """
    padded = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), x.shape)


def random_crop_of_canvas(
    key: jax.Array, pixels: jax.Array, length: jax.Array, turned: jax.Array, side: int
) -> jax.Array:
    """Crops a square out of a whole image; all windows inside it are equally likely.

    Args:
      key: PRNG key.
      pixels: Of any type, [S, L, C], a row of `pixels.Canvas`.
      length: int [], pixels of the image along axis 1.
      turned: bool [], whether the image's rows lie along axis 1.
      side: Side of the crop, at most S.

    Returns:
      [side, side, C], upright.
    """
    key_top, key_left = jax.random.split(key)
    top = jax.random.randint(key_top, (), 0, pixels.shape[0] - side + 1)
    left = jax.random.randint(key_left, (), 0, length - side + 1)
    shape = (side, side, pixels.shape[2])
    x = jax.lax.dynamic_slice(pixels, (top, left, 0), shape)
    return jnp.where(turned, x.swapaxes(0, 1), x)


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors an image [H, W, C] left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def cutout(key: jax.Array, x: jax.Array, size: int) -> jax.Array:
    """Greys a square, as Cutout (DeVries & Taylor 2017).

    Its centre is any pixel, all equally likely, so near the border less of it lies inside.
    For an even size, the centre is the pixel below and to the right of the middle. DeVries & Taylor's
    code reduces an odd size by one; here the size is used as given.

    Args:
      key: PRNG key.
      x: Image [H, W, C] in [-1, 1].
      size: Side of the square in pixels.
    """
    top, left = jax.random.randint(key, (2,), 0, jnp.array(x.shape[:2])) - size // 2
    return _erase(x, top, left, size, size)


def random_erasing(key: jax.Array, x: jax.Array) -> jax.Array:
    """Greys a rectangle, as Random Erasing (Zhong et al. 2017); always, not with p = .5.

    As in the code of the paper, which calls torchvision's of 2020 without arguments: area
    uniform in [.02, .33] of the image, height / width uniform in [.3, 3.3] as in Zhong et
    al.'s code (torchvision has drawn its logarithm since 2021), position uniform, filled
    with 0, the mean after normalisation. Zhong et al. fill with random values in the text
    and with the mean in their code. Area and ratio are drawn again, up to ten times, if
    the rectangle is not smaller than the image both ways: 1 time in 38 at 8 px, in 120 at
    32 px. (Zhong et al. allow a hundred.)

    Args:
      key: PRNG key.
      x: Image [H, W, C] in [-1, 1]. Returned as it is if none of the ten fits.
    """
    height, width, _ = x.shape
    key_area, key_ratio, key_top, key_left = jax.random.split(key, 4)
    area = jax.random.uniform(key_area, (10,), minval=0.02, maxval=0.33)
    area = area * height * width
    ratio = jax.random.uniform(key_ratio, (10,), minval=0.3, maxval=3.3)
    tall = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    wide = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits)
    tall, wide = jnp.where(fits, jnp.stack([tall, wide]), 0)[:, first]
    top = jax.random.randint(key_top, (), 0, height - tall + 1)
    left = jax.random.randint(key_left, (), 0, width - wide + 1)
    return _erase(x, top, left, tall, wide)


def _erase(
    x: jax.Array,
    top: jax.Array,
    left: jax.Array,
    tall: jax.Array | int,
    wide: jax.Array | int,
) -> jax.Array:
    """Sets the part of a rectangle that lies inside the image to 0, mid-grey."""
    rows, columns = jnp.arange(x.shape[0]), jnp.arange(x.shape[1])
    rows = (rows >= top) & (rows < top + tall)
    columns = (columns >= left) & (columns < left + wide)
    return jnp.where(rows[:, None, None] & columns[None, :, None], 0, x)


def standard(
    keys: jax.Array, x: jax.Array, *, pad: int, flip: bool, pad_value: float = 0.0
) -> jax.Array:
    """Applies the standard augmentation: a random crop, then a random flip.

    Args:
      keys: One PRNG key per image, [B].
      x: Images [B, H, W, C] in [-1, 1].
      pad: Padding of the crop in pixels; 0 for no crop.
      flip: Whether to mirror half of the images.
      pad_value: Value of the padding.

    Returns:
      Images of the same shape and type.
    """

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        key_crop, key_flip = jax.random.split(key)
        if pad:
            image = random_crop(key_crop, image, pad, pad_value)
        return random_flip(key_flip, image) if flip else image

    return jax.vmap(one)(keys, x)
