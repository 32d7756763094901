"""Augmentation on the device: functions of one key and one image, and their batch form.

Images are float32 [H, W, C] in [-1, 1]; a key is a typed PRNG key. Every draw is a
function of the example's own key, so it does not depend on the batch around it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cglo_jax.data.dataset import to_float
from cglo_jax.training import draws


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
    return _erase(x, (top, top + size), (left, left + size))


def authors_cutout(key: jax.Array, x: jax.Array, size: int) -> jax.Array:
    """Cuts a rectangle out as the class `Cutout_` of the authors' code does, slip included.

    The square's upper left corner is drawn from -(size // 2) to side - size - 1 along either axis,
    and it is filled with the mean of all values of the image, whichever their channel, rounded down
    to a whole level. The slip: unless the square begins left of the image, its columns begin where
    its rows do, at the row's number, while they end where they should. So the rectangle is
    wider or narrower than `size`, and 30 % of images of 32 px (size 5) stay unchanged.

    Args:
      key: PRNG key.
      x: Image [H, W, C] in [-1, 1]; its levels are rounded for the mean.
      size: Height of the rectangle in pixels, below H and W.
    """
    below = jnp.array(x.shape[:2]) - size
    top, left = jax.random.randint(key, (2,), -(size // 2), below)
    levels = jnp.round((x + 1) * 127.5).astype(jnp.int32)
    mean = to_float(levels.sum() // levels.size)
    first = jnp.where(left < 0, 0, jnp.maximum(top, 0))
    return _erase(x, (top, top + size), (first, left + size), mean)


def random_erasing(
    key: jax.Array,
    x: jax.Array,
    probability: float = 1.0,
    fill: Sequence[float] = (0.0,),
) -> jax.Array:
    """Fills a rectangle, as Random Erasing (Zhong et al. 2017), by default always and with mid-grey.

    As in the code of the paper, which calls torchvision's of 2020 without arguments: area
    uniform in [.02, .33] of the image, height / width uniform in [.3, 3.3] as in Zhong et
    al.'s code (torchvision has drawn its logarithm since 2021), position uniform. Zhong et
    al. fill with random values in the text and with the mean colour in their code, as the code of
    the paper does, which fills with 0 after normalisation. Area and ratio are drawn again, up to
    ten times, if the rectangle is not smaller than the image both ways: 1 time in 38 at 8 px, in
    120 at 32 px. (Zhong et al. allow a hundred.)

    Args:
      key: PRNG key.
      x: Image [H, W, C] in [-1, 1]. Returned as it is if none of the ten fits.
      probability: Of erasing at all; Zhong et al. and torchvision have .5.
      fill: Colour in [-1, 1], one value or C.
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
    erased = _erase(x, (top, top + tall), (left, left + wide), jnp.asarray(fill))
    if probability == 1:
        return erased
    key_erase = jax.random.fold_in(key, draws.Erasing.WHETHER)
    return jnp.where(jax.random.bernoulli(key_erase, probability), erased, x)


def _erase(
    x: jax.Array,
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    fill: jax.Array | float = 0.0,
) -> jax.Array:
    """Fills what lies inside the image of a rectangle, from the first of `rows` to before the last."""
    inside = [
        (jnp.arange(side) >= first) & (jnp.arange(side) < end)
        for side, (first, end) in zip(x.shape[:2], (rows, columns), strict=True)
    ]
    return jnp.where(inside[0][:, None, None] & inside[1][None, :, None], fill, x)


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
