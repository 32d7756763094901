"""Tests of cglo_jax/data/sources.py: identity and order of images. Digits are tested by dataset_test.py."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from cglo_jax.data import sources
from tests.helpers.tiny import hash_pixels


def test_ids_of_identical_images_differ():
    assert sources.make_unique(["p", "q", "p", "p"]) == ["p", "q", "p-2", "p-3"]


def test_rank_is_by_the_digest_of_seed_purpose_and_id():
    ids = [f"{i:02x}" for i in range(30)]
    order = sources.rank_ids(ids, 3, "test")
    digests = [hashlib.sha256(f"3/test/{ids[i]}".encode()).hexdigest() for i in order]
    assert digests == sorted(digests)
    assert sorted(order) == list(range(30))
    assert list(order) != list(sources.rank_ids(ids, 4, "test"))
    assert list(order) != list(sources.rank_ids(ids, 3, "labelled"))


def test_draw_is_the_digest_as_a_fraction():
    ids = [f"{i:02x}" for i in range(1000)]
    numbers = [sources.draw(i, 3, "test") for i in ids]
    for i, number in zip(ids, numbers, strict=True):
        digits = hashlib.sha256(f"3/test/{i}".encode()).hexdigest()
        assert number == pytest.approx(int(digits[:10], 16) / 16**10, abs=1e-11)
    order = sources.rank_ids(ids, 3, "test")
    assert [numbers[i] for i in order] == sorted(numbers)


def test_hash_is_of_shape_and_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    by_hand = hashlib.sha256(b"(3, 4)" + bytes(range(12))).hexdigest()[:32]
    assert sources.hash_pixels(image) == by_hand
    assert sources.hash_pixels(image.T.copy()) != by_hand
    assert sources.hash_pixels(image.reshape(4, 3)) != by_hand


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3), (1, 5, 3), (5, 1)])
def test_a_whole_image_has_the_hash_of_its_pixels(monkeypatch, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(pixels)
    assert sources.hash_image(image) == hash_pixels(pixels)
    monkeypatch.setattr(sources, "_BAND", 20)
    assert sources.hash_image(image) == hash_pixels(pixels)
