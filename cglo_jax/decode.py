"""Image files of any kind -> 8-bit RGB, upright, on white; or a plain reason why not.

Whatever a file holds, reading it does not raise: the files are people's own, and one bad file among
thousands must not stop a run. Pillow decodes. What Pillow, and libtiff below it, print about a
damaged file is silenced in our programs; in a process of somebody else's, that is their choice.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from cglo_jax import process
from cglo_jax.budget import Budget
from cglo_jax.errors import printable

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000
MAX_BYTES = 200 << 20  # of a file, of which Pillow may hold two copies
_LONG = 16 << 20  # bytes of a file that is read while no other is
MAX_SCANS = 200  # of a JPEG: some 10 are usual, thousands of empty ones take minutes
MIN_SIDE = 4
MAX_ASPECT = 50  # long side / short side: scaled up, thin images would fill the memory
THREADS = 4
_LOSSY = ("JPEG", "MPO", "WEBP")  # MPO: a JPEG of several views
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif"}

# TIFF and EXIF tags
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")  # of a JPEG, with a length
_BAND = 1 << 20  # pixels that are converted at once

T = TypeVar("T")


class UnusableImage(Exception):
    """Why a file cannot be used: "kind" or "kind (details)", in plain words."""


class Decoded(NamedTuple):
    """An image as networks may see it.

    Attributes:
      image: mode "RGB", turned upright.
      grey: the file stores shades of grey.
      transparent: some of it was, and is white now.
      turned: its EXIF data said how. (A TIFF's own orientation is not counted.)
      file_hash: 32 hexadecimal digits of the file's content if its format may be lossy:
        which pixels that becomes depends on the decoder's version. Else "".
    """

    image: Image.Image
    grey: bool
    transparent: bool
    turned: bool
    file_hash: str = ""


# Pixels that all threads hold together. A larger image, or a long file, is alone meanwhile.
_PIXELS = Budget(48_000_000)


def decode_each(
    paths: Sequence[Path], use: Callable[[Decoded], T], name: str = ""
) -> list[T | UnusableImage]:
    """Decodes files on a few threads, each image held no longer than `use` needs it.

    Of animations and of files with several pages the first image counts. Transparency becomes
    white, 16-bit grey is scaled to 8 bits, other modes are converted as Pillow does.

    Args:
      paths: n files of any kind, directories excepted.
      use: what to keep of an image; called on several threads.
      name: of a progress bar, which is shown on a terminal; "" = none.

    Returns:
      n results, in the order of `paths`: of `use`, or why the file cannot be used.
    """

    def decode(path: Path) -> T | UnusableImage:
        with contextlib.ExitStack() as held:
            try:
                return use(_decode(path, held))
            except UnusableImage as why:
                # A new one: the traceback of this one holds the image.
                return UnusableImage(*why.args)

    if process.is_ours():
        silence()
    with (
        ThreadPoolExecutor(THREADS) as pool,
        contextlib.closing(pool.map(decode, paths)) as results,  # Ctrl-C stops the rest
    ):
        if name:
            return list(tqdm(results, name, len(paths), leave=False, disable=None))
        return list(results)  # tqdm starts a thread, shown or not


def silence() -> None:
    """Silences Pillow and libtiff for the whole process and for good, if a program of ours began it.

    libtiff writes its errors to descriptor 2. Its error handler is removed, so no descriptor is
    redirected; where libtiff is out of reach (built into Pillow), its lines are printed.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with contextlib.suppress(OSError, AttributeError):
        find_libtiff().TIFFSetErrorHandler(None)


def find_libtiff() -> ctypes.CDLL:
    """Returns the libtiff that Pillow uses, or a library without its functions."""
    library = ctypes.CDLL(Image.core.__file__)  # finds what this one is linked to, too
    with contextlib.suppress(AttributeError):
        library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
        library.TIFFSetErrorHandler.restype = ctypes.c_void_p
    return library


def _decode(path: Path, held: contextlib.ExitStack) -> Decoded:
    """Decodes a file; `held` is what is to be given back when the image is no longer used."""
    with _open(path) as file:
        if long := os.fstat(file.fileno()).st_size > _LONG:
            held.enter_context(_PIXELS.take(MAX_PIXELS))
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_shape(*image.size)
                _check_scans(image, file)
                if not long:
                    held.enter_context(_PIXELS.take(image.width * image.height))
                image.load()
                decoded = _normalise(image)
                if _may_be_lossy(image):
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    decoded = decoded._replace(file_hash=digest[:32])
                return decoded
        except UnusableImage:
            raise
        except UnidentifiedImageError:
            file.seek(4)
            if file.read(8)[4:] in _HEIF:
                raise UnusableImage("HEIC or AVIF (save it as JPEG or PNG)") from None
            known = ", ".join(FORMATS)
            raise UnusableImage(f"not an image (no valid {known})") from None
        except Image.DecompressionBombError:
            raise _too_large() from None
        except MemoryError:
            raise UnusableImage("too large for the memory") from None
        except Warning as warning:
            text = printable(" ".join(str(warning).split()))
            why = f"Pillow's warning, an error in this process ({text:.80})"
            raise UnusableImage(why) from None
        except Exception as error:  # noqa: BLE001 - decoders raise nearly anything
            text = printable(" ".join(str(error).split())) or type(error).__name__
            raise UnusableImage(f"damaged or incomplete ({text:.80})") from None


def _open(path: Path) -> BinaryIO:
    """Opens a regular file; anything else might block, or never end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage("not a regular file")
        if not status.st_size:
            raise UnusableImage("empty file")
        if status.st_size > MAX_BYTES:
            raise UnusableImage(f"too large (more than {MAX_BYTES >> 20} MiB)")
        return path.open("rb")
    except FileNotFoundError:
        why = "broken link" if path.is_symlink() else "no longer there"
        raise UnusableImage(why) from None
    except OSError as error:
        raise UnusableImage(f"cannot be opened ({error.strerror})") from None


def _too_large() -> UnusableImage:
    return UnusableImage(f"too large (more than {MAX_PIXELS // 10**6} million pixels)")


def _check_shape(width: int, height: int) -> None:
    """Refuses by the header, before there are any pixels."""
    short, long = sorted([width, height])
    if width * height > MAX_PIXELS:
        raise _too_large()
    if short < MIN_SIDE:
        least = f"{MIN_SIDE}x{MIN_SIDE}"
        raise UnusableImage(f"too small ({width}x{height} pixels, {least} are needed)")
    if long > MAX_ASPECT * short:
        raise UnusableImage(f"too long and thin ({width}x{height} pixels)")


def _check_scans(image: Image.Image, file: BinaryIO) -> None:
    """Refuses a JPEG that paints the same pixels over and over."""
    if image.format not in ("JPEG", "MPO"):
        return
    before = file.tell()
    file.seek(0)
    data, place, scans = file.read(), 2, 0
    file.seek(before)
    while found := _MARKER.search(data, place):
        if found[1] == b"\xd9":  # the end; what follows is no part of the image
            break
        scans += found[1] == b"\xda"
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    if scans > MAX_SCANS:
        raise UnusableImage(f"too many scans ({scans}, save it as a baseline JPEG)")


def _normalise(image: Image.Image) -> Decoded:
    """Any mode, any orientation -> upright RGB."""
    mode = image.mode
    turn = _find_turn(image)
    if mode == "F" or (mode == "I" and image.format == "TIFF"):
        advice = "save it with 8 or 16 bits per channel"
        raise UnusableImage(f"pixels without a known range ({advice})")
    rgb, transparent = _convert(image)
    grey = mode in ("1", "L", "LA") or mode.startswith("I")
    upright = rgb if turn is None else rgb.transpose(turn)
    return Decoded(upright, grey, transparent, turn is not None)


def _convert(image: Image.Image) -> tuple[Image.Image, bool]:
    """-> RGB on white, and whether some of it was transparent; by bands, to save memory."""
    table = _scale_16_bits(image) if image.mode.startswith("I") else None
    rgb, transparent = Image.new("RGB", image.size, "white"), False
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if table is not None:
            part, alpha = _from_16_bits(band, table)
        elif band.has_transparency_data:
            part = band.convert("RGBA")
            alpha = part.getchannel("A")
        else:
            part, alpha = band.convert("RGB"), None
        rgb.paste(part, (0, top), mask=alpha)
        transparent |= alpha is not None and alpha.getextrema()[0] < 255
    return rgb, transparent


def _may_be_lossy(image: Image.Image) -> bool:
    tiff = image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF
    return tiff or image.format in _LOSSY


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright by its EXIF data; a TIFF is already, when loaded."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Warning:  # an error in this process: not to be hidden
        raise
    except Exception:  # noqa: BLE001 - any; broken EXIF data harm no pixel
        return None


def _scale_16_bits(image: Image.Image) -> np.ndarray:
    """Scales 16-bit grey by its whole range: Pillow's own conversion clips, or has clipped.

    Pillow scales a PGM's largest value to 65535 itself; a TIFF has its bits, and may mean
    white by 0.

    Returns:
      uint8 [65536], grey by value.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    largest = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    table = np.minimum(np.round(np.arange(1 << 16) * (255 / largest)), 255)
    if tags.get(_PHOTOMETRIC) == 0:
        table = 255 - table
    return table.astype(np.uint8)


def _from_16_bits(
    band: Image.Image, table: np.ndarray
) -> tuple[Image.Image, Image.Image | None]:
    """-> RGB, and alpha if one value of a PNG is transparent."""
    pixels = np.asarray(band)
    clear = band.info.get("transparency")
    rgb = Image.fromarray(table[pixels]).convert("RGB")
    return rgb, None if clear is None else Image.fromarray(pixels != clear)
