"""Tests of cglo_jax/data/pixels.py: scaling, cropping and stacking."""

import numpy as np
import pytest
from PIL import Image

from cglo_jax.data import pixels
from cglo_jax.errors import UserError


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def images(*shapes: tuple[int, ...]) -> list[Image.Image]:
    return [Image.fromarray(random_image(*shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("width", "height", "size", "resized", "box"),
    [
        (20, 10, 5, (10, 5), (2, 0, 7, 5)),
        (10, 20, 5, (5, 10), (0, 2, 5, 7)),
        (50, 33, 32, (48, 32), (8, 0, 40, 32)),
        (8, 8, 32, (32, 32), (0, 0, 32, 32)),
        (7, 9, 14, (14, 18), (0, 2, 14, 16)),
    ],
)
def test_squares_are_the_middle_of_the_scaled_image(width, height, size, resized, box):
    for shape in [(height, width), (height, width, 3)]:
        (image,) = images(shape)
        expected = np.asarray(image.resize(resized, Image.Resampling.BICUBIC).crop(box))
        square = pixels.cut_square(pixels.scale(image, size), size)
        assert square.shape == (size, size, 3 if len(shape) == 3 else 1)
        np.testing.assert_array_equal(square.reshape(expected.shape), expected)
        for crop in (size - 1, size - 2, 1):
            part = pixels.cut_square(pixels.scale(image, size), crop)
            left, top = (resized[0] - crop) // 2, (resized[1] - crop) // 2
            part_box = (left, top, left + crop, top + crop)
            whole = image.resize(resized, Image.Resampling.BICUBIC)
            expected = np.asarray(whole.crop(part_box))
            np.testing.assert_array_equal(part.reshape(expected.shape), expected)


def test_images_of_the_size_are_left_alone():
    (image,) = images((8, 8))
    assert pixels.scale(image, 8) is image
    assert pixels.scale(image, 0) is image
    assert pixels.crop_middle(image, 8, 8) is image


def test_squares_are_stacked():
    grey, colour = random_image(5, 6, 6), random_image(2, 6, 6, 3)
    for stack, expected in [(grey, grey[..., None]), (colour, colour)]:
        squares = [pixels.cut_square(Image.fromarray(x), 0) for x in stack]
        np.testing.assert_array_equal(pixels.stack_squares(squares), expected)
    assert pixels.stack_squares([]).shape == (0, 0, 0, 0)


@pytest.mark.parametrize("sizes", [[(6, 6), (6, 7)], [(6, 6), (7, 7)], [(7, 6)]])
def test_stack_of_several_sizes(sizes):
    squares = [pixels.cut_square(image, 0) for image in images(*sizes)]
    with pytest.raises(UserError) as error:
        pixels.stack_squares(squares)
    named = [f"(one is {width}x{height})" for height, width in sizes]
    assert any(text in str(error.value) for text in named)
    assert str(error.value).startswith(
        "images are not all squares of one size (one is "
    )
    assert str(error.value).endswith(": set --config.dataset.size to the side you want")


def test_canvas_holds_whole_images_with_upright_ones_turned():
    wide, high, square, long = images((4, 7, 3), (6, 4, 3), (4, 4, 3), (4, 30, 3))
    wholes = [pixels.cut_whole(image) for image in (wide, high, square, long)]
    canvas = pixels.stack_canvas(wholes)
    assert canvas.pixels.shape == (4, 4, 8, 3)
    np.testing.assert_array_equal(canvas.lengths, [7, 6, 4, 8])
    np.testing.assert_array_equal(canvas.turned, [False, True, False, False])
    np.testing.assert_array_equal(canvas.pixels[0, :, :7], np.asarray(wide))
    upright = np.asarray(high).transpose(1, 0, 2)
    np.testing.assert_array_equal(canvas.pixels[1, :, :6], upright)
    np.testing.assert_array_equal(canvas.pixels[2, :, :4], np.asarray(square))
    middle = np.asarray(long)[:, 11:19]  # twice as long as it is high
    np.testing.assert_array_equal(canvas.pixels[3], middle)
    for row, length in zip(canvas.pixels, canvas.lengths, strict=True):
        assert not row[:, length:].any()


def test_canvas_is_scaled():
    (image,) = images((33, 50))
    canvas = pixels.stack_canvas([pixels.cut_whole(pixels.scale(image, 16))])
    expected = np.asarray(image.resize((24, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(canvas.pixels[0, ..., 0], expected)
