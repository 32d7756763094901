"""Tests of cglo_jax/data/colours.py and what data/decode.py makes of it: backgrounds, bits, profiles."""

import struct
import sys
import threading
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from cglo_jax.data import colours, decode
from cglo_jax.data.colours import Conversion
from tests.data.decode_test import deep_png, encode
from tests.helpers import icc

MANAGED = Conversion(profiles=True)
RNG = np.random.default_rng(5)
RGB = RNG.integers(60, 200, (8, 12, 3), np.uint8)
GREY = RNG.integers(0, 256, (8, 12), np.uint8)


def read(path: Path, conversion: Conversion = MANAGED) -> decode.Decoded:
    (found,) = decode.decode_each([path], lambda decoded: decoded, "", conversion)
    assert isinstance(found, decode.Decoded), found
    return found


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Colour profiles


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_adobe_rgb_becomes_srgb(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(RGB, kind, icc_profile=icc.rgb_profile(), **options)
    decoded = read(put(tmp_path / "x", content))
    expected = icc.to_srgb(RGB, icc.ADOBE, icc.ADOBE_GAMMA)
    np.testing.assert_allclose(np.asarray(decoded.image), expected, rtol=0, atol=2)
    assert np.abs(expected - RGB).max() > 10  # it matters
    assert (decoded.profile, decoded.mark) == ("converted", "sRGB")
    assert decoded.file_hash  # littlecms rounds as its version does
    unmanaged = read(tmp_path / "x", Conversion())
    np.testing.assert_array_equal(unmanaged.image, RGB)
    assert (unmanaged.profile, unmanaged.mark) == ("", "")


def test_srgb_profile_changes_nothing(tmp_path):
    content = encode(RGB, "PNG", icc_profile=icc.srgb_profile())
    decoded = read(put(tmp_path / "x.png", content))
    np.testing.assert_array_equal(decoded.image, RGB)
    assert decoded[1:] == read(put(tmp_path / "y.png", encode(RGB, "PNG")))[1:]


def test_profile_of_an_image_with_transparency(tmp_path):
    alpha = np.full((8, 12), 255, np.uint8)
    alpha[:2] = 0
    content = encode(np.dstack([RGB, alpha]), "PNG", icc_profile=icc.rgb_profile())
    pixels = np.asarray(read(put(tmp_path / "x.png", content)).image)
    expected = icc.to_srgb(RGB, icc.ADOBE, icc.ADOBE_GAMMA)
    assert (pixels[:2] == 255).all()
    np.testing.assert_allclose(pixels[2:], expected[2:], rtol=0, atol=2)


def test_profile_of_a_palette(tmp_path):
    image = Image.fromarray(RGB).quantize(20)
    plain = np.asarray(image.convert("RGB"))
    content = encode(image, "PNG", icc_profile=icc.rgb_profile())
    pixels = np.asarray(read(put(tmp_path / "x.png", content)).image)
    expected = icc.to_srgb(plain, icc.ADOBE, icc.ADOBE_GAMMA)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=2)


@pytest.mark.parametrize("of_colours", [False, True])
def test_profile_of_grey(tmp_path, of_colours):
    profile = icc.rgb_profile(icc.SRGB, 1.8) if of_colours else icc.grey_profile(1.8)
    content = encode(GREY, "PNG", icc_profile=profile)
    decoded = read(put(tmp_path / "x.png", content))
    as_rgb = np.repeat(GREY[..., None], 3, 2)
    expected = icc.to_srgb(as_rgb, icc.SRGB, 1.8)
    np.testing.assert_allclose(np.asarray(decoded.image), expected, rtol=0, atol=2)
    assert decoded.grey and decoded.profile == "converted"


def test_profile_of_cmyk(tmp_path):
    # Red ink is sRGB's red here, L*a*b* 54, 81, 70 (D50); paper is white.
    lab = {(0, 0, 0, 0): (100, 0, 0), (0, 1, 1, 0): (54, 81, 70)}
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.paste((0, 0, 0, 0), (0, 0, 16, 8))
    content = encode(image, "TIFF", icc_profile=icc.cmyk_profile(lab))
    decoded = read(put(tmp_path / "x.tif", content))
    pixels = np.asarray(decoded.image).astype(int)
    assert decoded.profile == "converted"
    assert (pixels[:8] >= 253).all()
    np.testing.assert_allclose(
        pixels[8:], np.broadcast_to([255, 0, 0], (8, 16, 3)), atol=12
    )


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        icc.rgb_profile()[:200],
        icc.grey_profile(1.8),
        icc.cmyk_profile({}),
    ],
    ids=["noise", "cut off", "of grey", "of ink"],
)
def test_profile_that_cannot_be_used(tmp_path, profile):
    content = encode(RGB, "PNG", icc_profile=profile)
    decoded = read(put(tmp_path / "x.png", content))
    np.testing.assert_array_equal(decoded.image, RGB)
    assert (decoded.profile, decoded.mark, decoded.file_hash) == ("unusable", "", "")


def test_without_littlecms_profiles_are_not_used(tmp_path, monkeypatch):
    colours.read_profile.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
    monkeypatch.delattr(PIL, "ImageCms", raising=False)
    content = encode(RGB, "PNG", icc_profile=icc.rgb_profile())
    decoded = read(put(tmp_path / "x.png", content))
    colours.read_profile.cache_clear()
    np.testing.assert_array_equal(decoded.image, RGB)
    assert decoded.profile == "unusable"


def test_profiles_are_read_once_and_shared_by_threads(tmp_path):
    colours.read_profile.cache_clear()
    threads, paths = set(), []
    for i in range(40):
        big = np.random.default_rng(i).integers(60, 200, (90, 90, 3), np.uint8)
        path = tmp_path / f"{i}.png"
        paths.append(put(path, encode(big, "PNG", icc_profile=icc.rgb_profile())))

    def use(decoded: decode.Decoded) -> bytes:
        threads.add(threading.get_ident())
        return decoded.image.tobytes()

    together = decode.decode_each(paths, use, "", MANAGED)
    alone = [decode.decode_each([path], use, "", MANAGED)[0] for path in paths]
    assert together == alone and len(threads) > 1
    assert colours.read_profile.cache_info().misses <= decode.THREADS


# More than 8 bits


def deep_tiff(pixels: np.ndarray, order: str) -> bytes:
    """uint16 [H, W, 3] -> a TIFF without compression."""
    height, width = pixels.shape[:2]
    data = pixels.astype(order + "u2").tobytes()
    long, short = 4, 3
    entries = [
        (256, long, width),
        (257, long, height),
        (259, short, 1),
        (262, short, 2),
    ]
    entries += [
        (273, long, 8),
        (277, short, 3),
        (278, long, height),
        (279, long, len(data)),
    ]
    after = 8 + len(data) + 2 + 12 * (len(entries) + 1) + 4
    directory = struct.pack(order + "H", len(entries) + 1)
    for tag, kind, value in entries[:2]:
        directory += struct.pack(order + "HHII", tag, kind, 1, value)
    directory += struct.pack(order + "HHII", 258, short, 3, after)
    for tag, kind, value in entries[2:]:
        packed = struct.pack(
            order + ("I" if kind == long else "HH"),
            *([value] if kind == long else [value, 0]),
        )
        directory += struct.pack(order + "HHI", tag, kind, 1) + packed
    mark = {"<": b"II", ">": b"MM"}[order]
    head = mark + struct.pack(order + "HI", 42, 8 + len(data))
    return head + data + directory + bytes(4) + struct.pack(order + "3H", 16, 16, 16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "<tif", ">tif", "grey png", "grey tif"])
def test_values_of_16_bits_are_scaled_by_those_that_are_used(tmp_path, kind, bits):
    values = RNG.integers(0, 1 << bits, (9, 14, 3)).astype(np.uint16)
    values[0, 0] = (1 << bits) - 1
    if kind.startswith("grey"):
        content = encode(values[..., 0], {"png": "PNG", "tif": "TIFF"}[kind[5:]])
        values = np.repeat(values[..., :1], 3, 2)
    else:
        content = deep_png(values) if kind == "png" else deep_tiff(values, kind[0])
    decoded = read(put(tmp_path / "x", content), Conversion(bits=bits))
    largest = (1 << bits) - 1
    expected = np.round(values * (255 / largest))
    tolerance = 1 if bits == 16 else 0  # Pillow drops the low bytes of colours
    np.testing.assert_allclose(
        np.asarray(decoded.image), expected, rtol=0, atol=tolerance
    )
    assert decoded.largest == largest
    assert colours.choose_bits(decoded.largest) == bits


def test_values_beyond_the_range_are_white(tmp_path):
    values = np.full((8, 8), 4096, np.uint16)
    decoded = read(put(tmp_path / "x.png", encode(values, "PNG")), Conversion(bits=12))
    assert (np.asarray(decoded.image) == 255).all()


def test_files_with_a_range_keep_it(tmp_path):
    content = b"P5 8 8 4095\n" + np.full((8, 8), 4095, ">u2").tobytes()
    decoded = read(put(tmp_path / "x.pgm", content), Conversion(bits=10))
    assert decoded.largest == 0
    assert (np.asarray(decoded.image) == 255).all()


# Backgrounds


def logo(colour: tuple[int, ...], rows: slice = slice(5, 20)) -> np.ndarray:
    image = np.zeros((32, 32, 4), np.uint8)
    image[..., :3] = colour
    image[rows, 8:20, 3] = 255
    return image


@pytest.mark.parametrize(
    ("colour", "hidden_on"),
    [
        ((255, 255, 255), {"#ffffff"}),
        ((250, 250, 240), {"#ffffff"}),
        ((0, 0, 0), {"#000000"}),
        ((130, 128, 127), {"#808080"}),
        ((255, 255, 0), set()),
        ((200, 30, 30), set()),
    ],
)
def test_background_on_which_an_image_cannot_be_seen(tmp_path, colour, hidden_on):
    decoded = read(put(tmp_path / "x.png", encode(logo(colour), "PNG")))
    assert decoded.transparent and set(decoded.hidden_on) == hidden_on


def test_background(tmp_path):
    path = put(tmp_path / "x.png", encode(logo((255, 255, 255)), "PNG"))
    pixels = np.asarray(read(path, Conversion("#204060")).image)
    assert (pixels[0, 0] == [32, 64, 96]).all() and (pixels[10, 10] == 255).all()
    on_white = read(path, Conversion())
    assert (np.asarray(on_white.image) == 255).all()
    other = put(tmp_path / "y.png", encode(logo((255, 255, 255), slice(9, 30)), "PNG"))
    assert on_white.content != read(other, Conversion()).content
    assert on_white.content == read(path, Conversion("#204060")).content
    assert read(path, Conversion("#204060")).mark == "on #204060"


def test_colours_under_what_is_transparent_do_not_count(tmp_path):
    image, other = logo((200, 30, 30)), logo((200, 30, 30))
    other[other[..., 3] == 0] = [9, 9, 9, 0]
    paths = [
        put(tmp_path / f"{i}.png", encode(x, "PNG"))
        for i, x in enumerate((image, other))
    ]
    assert len({read(path).content for path in paths}) == 1


def test_image_of_nothing(tmp_path):
    path = put(tmp_path / "x.png", encode(logo((9, 9, 9), slice(0, 0)), "PNG"))
    (why,) = decode.decode_each([path], id)
    assert str(why) == "nothing to see (all of it is transparent)"


WHITE, BLACK, GREY_, LIGHT, DARK = colours.BACKGROUNDS


@pytest.mark.parametrize(
    ("hidden_on", "chosen"),
    [
        ({0: [(), ()], 1: [()]}, WHITE),
        ({0: [(BLACK,)] * 9, 1: [(GREY_,)]}, WHITE),
        ({0: [(WHITE,)] * 9, 1: [()]}, BLACK),
        ({0: [(WHITE,)] * 9, 1: [(BLACK,)]}, GREY_),
        ({0: [(WHITE,), (BLACK,), (GREY_,)]}, LIGHT),
        ({0: [(WHITE,)] + [()] * 19}, WHITE),  # one in twenty may
        ({0: [(WHITE,)] + [()] * 18}, BLACK),
        ({0: [colours.BACKGROUNDS], 1: [()]}, WHITE),  # none is better
        ({}, WHITE),
    ],
)
def test_choice_of_a_background(hidden_on, chosen):
    assert colours.choose_background(hidden_on) == chosen
