"""Bringing images of any size to one: scaled, cropped, stacked as uint8 arrays."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from cglo_jax.errors import UserError

_LONGEST = 2.0  # long side / short side; of longer images the ends are cut off


class Canvas(NamedTuple):
    """Whole images with equal short sides, to take random crops from.

    Attributes:
      pixels: uint8 [n, S, L, C], the long side along axis 2, zeros after its end.
      lengths: int32 [n], long sides in pixels, S <= length <= L.
      turned: bool [n], the image is upright: its rows lie along axis 2.
    """

    pixels: np.ndarray
    lengths: np.ndarray
    turned: np.ndarray


def scale(image: Image.Image, size: int) -> Image.Image:
    """Brings the short side to `size` pixels; 0 leaves the image as it is."""
    if not size or min(image.size) == size:
        return image
    factor = size / min(image.size)
    sides = [max(size, round(side * factor)) for side in image.size]
    return image.resize(sides, Image.Resampling.BICUBIC)


def crop_middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cuts out the middle, `width` x `height` pixels, of an image at least as large."""
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def stack_squares(
    chunks: Iterable[Sequence[Image.Image]], size: int, crop: int
) -> np.ndarray:
    """Scales the short sides to `size`, cuts out the middle `crop` (0: `size`) squares.

    With both 0 images stay as they are and must be squares of one size.

    Args:
      chunks: n images, some at a time, so that few are held as they were stored.

    Returns:
      uint8 [n, H, W, C].

    Raises:
      UserError: they are not.
    """
    side = crop or size

    def fit(image: Image.Image) -> np.ndarray:
        image = scale(image, size)
        image = crop_middle(image, side, side) if side else image
        array = np.asarray(image)
        return array[..., None] if array.ndim == 2 else array

    arrays = _map(fit, chunks)
    shapes = {array.shape[:2] for array in arrays}
    odd = next((s for s in shapes if len(shapes) > 1 or s[0] != s[1]), None)
    if odd:
        raise UserError(
            f"images are not all squares of one size (one is {odd[1]}x{odd[0]}): "
            "set --config.dataset.size to the side you want"
        )
    return np.stack(arrays) if arrays else np.zeros((0, 0, 0, 0), np.uint8)


def stack_canvas(chunks: Iterable[Sequence[Image.Image]], size: int) -> Canvas:
    """Scales the short sides to `size` and keeps the whole images, at most 2 x `size` long."""

    def fit(image: Image.Image) -> tuple[np.ndarray, bool]:
        image = scale(image, size)
        longest = round(_LONGEST * size)
        width, height = (min(side, longest) for side in image.size)
        array = np.asarray(crop_middle(image, width, height))
        array = array[..., None] if array.ndim == 2 else array
        turned = height > width
        return (array.swapaxes(0, 1) if turned else array), turned

    fitted = _map(fit, chunks)
    lengths = np.array([array.shape[1] for array, _ in fitted], np.int32)
    channels = fitted[0][0].shape[2]
    pixels = np.zeros((len(fitted), size, lengths.max(), channels), np.uint8)
    for canvas, (array, _) in zip(pixels, fitted, strict=True):
        canvas[:, : array.shape[1]] = array
    return Canvas(pixels, lengths, np.array([turned for _, turned in fitted]))


def _map(function: Callable, chunks: Iterable[Sequence[Image.Image]]) -> list:
    with ThreadPoolExecutor() as pool:  # Pillow resizes without Python's lock
        return [result for chunk in chunks for result in pool.map(function, chunk)]
