"""Images of any size -> uint8 arrays of one size: scaled, cropped, stacked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cglo_jax.errors import UserError

_LONGEST = 2.0  # long side / short side; the ends of longer images are cut off


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
    """Scales the short side to `size` pixels; 0 leaves the image as it is."""
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


def cut_square(image: Image.Image, side: int) -> np.ndarray:
    """Returns the middle square, uint8 [side, side, C]; with side 0 the whole image, uint8 [H, W, C]."""
    return _to_array(crop_middle(image, side, side) if side else image)


def cut_whole(image: Image.Image) -> np.ndarray:
    """Returns the image, uint8 [H, W, C], without the ends beyond twice its short side."""
    longest = round(_LONGEST * min(image.size))
    width, height = (min(side, longest) for side in image.size)
    return _to_array(crop_middle(image, width, height))


def stack_squares(squares: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks n images, uint8 [H, W, C] each, to [n, H, W, C].

    Raises:
      UserError: the images are not squares of one size.
    """
    shapes = {square.shape[:2] for square in squares}
    odd = next((s for s in shapes if len(shapes) > 1 or s[0] != s[1]), None)
    if odd:
        raise UserError(
            f"images are not all squares of one size (one is {odd[1]}x{odd[0]}): "
            "set --config.dataset.size to the side you want"
        )
    return np.stack(squares) if squares else np.zeros((0, 0, 0, 0), np.uint8)


def stack_canvas(wholes: Sequence[np.ndarray]) -> Canvas:
    """Stacks n >= 1 images, uint8 [H, W, C] each, whose short sides are equal, to a `Canvas`."""
    turned = np.array([whole.shape[0] > whole.shape[1] for whole in wholes])
    heights, lengths = zip(*(sorted(whole.shape[:2]) for whole in wholes), strict=True)
    shape = (len(wholes), heights[0], max(lengths), wholes[0].shape[2])
    pixels = np.zeros(shape, np.uint8)
    for canvas, whole, length, turn in zip(
        pixels, wholes, lengths, turned, strict=True
    ):
        canvas[:, :length] = whole.swapaxes(0, 1) if turn else whole
    return Canvas(pixels, np.array(lengths, np.int32), turned)


def _to_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
