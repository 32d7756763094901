"""A folder of more than a hundred files, good, bad and hostile, each with its verdict.

An animal is (name below the root, what writes it, verdict). What writes it is its content or a
function of its path. The verdict is USED or the beginning of the reason in skipped.txt.
"""

import contextlib
import gzip
import io
import os
import pickle
import random
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cglo_jax.data import decode
from tests.data.decode_test import (
    NOT_AN_IMAGE,
    TOO_MANY,
    chunk,
    deep_png,
    encode,
    exif,
    png,
    tiff,
)

USED = "used"
DAMAGED = "damaged or incomplete ("
RAN = "this_ran"  # what payloads would create in the working directory


class Animal(NamedTuple):
    name: str
    make: bytes | Callable[[Path], object]
    verdict: str


_numbers = iter(range(1, 10_000))


def fresh(mode: str = "RGB", size: tuple[int, int] = (18, 12)) -> Image.Image:
    """An image that no other is like."""
    rng = np.random.default_rng(next(_numbers))
    shape = (
        size[1],
        size[0],
        *([3] if mode in ("RGB", "P", "1", "CMYK", "LAB") else []),
    )
    pixels = rng.integers(0, 256, shape, np.uint8)
    if mode == "RGBA":
        return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8))
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(pixels)] * 2)
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.frombytes("LAB", size, pixels.tobytes())
    return Image.fromarray(pixels).convert(mode)


def good() -> Iterator[tuple[str, bytes]]:
    """Files of every kind that can be used."""
    two = {"save_all": True, "append_images": [fresh()]}
    for kind, modes in {
        "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
        "BMP": ["1", "L", "P", "RGB"],
        "TIFF": ["1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"],
        "WEBP": ["RGB", "RGBA"],
        "JPEG": ["L", "RGB", "CMYK"],
        "PPM": ["1", "L", "RGB", "I;16"],
        "GIF": ["L", "P"],
    }.items():
        for mode in modes:
            name = f"{mode.replace(';', '_')}.{kind.lower()}"
            yield name, encode(fresh(mode, (40, 30)), kind)
    for turn in range(1, 9):
        kind = "JPEG" if turn % 2 else "PNG"
        yield f"turned_{turn}.{kind.lower()}", encode(fresh(), kind, exif=exif(turn))
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        yield f"several.{kind.lower()}", encode(fresh(), kind, **two)
    for way in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        yield f"{way}.tif", encode(fresh(), "TIFF", compression=way)
    yield "deep.png", deep_png(np.asarray(fresh(), np.uint16) * 257)
    yield "12_bits.tif", tiff(8, 6, 12, random.Random(1).randbytes(72))
    yield "progressive.jpg", encode(fresh(), "JPEG", progressive=True)
    yield "bad_exif.jpg", encode(fresh(), "JPEG", exif=b"Exif\0\0neither II nor MM")
    yield "bad_exif.png", encode(fresh(), "PNG", exif=b"MM\0*\xff\xff\xff\xff")
    yield "bad_profile.png", encode(fresh(), "PNG", icc_profile=b"no profile")
    yield "bad_profile.jpg", encode(fresh(), "JPEG", icc_profile=b"\xff" * 70_000)
    yield "no_such_turn.png", encode(fresh(), "PNG", exif=exif(99))
    yield "palette_of_alphas.png", encode(fresh("P"), "PNG", transparency=bytes(9))
    yield "called.txt", encode(fresh(), "PNG")
    yield "called_nothing", encode(fresh(), "BMP")
    yield "with_a_zip_behind.png", encode(fresh(), "PNG") + zip_of("a.txt")
    yield "with_a_script_behind.gif", encode(fresh("P"), "GIF") + b"<script>alert(1)"
    yield "thinnest.png", encode(fresh(size=(200, 4)), "PNG")
    yield "least.png", encode(fresh(size=(4, 4)), "PNG")


def zip_of(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"text")
    return file.getvalue()


def tar_of(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, (RAN, "w")


def fakes() -> Iterator[tuple[str, bytes]]:
    """What is no image of a format that is read, whatever it is called."""
    postscript = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({RAN}) (w) file\n"
    dos_postscript = struct.pack(
        "<4s6IH", b"\xc5\xd0\xd3\xc6", 30, 99, 0, 0, 0, 0, 65535
    )
    yield "pickle.png", pickle.dumps(Payload())
    yield "drawing.eps", postscript.encode()
    yield "dos_drawing.png", dos_postscript + postscript.encode()
    yield "layers.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3)
    yield "zip.png", zip_of("cat.png")
    yield "tar.jpg", tar_of("../cat.jpg")
    yield "packed.png.gz", gzip.compress(encode(fresh(), "PNG"))
    yield "program.png", b"\x7fELF\2\1\1" + bytes(200)
    yield "script.jpg", f"#!/bin/sh\ntouch {RAN}\n".encode()
    yield (
        "entity.svg",
        b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
    )
    yield "bits.xbm", b"#define a_width 8\n#define a_height 8\nstatic char a_bits[] = {"
    yield "weights.png", (8).to_bytes(8, "little") + b"{}      "
    yield "table.png", b"\x89HDF\r\n\x1a\n" + bytes(90)
    for kind in ("ICO", "TGA", "PCX", "JPEG2000", "DDS", "SGI", "ICNS", "MSP"):
        mode = "1" if kind == "MSP" else "RGB"
        yield f"other.{kind.lower()}", encode(fresh(mode, (32, 32)), kind)
    yield "riff.webp", b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28)
    yield "only_a_magic.png", b"\x89PNG\r\n\x1a\n"
    yield "only_a_magic.gif", b"GIF89a"
    yield "only_a_magic.jpg", b"\xff\xd8\xff"
    yield "only_a_magic.tif", b"II*\0"


def cut() -> Iterator[tuple[str, bytes]]:
    """Files that end too early, in the header and in the pixels."""
    noise = fresh(size=(64, 64))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = encode(noise, kind)
        for share in (0.3, 0.9):
            yield f"cut_at_{share}.{kind.lower()}", whole[: int(len(whole) * share)]


def many_scans() -> bytes:
    """A JPEG whose last scan is painted a thousand times."""
    whole = encode(Image.new("L", (64, 64), 77), "JPEG", progressive=True)
    last = whole[whole.rfind(b"\xff\xc4") : -2]
    return whole[:-2] + last * 1000 + whole[-2:]


def canvas(width: int, height: int) -> bytes:
    """An animated WebP that says to be of this size."""
    two = {"save_all": True, "append_images": [fresh("RGBA")]}
    data = bytearray(encode(fresh("RGBA"), "WEBP", **two))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = b"".join((n - 1).to_bytes(3, "little") for n in (width, height))
    return bytes(data)


def bombs() -> Iterator[tuple[str, bytes | Callable, str]]:
    """Small files that want much memory or time."""
    zeros = zlib.compress(bytes(100 << 20), 9)
    start = encode(fresh(), "PNG")[:33]  # up to the end of IHDR
    end = encode(fresh(), "PNG")[33:]
    gif = struct.pack("<6sHHBBB", b"GIF89a", 65535, 65535, 0, 0, 0)
    gif += struct.pack("<cHHHHB", b",", 0, 0, 65535, 65535, 0) + b"\2\1\0;"
    yield "60000.png", png(60_000, 60_000, 8, 2, b""), TOO_MANY
    yield "most.png", png(2**31 - 1, 2**31 - 1, 16, 6, b""), TOO_MANY
    yield "65535.gif", gif, TOO_MANY
    yield "16383.webp", canvas(16_383, 16_383), TOO_MANY
    yield "frame.webp", canvas(8, 8), DAMAGED  # smaller than its frame
    yield "2_31.tif", tiff(2**31 - 1, 2**31 - 1, 8, bytes(8)), TOO_MANY
    yield "99999999.ppm", b"P6 99999999 99999999 255\n" + bytes(99), TOO_MANY
    yield "long_number.ppm", b"P6 " + b"9" * 100_000, DAMAGED
    yield "text.png", start + chunk(b"zTXt", b"a\0\0" + zeros) + end, DAMAGED
    yield (
        "texts.png",
        start + chunk(b"tEXt", b"a\0" + bytes(9 << 20)) * 9 + end,
        DAMAGED,
    )
    yield "profile.png", start + chunk(b"iCCP", b"a\0\0" + zeros) + end, DAMAGED
    yield "scans.jpg", many_scans(), "too many scans (1006, save it as a baseline JPEG)"
    yield (
        "hole.png",
        hole(start + struct.pack(">I", decode.MAX_BYTES) + b"tEXt", 0),
        DAMAGED,
    )
    yield "hole.webp", hole(b"RIFF\0\0\0\x0bWEBPVP8 ", 0), DAMAGED
    yield "hole.bmp", hole(encode(fresh(), "BMP"), 1), "too large (more than "
    yield "pixels.png", giant("L", 10_000), USED
    nothing = "nothing to see (all of it is transparent)"
    yield "clear_pixels.png", giant("RGBA", 5_000), nothing
    for i in range(3):
        yield f"pixels_{i}.png", giant("RGB", 4_000 + i), USED
    yield (
        "directories.tif",
        tiff(8, 8, 8, bytes(64))[:-4] + b"\x48\0\0\0",
        USED,
    )  # a ring
    yield "tags.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(100), NOT_AN_IMAGE


def hole(data: bytes, more: int) -> Callable[[Path], None]:
    """Writes a file as long as may be, and `more` bytes, but for the disk it is short."""

    def make(path: Path) -> None:
        path.write_bytes(data)
        os.truncate(path, decode.MAX_BYTES + more)

    return make


def giant(mode: str, side: int) -> Callable[[Path], None]:
    """Writes one colour in millions of pixels, row by row: a writer needs no memory either."""
    width = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    kind = {"L": 0, "RGB": 2, "RGBA": 6}[mode]

    def make(path: Path) -> None:
        packer = zlib.compressobj(1)
        rows = b"".join([packer.compress(bytes(1 + width * side)) for _ in range(side)])
        header = struct.pack(">IIBBBBB", side, side, 8, kind, 0, 0, 0)
        data = chunk(b"IDAT", rows + packer.flush())
        ends = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header), chunk(b"IEND", b"")
        path.write_bytes(ends[0] + data + ends[1])

    return make


def listen(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)  # of 107 bytes at most


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def links() -> Iterator[tuple[str, Callable, str]]:
    """What is no file, and files that lie elsewhere; `away` is beside the zoo."""
    yield "pipe.png", os.mkfifo, "not a regular file"
    yield "socket.png", listen, "not a regular file"
    yield "endless.png", link("/dev/zero"), "not a regular file"
    yield "random.png", link("/dev/urandom"), "not a regular file"
    yield "terminal.png", link("/dev/tty"), "not a regular file"
    yield "memory.png", link("/proc/self/mem"), "empty file"
    yield "lost.png", link("nowhere.png"), "broken link"
    yield "itself.png", link("itself.png"), "cannot be opened (Too many levels"
    yield "ring_1.png", link("ring_2.png"), "cannot be opened (Too many levels"
    yield "ring_2.png", link("ring_1.png"), "cannot be opened (Too many levels"
    yield "too_long.png", link("x" * 300), "cannot be opened (File name too long)"
    yield "secret.png", link("/etc/passwd"), NOT_AN_IMAGE
    yield "there.png", link("../../away/there.png"), USED
    yield "there_too.png", link("../../away/there.png"), "same pixels as another (as "


# How files may be called. They are copies of an empty file, and of an image.
NAMES = [
    "line\nbreak",
    "tab\tand\rreturn",
    "\x1b[31mred",
    "\udcff\udcfe",  # bytes that are not Unicode
    "\u202egnp.tac",  # right to left
    " ",
    "-rf",
    "$(touch this_ran)",
    "`touch this_ran`",
    "'\"\\",
    "猫",
    "n" * 250,
    "%s%n{0}",
]
