"""Tests of cglo_jax/data/decode.py: a zoo of files, each with its pixels or the reason why not."""

import hashlib
import io
import logging
import os
import random
import socket
import struct
import threading
import time
import warnings
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cglo_jax.data import decode
from cglo_jax.process import setup

pytestmark = pytest.mark.usefixtures("ours")


@pytest.fixture
def heard(ours, monkeypatch) -> None:
    """As in a process of somebody else, where warnings are errors and libtiff prints."""
    monkeypatch.setattr(setup, "_ours", False)
    warnings.resetwarnings()
    warnings.simplefilter("error")
    logging.getLogger("PIL").setLevel(logging.NOTSET)
    decode.find_libtiff().TIFFSetErrorHandler(ours)


RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)
ALPHA = RNG.integers(0, 255, (6, 9), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9), np.uint16)
DEEP[0, :2] = 0, 65535
INDEX = RNG.integers(0, 4, (6, 9), np.uint8)
COLOURS = np.array([[250, 0, 10], [0, 200, 0], [30, 40, 255], [9, 8, 7]], np.uint8)
RGBA = np.dstack([RGB, ALPHA])


# Writing files, with Pillow where it can and by hand where it cannot


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(mode: str, *colour: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, colour if len(colour) > 1 else colour[0])


def with_palette() -> Image.Image:
    image = Image.frombytes("P", (9, 6), INDEX.tobytes())
    image.putpalette(COLOURS.ravel().tolist())
    return image


def chunk(name: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + crc


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def deep_png(pixels: np.ndarray) -> bytes:
    """uint16 [H, W, 3] -> a PNG with 16 bits per channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(pixels.shape[1], pixels.shape[0], 16, 2, rows)


def tiff(
    width: int,
    height: int,
    bits: int,
    data: bytes,
    *,
    order: str = "<",
    photometric: int = 1,
    sample_format: int = 1,
) -> bytes:
    """A grey TIFF without compression: header, data, one directory."""
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    entries += [
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
        (339, sample_format),
    ]
    mark = {"<": b"II", ">": b"MM"}[order]
    directory = struct.pack(order + "H", len(entries))
    for tag, value in entries:
        directory += struct.pack(order + "HHII", tag, 4, 1, value)
    head = mark + struct.pack(order + "HI", 42, 8 + len(data))
    return head + data + directory + bytes(4)


def pack_12_bits(values: np.ndarray) -> bytes:
    """uint16 [H, W] below 4096, W even -> two values in three bytes, high bits first."""
    a, b = values.astype(np.uint32)[:, ::2], values.astype(np.uint32)[:, 1::2]
    return (
        np.dstack([a >> 4, (a & 15) << 4 | b >> 8, b & 255]).astype(np.uint8).tobytes()
    )


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


# What Pillow is not asked: the pixels there should be


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.round(rgb * share + 255 * (1 - share)).astype(np.uint8)


def of(*colour: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.full((size[1], size[0], 3), colour, np.uint8)


SCALED = as_rgb(np.round(DEEP / 257))
TWELVE = (DEEP >> 4)[:, :8]
CMYK = RNG.integers(0, 256, (6, 9, 4), np.uint8)
FROM_CMYK = np.round(
    (255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255
)  # the less ink, the lighter
CLEAR_2 = on_white(COLOURS[INDEX], np.where(INDEX == 2, 0, 255))
FADED = np.array([255, 0, 128], np.uint8)  # alpha of the first three colours
RED, BLUE = plain("RGB", 255, 0, 0), plain("RGB", 0, 0, 255)
ALL = {"save_all": True, "append_images": [BLUE]}

# name: (content, pixels, greatest difference)
IMAGES = {
    "rgb.png": (encode(RGB, "PNG"), RGB, 0),
    "rgb.bmp": (encode(RGB, "BMP"), RGB, 0),
    "rgb.ppm": (encode(RGB, "PPM"), RGB, 0),
    "text.ppm": (
        f"P3 9 6 255 {' '.join(map(str, RGB.ravel()))}\n".encode(),
        RGB,
        0,
    ),
    "rgb.tif": (encode(RGB, "TIFF"), RGB, 0),
    "lzw.tiff": (encode(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "rgb.webp": (encode(RGB, "WEBP", lossless=True), RGB, 0),
    "rgb.jpg": (encode(RED, "JPEG"), of(254, 0, 0), 1),
    "progressive.JPG": (encode(RED, "JPEG", progressive=True), of(254, 0, 0), 1),
    "named.jpg": (encode(RGB, "PNG"), RGB, 0),
    "unnamed": (encode(RGB, "PNG"), RGB, 0),
    "more.png": (encode(RGB, "PNG") + b"more than the image", RGB, 0),
    "deep.png": (deep_png(np.dstack([DEEP] * 3)), as_rgb(DEEP >> 8), 1),
    "grey.png": (encode(GREY, "PNG"), as_rgb(GREY), 0),
    "grey.jpg": (encode(plain("L", 90), "JPEG"), of(90, 90, 90), 1),
    "grey.pgm": (encode(GREY, "PPM"), as_rgb(GREY), 0),
    "bits.png": (
        encode(Image.fromarray(GREY > 99), "PNG"),
        as_rgb((GREY > 99) * 255),
        0,
    ),
    "bits.pbm": (
        encode(Image.fromarray(GREY > 99), "PPM"),
        as_rgb((GREY > 99) * 255),
        0,
    ),
    "grey_16.png": (encode(DEEP, "PNG"), SCALED, 0),
    "grey_16.tif": (encode(DEEP, "TIFF"), SCALED, 0),
    "big_endian.tif": (
        tiff(9, 6, 16, DEEP.astype(">u2").tobytes(), order=">"),
        SCALED,
        0,
    ),
    "white_is_zero.tif": (
        tiff(9, 6, 16, DEEP.astype("<u2").tobytes(), photometric=0),
        255 - SCALED,
        0,
    ),
    "grey_12.tif": (
        tiff(8, 6, 12, pack_12_bits(TWELVE)),
        as_rgb(np.round(TWELVE * (255 / 4095))),
        0,
    ),
    "grey_16.pgm": (b"P5 9 6 65535\n" + DEEP.astype(">u2").tobytes(), SCALED, 0),
    "grey_12.pgm": (
        b"P5 8 6 4095\n" + TWELVE.astype(">u2").tobytes(),
        as_rgb(np.round(TWELVE * (255 / 4095))),
        1,  # Pillow rounds once, to 16 bits
    ),
    "palette.png": (encode(with_palette(), "PNG"), COLOURS[INDEX], 0),
    "palette.bmp": (encode(with_palette(), "BMP"), COLOURS[INDEX], 0),
    "palette.gif": (encode(with_palette(), "GIF"), COLOURS[INDEX], 0),
    "rgba.png": (encode(RGBA, "PNG"), on_white(RGB, ALPHA), 0),
    "rgba.tif": (encode(RGBA, "TIFF"), on_white(RGB, ALPHA), 0),
    "rgba.webp": (
        encode(RGBA, "WEBP", lossless=True, exact=True),
        on_white(RGB, ALPHA),
        0,
    ),
    "la.png": (
        encode(
            Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"
        ),
        on_white(as_rgb(GREY), ALPHA),
        0,
    ),
    "clear_colour.png": (encode(with_palette(), "PNG", transparency=2), CLEAR_2, 0),
    "clear_colour.gif": (encode(with_palette(), "GIF", transparency=2), CLEAR_2, 0),
    "faded_colours.png": (
        encode(with_palette(), "PNG", transparency=FADED.tobytes()),
        on_white(COLOURS[INDEX], np.append(FADED, 255)[INDEX]),
        0,
    ),
    "clear_grey.png": (
        encode(GREY, "PNG", transparency=int(GREY[2, 3])),
        on_white(as_rgb(GREY), np.where(GREY == GREY[2, 3], 0, 255)),
        0,
    ),
    "clear_rgb.png": (
        encode(RGB, "PNG", transparency=tuple(map(int, RGB[2, 3]))),
        on_white(RGB, np.where((RGB == RGB[2, 3]).all(-1), 0, 255)),
        0,
    ),
    "clear_grey_16.png": (
        encode(DEEP, "PNG", transparency=int(DEEP[2, 3])),
        on_white(SCALED, np.where(DEEP == DEEP[2, 3], 0, 255)),
        0,
    ),
    "opaque.png": (encode(np.dstack([RGB, ALPHA * 0 + 255]), "PNG"), RGB, 0),
    "cmyk.tif": (
        encode(Image.frombytes("CMYK", (9, 6), CMYK.tobytes()), "TIFF"),
        FROM_CMYK,
        1,
    ),
    "cmyk.jpg": (encode(plain("CMYK", 0, 255, 255, 0), "JPEG"), of(255, 0, 0), 3),
    # L* = 50 is the grey whose luminance is 18.4 % of white: 119 in sRGB
    "lab.tif": (encode(plain("LAB", 128, 128, 128), "TIFF"), of(119, 119, 119), 2),
    "animated.gif": (encode(RED, "GIF", **ALL), of(255, 0, 0), 0),
    "animated.webp": (encode(RED, "WEBP", lossless=True, **ALL), of(255, 0, 0), 0),
    "animated.png": (encode(RED, "PNG", **ALL), of(255, 0, 0), 0),
    "pages.tif": (encode(RED, "TIFF", **ALL), of(255, 0, 0), 0),
    "jpeg.tif": (encode(RED, "TIFF", compression="jpeg"), of(254, 0, 0), 1),
    "deflate.tif": (encode(RGB, "TIFF", compression="tiff_adobe_deflate"), RGB, 0),
    "two_views.jpg": (encode(RED, "MPO", **ALL), of(254, 0, 0), 1),
    "least.png": (encode(RGB[:4, :4], "PNG"), RGB[:4, :4], 0),
    "thinnest.png": (
        encode(plain("RGB", 1, 2, 3, size=(200, 4)), "PNG"),
        of(1, 2, 3, size=(200, 4)),
        0,
    ),
    "no_such_orientation.png": (encode(RGB, "PNG", exif=exif(9)), RGB, 0),
    "broken_exif.webp": (
        encode(RGB, "WEBP", lossless=True, exif=b"Exif\0\0neither II nor MM"),
        RGB,
        0,
    ),
}
GREYS = ["bits.png", "bits.pbm", "la.png", "big_endian.tif", "white_is_zero.tif"]
GREYS += [name for name in IMAGES if "grey" in name]
CLEAR = ["rgba.png", "rgba.tif", "rgba.webp", "la.png", "faded_colours.png"]
CLEAR += [name for name in IMAGES if name.startswith("clear_")]
MAY_BE_LOSSY = ["rgb.jpg", "progressive.JPG", "grey.jpg", "cmyk.jpg", "two_views.jpg"]
MAY_BE_LOSSY += ["jpeg.tif", *(name for name in IMAGES if name.endswith(".webp"))]


def decode_one(path: Path) -> decode.Decoded | decode.UnusableImage:
    (result,) = decode.decode_each([path], lambda decoded: decoded)
    return result


@pytest.mark.parametrize("name", IMAGES)
def test_image(tmp_path, capfd, name):
    content, expected, tolerance = IMAGES[name]
    (tmp_path / name).write_bytes(content)
    decoded = decode_one(tmp_path / name)
    assert isinstance(decoded, decode.Decoded), decoded
    assert decoded.image.mode == "RGB"
    pixels = np.asarray(decoded.image)
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected, rtol=0, atol=tolerance)
    assert decoded.grey == (name in GREYS)
    assert decoded.transparent == (name in CLEAR)
    assert not decoded.turned
    digest = hashlib.sha256(content).hexdigest()[:32]
    assert decoded.file_hash == (digest if name in MAY_BE_LOSSY else "")
    assert capfd.readouterr() == ("", "")


def test_bands_of_rows_make_the_same_image(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in IMAGES]
    for path in paths:
        path.write_bytes(IMAGES[path.name][0])
    whole = decode.decode_each(paths, lambda decoded: decoded)
    monkeypatch.setattr(decode, "_BAND", 20)  # two rows of most, one of the others
    for one, other in zip(whole, decode.decode_each(paths, lambda d: d), strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one[1:] == other[1:]


# EXIF: where the first row and the first column of the stored pixels belong
UPRIGHT = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "deep PNG", "JPEG"])
def test_orientation(tmp_path, kind, orientation):
    pixels = RGB.repeat(8, 0).repeat(8, 1) if kind == "JPEG" else RGB
    source = DEEP if kind == "deep PNG" else pixels
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    content = encode(
        source, kind.split()[-1], exif=exif(orientation), **options.get(kind, {})
    )
    (tmp_path / "x").write_bytes(content)
    decoded = decode_one(tmp_path / "x")
    expected = UPRIGHT[orientation](SCALED if kind == "deep PNG" else pixels)
    assert decoded.image.size == expected.shape[1::-1]
    difference = np.asarray(decoded.image).astype(int) - expected
    assert np.abs(difference).max() <= (4 if kind == "JPEG" else 0)
    assert decoded.turned == (orientation != 1 and kind != "TIFF")


# Files that cannot be used

SIGNED = DEEP.view(np.int16).astype("<i2").tobytes()
NOT_AN_IMAGE = "not an image (no valid PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM)"
TOO_MANY = "too large (more than 100 million pixels)"
NO_RANGE = "pixels without a known range (save it with 8 or 16 bits per channel)"
DAMAGED = "damaged or incomplete ("
NOISE = RNG.integers(0, 256, (40, 40, 3), np.uint8)
UNUSABLE = {
    "empty.png": (b"", "empty file"),
    "text.png": (b"Dear reader, this is no image.\n", NOT_AN_IMAGE),
    "page.jpg": (b"<!DOCTYPE html><title>404 Not Found</title>", NOT_AN_IMAGE),
    "paper.jpg": (b"%PDF-1.7\n1 0 obj\n", NOT_AN_IMAGE),
    "script.ps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT_AN_IMAGE),
    "archive.png": (b"PK\x03\x04" + bytes(40), NOT_AN_IMAGE),
    "zeros.jpg": (bytes(5000), NOT_AN_IMAGE),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_AN_IMAGE),
    "icon.ico": (encode(plain("RGB", 1, 2, 3), "ICO", sizes=[(16, 16)]), NOT_AN_IMAGE),
    "clip.mp4": (b"\0\0\0\x18ftypisom" + bytes(30), NOT_AN_IMAGE),
    "photo.heic": (
        b"\0\0\0\x18ftypheic" + bytes(30),
        "HEIC or AVIF (save it as JPEG or PNG)",
    ),
    "photo.jpg": (
        b"\0\0\0\x18ftypavif" + bytes(30),
        "HEIC or AVIF (save it as JPEG or PNG)",
    ),
    "start.png": (encode(NOISE, "PNG")[:20], DAMAGED),
    "header_crc.png": (
        encode(NOISE, "PNG").replace(b"IHDR\0", b"IHDR\1"),
        NOT_AN_IMAGE,
    ),
    "half.png": (encode(NOISE, "PNG")[:2000], DAMAGED),
    "half.jpg": (encode(NOISE, "JPEG")[:1200], DAMAGED),
    "half.gif": (encode(NOISE, "GIF")[:1500], DAMAGED),
    "half.bmp": (encode(NOISE, "BMP")[:2000], DAMAGED),
    "half.ppm": (encode(NOISE, "PPM")[:2000], DAMAGED),
    "half.webp": (encode(NOISE, "WEBP")[:500], DAMAGED),
    "half.tif": (encode(NOISE, "TIFF")[:2000], DAMAGED),
    "libtiff_complains.tif": (  # to the standard error, unless it is silenced
        encode(NOISE, "TIFF", compression="tiff_lzw").replace(b"\x80", b"\x0f"),
        DAMAGED,
    ),
    "wrong_data.png": (png(9, 6, 8, 2, bytes(10)), DAMAGED),
    "bomb.png": (png(60_000, 60_000, 8, 2, b""), TOO_MANY),
    "warned.png": (png(10_001, 10_000, 8, 2, b""), TOO_MANY),
    "bomb.bmp": (
        encode(RGB, "BMP").replace(
            struct.pack("<ii", 9, 6), struct.pack("<ii", 1 << 15, 1 << 15)
        ),
        TOO_MANY,
    ),
    "at_the_limit.png": (png(10_000, 10_000, 8, 2, b""), DAMAGED),
    "pixel.png": (
        encode(RGB[:1, :1], "PNG"),
        "too small (1x1 pixels, 4x4 are needed)",
    ),
    "line.gif": (
        encode(plain("L", 0, size=(40, 3)), "GIF"),
        "too small (40x3 pixels, 4x4 are needed)",
    ),
    "thin.png": (
        encode(plain("L", 0, size=(4, 201)), "PNG"),
        "too long and thin (4x201 pixels)",
    ),
    "float.tif": (encode(GREY.astype(np.float32), "TIFF"), NO_RANGE),
    "float.pfm": (encode(GREY.astype(np.float32), "PPM"), NO_RANGE),
    "integer.tif": (encode(GREY.astype(np.int32), "TIFF"), NO_RANGE),
    "signed.tif": (tiff(9, 6, 16, SIGNED, sample_format=2), NO_RANGE),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_file_that_cannot_be_used(tmp_path, capfd, name):
    content, expected = UNUSABLE[name]
    (tmp_path / name).write_bytes(content)
    why = decode_one(tmp_path / name)
    assert isinstance(why, decode.UnusableImage)
    reason = str(why)
    if expected.endswith("("):
        assert reason.startswith(expected) and reason.endswith(")")
    else:
        assert reason == expected
    assert "\n" not in reason and len(reason) < 120
    assert capfd.readouterr() == ("", "")


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    (tmp_path / "zeros.png").symlink_to("/dev/zero")  # reading it would not end
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
    expected = {
        "pipe.png": "not a regular file",
        "zeros.png": "not a regular file",
        "socket.png": "not a regular file",
        "lost.png": "broken link",
        "circle.png": "cannot be opened (Too many levels of symbolic links)",
        "removed.png": "no longer there",
    }
    reasons = decode.decode_each([tmp_path / name for name in expected], id)
    assert list(map(str, reasons)) == list(expected.values())


def test_link_to_an_image_is_an_image(tmp_path):
    (tmp_path / "there.png").write_bytes(encode(RGB, "PNG"))
    (tmp_path / "link").symlink_to("there.png")
    np.testing.assert_array_equal(decode_one(tmp_path / "link").image, RGB)


def test_file_without_permission(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.png").write_bytes(encode(RGB, "PNG"))
    monkeypatch.setattr(Path, "open", refuse)
    assert str(decode_one(tmp_path / "x.png")) == "cannot be opened (Permission denied)"


def test_long_file_is_not_read(tmp_path):
    path = tmp_path / "long.png"
    path.write_bytes(encode(RGB, "PNG"))
    os.truncate(path, 200 << 20)  # a hole, not written to the disk
    np.testing.assert_array_equal(decode_one(path).image, RGB)
    os.truncate(path, (200 << 20) + 1)
    assert str(decode_one(path)) == "too large (more than 200 MiB)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "too large for the memory"),
        (OSError("two\nlines"), "damaged or incomplete (two lines)"),
        (zlib.error("Error -3"), "damaged or incomplete (Error -3)"),
        (struct.error("x" * 99), f"damaged or incomplete ({'x' * 80})"),
        (RecursionError(), "damaged or incomplete (RecursionError)"),
    ],
)
def test_what_decoders_raise_is_a_reason(tmp_path, monkeypatch, error, reason):
    def fail(*_):
        raise error

    (tmp_path / "x.png").write_bytes(encode(RGB, "PNG"))
    monkeypatch.setattr(decode, "_normalise", fail)
    assert str(decode_one(tmp_path / "x.png")) == reason


def test_random_damage_never_raises_or_prints(tmp_path, capfd):
    rng = random.Random(3)
    contents = [content for content, _, _ in IMAGES.values()]
    paths = []
    for i in range(400):
        damaged = bytearray(contents[i % len(contents)])
        for _ in range(rng.choice([1, 4])):
            damaged[rng.randrange(min(len(damaged), 300))] = rng.randrange(256)
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(
            damaged[: rng.choice([None, rng.randrange(len(damaged))])]
        )
    results = decode.decode_each(paths, lambda decoded: decoded.image.mode)
    unusable = [r for r in results if isinstance(r, decode.UnusableImage)]
    assert len(unusable) > 100 and len(results) - len(unusable) > 20
    assert {r for r in results if r not in unusable} == {"RGB"}
    assert capfd.readouterr() == ("", "")


# What calls have in common


def test_log_of_pillow_is_silent(tmp_path, caplog):
    content = tiff(9, 6, 8, bytes(54))
    one, many = (struct.pack("<HHII", 277, 4, 1, n) for n in (1, 2048))
    assert content.count(one) == 1
    (tmp_path / "x.tif").write_bytes(content.replace(one, many))  # samples per pixel
    assert str(decode_one(tmp_path / "x.tif")) == NOT_AN_IMAGE
    assert not caplog.records


def test_nothing_is_silenced_in_the_process_of_somebody_else(tmp_path, capfd, heard):
    """Where threads of others run, no descriptor, filter, or level of the process is touched."""
    (tmp_path / "x.tif").write_bytes(UNUSABLE["libtiff_complains.tif"][0])
    filters, level = list(warnings.filters), logging.getLogger("PIL").level
    error = os.fstat(2)
    assert str(decode_one(tmp_path / "x.tif")).startswith(DAMAGED)
    assert list(warnings.filters) == filters
    assert logging.getLogger("PIL").level == level
    assert os.path.samestat(os.fstat(2), error)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["tempfile.tif: Using code not yet in table."]


def test_a_program_of_ours_silences_libtiff(tmp_path, capfd, heard, monkeypatch):
    setup.own()
    (tmp_path / "x.tif").write_bytes(UNUSABLE["libtiff_complains.tif"][0])
    decode_one(tmp_path / "x.tif")
    assert capfd.readouterr() == ("", "")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_warning_that_is_an_error_in_the_process_is_named(tmp_path, heard):
    whole = encode(RGB, "JPEG", exif=exif(6))
    place = (
        whole.index(b"MM\0*") + 9
    )  # the number of its entries, of which there is one
    (tmp_path / "x.jpg").write_bytes(whole[:place] + b"\x09" + whole[place + 1 :])
    why = str(decode_one(tmp_path / "x.jpg"))
    assert why.startswith("Pillow's warning, an error in this process (")
    warnings.simplefilter("ignore")
    assert decode_one(tmp_path / "x.jpg").turned


def test_results_are_in_the_order_of_the_files(tmp_path):
    paths = []
    for i in range(20):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(encode(plain("L", i), "PNG"))

    def value(decoded: decode.Decoded) -> int:
        value = decoded.image.getpixel((0, 0))[0]
        time.sleep((19 - value) / 2000)  # the first take longest
        return value

    assert decode.decode_each(paths, value) == list(range(20))
    assert decode.decode_each([], value) == []


def test_few_images_are_held_at_once(tmp_path):
    (tmp_path / "x.png").write_bytes(encode(RGB, "PNG"))
    images, alive, lock = [], [], threading.Lock()

    def count(decoded: decode.Decoded) -> None:
        with lock:
            images.append(weakref.ref(decoded.image))
            alive.append(sum(image() is not None for image in images))
        time.sleep(0.001)

    decode.decode_each([tmp_path / "x.png"] * 100, count)
    assert 1 < max(alive) <= 4
    assert not any(image() for image in images)


def test_files_that_cannot_be_used_are_not_held(tmp_path):
    (tmp_path / "x.png").write_bytes(encode(NOISE, "PNG")[:2000])
    (tmp_path / "y.png").write_bytes(b"text")
    names = ["x.png", "y.png", "z.png"]
    for why in decode.decode_each([tmp_path / name for name in names], id):
        assert isinstance(why, decode.UnusableImage)
        assert why.__traceback__ is why.__context__ is None


def test_interrupt_leaves_the_rest(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(encode(RGB, "PNG"))
    calls, stopped = [], threading.Event()

    def interrupted(results, *_, **__):
        yield next(results)
        stopped.set()
        raise KeyboardInterrupt

    def use(decoded: decode.Decoded) -> None:
        calls.append(1)
        if len(calls) > 1:
            stopped.wait(10)
        time.sleep(0.005)

    monkeypatch.setattr(decode, "tqdm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode.decode_each([tmp_path / "x.png"] * 200, use, "reading")
    assert len(calls) < 100


def test_scans_are_counted_in_the_image_not_in_what_follows_it(tmp_path):
    """Cameras append films to JPEGs, in which any bytes may be."""
    path = tmp_path / "film.jpg"
    whole = encode(plain("L", 77), "JPEG", progressive=True)
    path.write_bytes(whole + b"\xff\xda\x00\x02" * 1000)
    assert isinstance(decode_one(path), decode.Decoded)


def test_never_more_than_the_total_is_held():
    budget, lock, held, most = decode._Budget(10), threading.Lock(), 0, 0

    def use(amount: int) -> None:
        nonlocal held, most
        with budget.take(amount):
            with lock:
                held += amount
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= amount

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [4, 10, 1, 7, 3, 5, 5, 10, 2, 4] * 4))
    assert held == 0
    assert 7 < most <= 10  # several at once, but for the largest


def test_more_than_there_is_is_had_alone():
    budget, taken = decode._Budget(3), threading.Event()

    def take_one() -> None:
        with budget.take(1):
            taken.set()

    with ThreadPoolExecutor(1) as pool:
        with budget.take(100):
            pool.submit(take_one)
            assert not taken.wait(0.05)
        assert taken.wait(10)


def test_an_error_gives_back_what_was_taken():
    budget = decode._Budget(3)
    for _ in range(3):
        with pytest.raises(KeyError), budget.take(3):
            raise KeyError
    with budget.take(3):
        pass
