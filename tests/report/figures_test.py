"""Tests of report/figures.py: exact pixels and sizes, text inside the picture."""

import numpy as np
import pytest
from PIL import Image

from cglo_jax.report import figures


def make_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def find_tile(picture, tile):
    """Returns the (y, x) at which `tile` [h, w, 3] stands in `picture`, or None."""
    pixels = np.asarray(picture)
    height, width, _ = tile.shape
    for y, x in np.argwhere((pixels == tile[0, 0]).all(axis=-1)):
        if np.array_equal(pixels[y : y + height, x : x + width], tile):
            return int(y), int(x)
    return None


def enlarge(image, scale):
    rgb = np.repeat(image, 3 // image.shape[-1], axis=-1)
    return np.kron(rgb, np.ones((scale, scale, 1), np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_has_exact_pixels(channels):
    images = make_images(2, 3, 4, 5, channels)
    picture = figures.image_grid(images, scale=7)
    assert picture.mode == "RGB"
    assert picture.size == (2 + 3 * (5 * 7 + 2), 2 + 2 * (4 * 7 + 2))
    pixels = np.asarray(picture)
    for r in range(2):
        for c in range(3):
            y, x = 2 + r * 30, 2 + c * 37
            tile = pixels[y : y + 28, x : x + 35]
            np.testing.assert_array_equal(tile, enlarge(images[r, c], 7))
    assert (pixels[:, :2] == 255).all()  # gutters are white
    assert (pixels[30:32] == 255).all()


@pytest.mark.parametrize(
    ("side", "scale"), [(8, 8), (16, 4), (28, 3), (32, 2), (48, 2), (64, 1), (224, 1)]
)
def test_scale_makes_small_images_readable(side, scale):
    picture = figures.image_grid(make_images(1, 1, side, side, 3))
    assert picture.size == (side * scale + 4, side * scale + 4)


LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis of_the_north-west"


@pytest.mark.parametrize(
    "text", ["cat", LONG, "W" * 80, "Käfer été Жук", "a\nb\tc", ""]
)
@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("scale", [None, 1])
def test_text_is_never_cut_off(text, side, scale):
    images = np.full((2, 3, side, side, 1), 255, np.uint8)  # so only text is not white
    with_rows = figures.image_grid(images, row_labels=[text] * 2, scale=scale)
    with_columns = figures.image_grid(images, column_labels=[text] * 3, scale=scale)
    for picture in (with_rows, with_columns):
        pixels = np.asarray(picture)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == 255).all()
        assert (pixels < 255).any() == bool(text)


def test_labels_leave_the_images_alone():
    images = make_images(2, 2, 8, 8, 3)
    picture = figures.image_grid(images, [LONG, "b"], [LONG, "d"], scale=1)
    places = [find_tile(picture, images[r, c]) for r in range(2) for c in range(2)]
    assert None not in places
    (y0, x0), (y1, x1), (y2, x2), (y3, x3) = places
    assert y0 == y1 < y2 == y3
    assert x0 == x2 < x1 == x3


def test_whole_label_is_drawn():
    # All letters of a broken label are on its lines, in order.
    lines = figures.wrap(LONG, 60)
    assert "".join(lines).replace(" ", "") == LONG.replace(" ", "")
    assert all(figures._font(line).getlength(line) <= 60 for line in lines)


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_wrong_number_of_labels_raises(kind):
    labels = {"row_labels" if kind == "rows" else "column_labels": ["a", "b"]}
    with pytest.raises(ValueError):
        figures.image_grid(make_images(3, 3, 8, 8, 1), **labels)


@pytest.mark.parametrize(
    ("n", "in_rows"),
    [(1, [1]), (8, [8]), (9, [5, 4]), (10, [5, 5]), (16, [8, 8]), (20, [7, 7, 6])],
)
def test_reconstructions_stand_under_their_originals(n, in_rows):
    originals, reconstructions = (
        make_images(n, 8, 8, 1),
        make_images(n, 8, 8, 1, seed=1),
    )
    picture = figures.reconstruction_grid(originals, reconstructions, ["name"] * n)
    rows = []
    for i in range(n):
        y, x = find_tile(picture, enlarge(originals[i], 8))
        assert find_tile(picture, enlarge(reconstructions[i], 8)) == (y + 66, x)
        rows.append(y)
    assert [rows.count(y) for y in sorted(set(rows))] == in_rows
    assert picture.width < 800


def test_synthetic_images_stand_above_their_nearest():
    synthetic, nearest = make_images(3, 8, 8, 3), make_images(3, 8, 8, 3, seed=1)
    picture = figures.nearest_grid(synthetic, nearest, ["a", "b", "c"])
    for above, below in zip(synthetic, nearest, strict=True):
        y, x = find_tile(picture, enlarge(above, 8))
        assert find_tile(picture, enlarge(below, 8)) == (y + 66, x)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sprite_is_tiles_alone(channels):
    images = make_images(2, 3, 20, 30, channels)
    picture, tile = figures.sprite(images)
    assert tile == (60, 90)  # the longer side to 64 or more
    assert picture.size == (270, 120)
    for r, c in np.ndindex(2, 3):
        place = find_tile(picture, enlarge(images[r, c], 3))
        assert place == (60 * r, 90 * c)


def test_pictures_stand_side_by_side_as_long_as_there_is_room():
    tiles = [make_images(1, 1, 70, 90 + i, 3, seed=i)[0, 0] for i in range(3)]
    pictures = [Image.fromarray(tile) for tile in tiles]
    picture = figures.side_by_side(pictures, ["a", "b", "c"], width=90 + 24 + 91)
    (y0, x0), (y1, x1), (y2, x2) = (find_tile(picture, tile) for tile in tiles)
    assert (x0, x1, x2) == (0, 90 + 24, 0)
    assert y0 == y1 > 6  # under its title
    assert y2 == 2 * y0 + 70 + 24
    assert picture.size == (90 + 24 + 91, 2 * (y0 + 70) + 24)
    ink = (np.asarray(picture)[:y0] < 128).any(axis=(0, 2))
    assert ink[30:60].any() and ink[145:175].any()
    narrow = figures.side_by_side(pictures, ["a", "b", "c"], width=90 + 24 + 90)
    assert narrow.width == 92
    assert figures.side_by_side(pictures[:1], ["a"], width=50).width == 90


def test_interpolations_walk_along_a_row():
    images = make_images(2, 4, 16, 16, 3)
    picture = figures.interpolation_grid(images, [0.0, 1 / 3, 2 / 3, 1.0], ["a", "b"])
    places = np.array(
        [[find_tile(picture, enlarge(x, 4)) for x in row] for row in images]
    )
    assert (places[:, :, 0] == places[:, :1, 0]).all()
    assert (np.diff(places[:, :, 1], axis=1) == 66).all()


def test_tiny_image_stands_in_the_middle_of_its_label():
    image = make_images(1, 1, 8, 8, 3)
    picture = figures.image_grid(image, column_labels=["WWWWW"], scale=1)
    _, x = find_tile(picture, image[0, 0])
    ink = np.flatnonzero((np.asarray(picture)[:12] < 128).any(axis=(0, 2)))
    assert abs((x + 4) - (ink[0] + ink[-1] + 1) / 2) <= 1
