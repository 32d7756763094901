"""Tests of cglo_jax/data/near_copies.py: photographs where there are any, and what is made up."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance
from sklearn.datasets import load_digits

from cglo_jax.data import near_copies

SHARED = os.environ.get("CGLO_SHARED")


def noise(seed: int, side: int = 80) -> Image.Image:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 170, 3)
    pixels = rng.integers(0, 80, (side, side, 3)) + base
    return Image.fromarray(pixels.astype(np.uint8))


def scene(seed: int) -> Image.Image:
    """Some soft blobs of colour, as a photograph has them."""
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(few).resize((240, 180), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    left, top = round(width * share), round(height * share)
    return image.crop((left, top, width - left, height - top))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved": lambda image: jpeg(image, 30),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squashed": lambda image: image.resize((128, 128)),
    "cropped": lambda image: crop(image, 0.03),
    "one side cropped": lambda image: image.crop(
        (0, 0, image.width, image.height - 12)
    ),
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darkened": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "all of it": lambda image: jpeg(
        ImageEnhance.Brightness(crop(image, 0.02)).enhance(1.1).resize((150, 110)), 50
    ),
}


def find(images: list[Image.Image]) -> list[list[int]] | None:
    pairs = near_copies.find_pairs([near_copies.describe(image) for image in images])
    return None if pairs is None else pairs.tolist()


@pytest.mark.parametrize("name", CHANGES)
def test_changed_images_are_found_and_others_are_not(name):
    images = [scene(i) for i in range(40)]
    copies = [CHANGES[name](image) for image in images[:20]]
    assert find(images + copies) == [[i, 40 + i] for i in range(20)]


@pytest.mark.parametrize("side", [60, 40, 100])
def test_noise_that_is_resized_is_found(side):
    images = [noise(i) for i in range(12)]
    copies = [image.resize((side, side)) for image in images]
    assert find(images + copies) == [[i, 12 + i] for i in range(12)]


def test_different_colours_are_no_copies():
    grey = [np.asarray(scene(i).convert("L")) for i in range(3)]
    red = [Image.fromarray(np.dstack([g, g // 3, g // 3])) for g in grey]
    blue = [Image.fromarray(np.dstack([g // 3, g // 3, g])) for g in grey]
    assert find(red + blue) == []


@pytest.mark.parametrize("side", [8, 28, 64])
def test_digits_do_not_collapse(side):
    images = [
        Image.fromarray(np.uint8(digit * 15)).convert("RGB").resize((side, side))
        for digit in load_digits().images
    ]
    assert not find(images)


def test_icons_on_white_do_not_collapse():
    rng, images = np.random.default_rng(0), []
    for i in range(300):
        image = Image.new("RGB", (64, 64), "white")
        x, y, size = (*rng.integers(6, 26, 2).tolist(), int(rng.integers(18, 34)))
        colour, draw = tuple(rng.integers(0, 200, 3).tolist()), ImageDraw.Draw(image)
        shape = [draw.ellipse, draw.rectangle][i % 2]
        shape((x, y, x + size, y + size), fill=colour)
        images.append(image)
    pairs = np.array(find(images) or []).reshape(-1, 2)
    sizes = np.bincount(list(near_copies.group(pairs).values()))
    assert sizes.max(initial=0) <= 30 and sizes.sum() < 150


def test_plain_and_tiny_images_are_like_no_other():
    plain = [Image.new("RGB", (64, 64), (i, i, i)) for i in range(0, 250, 10)]
    tiny = [scene(0).resize((15, 20))] * 3
    assert find(plain + tiny) == []
    assert find([]) == [] and find([scene(0)]) == []
    assert find([scene(0)] * 3) == [[0, 1], [0, 2], [1, 2]]


def test_groups():
    pairs = np.array([[1, 4], [4, 6], [2, 3], [0, 6], [8, 9]])
    expected = {0: 0, 1: 0, 4: 0, 6: 0, 2: 2, 3: 2, 8: 8, 9: 8}
    assert near_copies.group(pairs) == expected
    assert near_copies.group(np.zeros((0, 2), int)) == {}


@pytest.mark.skipif(not SHARED, reason="photographs are not here")
def test_photographs():
    """The 70 pairs were looked at: each shows one photograph twice, at another size or crop."""
    files = sorted(Path(SHARED, "data/flowers17").glob("*/*.jpg"))
    images = [Image.open(file).convert("RGB") for file in files]
    looks = [near_copies.describe(image) for image in images]
    known = near_copies.find_pairs(looks)
    assert (len(files), len(known)) == (1360, 70)
    for change in (
        lambda i: jpeg(i, 10),
        lambda i: crop(i, 0.05),
        CHANGES["all of it"],
    ):
        chosen = range(7, 1360, 34)
        copies = [near_copies.describe(change(images[i])) for i in chosen]
        pairs = near_copies.find_pairs(looks + copies).tolist()
        found = [[i, 1360 + k] in pairs for k, i in enumerate(chosen)]
        assert sum(found) >= 39 and len(found) == 40
