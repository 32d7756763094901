"""Image files of any kind -> 8-bit RGB, upright, on white; or a plain reason why not.

Whatever a file holds, reading it neither raises nor prints: the files are people's own, and one
bad file among thousands must not stop a run. Pillow decodes.
"""

import contextlib
import hashlib
import logging
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30  # of a file: MAX_PIXELS as 16-bit RGBA are 800 MB
MIN_SIDE = 4
MAX_ASPECT = 50  # long side / short side: scaled up, thin images would fill the memory
THREADS = 4  # each holds an image of up to MAX_PIXELS a few times
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
        try:
            return use(_decode(path))
        except UnusableImage as why:
            return why

    hide = None if name else True  # None: unless it is a terminal
    with (
        _quiet() as terminal,
        ThreadPoolExecutor(THREADS) as pool,
        contextlib.closing(pool.map(decode, paths)) as results,  # Ctrl-C stops the rest
    ):
        return list(
            tqdm(results, name, len(paths), leave=False, file=terminal, disable=hide)
        )


@contextlib.contextmanager
def _quiet() -> Iterator[TextIO]:
    """Silences Pillow and the C libraries below it, for all threads.

    libtiff writes about damaged files to the standard error, whoever listens; so that goes
    nowhere for a while, and what should be seen to the stream that this yields.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        stack.callback(logger.setLevel, level)
        terminal = stack.enter_context(os.fdopen(os.dup(2), "w"))
        stack.callback(os.dup2, terminal.fileno(), 2)
        nowhere = stack.enter_context(open(os.devnull, "w"))
        os.dup2(nowhere.fileno(), 2)
        yield terminal


def _decode(path: Path) -> Decoded:
    with _open(path) as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_shape(*image.size)
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
        except Exception as error:  # noqa: BLE001 - decoders raise nearly anything
            text = " ".join(str(error).split()) or type(error).__name__
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


def _normalise(image: Image.Image) -> Decoded:
    """Any mode, any orientation -> upright RGB."""
    mode, transparent = image.mode, False
    turn = _find_turn(image)
    if mode == "F" or (mode == "I" and image.format == "TIFF"):
        advice = "save it with 8 or 16 bits per channel"
        raise UnusableImage(f"pixels without a known range ({advice})")
    if mode.startswith("I"):
        rgb, transparent = _from_16_bits(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        transparent = alpha.getextrema()[0] < 255
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba, mask=alpha)
    else:
        rgb = image.convert("RGB")
    grey = mode in ("1", "L", "LA") or mode.startswith("I")
    upright = rgb if turn is None else rgb.transpose(turn)
    return Decoded(upright, grey, transparent, turn is not None)


def _may_be_lossy(image: Image.Image) -> bool:
    tiff = image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF
    return tiff or image.format in _LOSSY


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright by its EXIF data; a TIFF is already, when loaded."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # noqa: BLE001 - any; broken EXIF data harm no pixel
        return None


def _from_16_bits(image: Image.Image) -> tuple[Image.Image, bool]:
    """Scales 16-bit grey by its whole range: Pillow's own conversion clips, or has clipped.

    Pillow scales a PGM's largest value to 65535 itself; a TIFF has its bits, and may mean
    white by 0.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    largest = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    table = np.minimum(np.round(np.arange(1 << 16) * (255 / largest)), 255)
    if tags.get(_PHOTOMETRIC) == 0:
        table = 255 - table
    pixels = np.asarray(image)
    clear = image.info.get("transparency", -1)  # the one value of a PNG that is
    transparent = bool((pixels == clear).any())
    if transparent:
        table[clear] = 255
    grey = Image.fromarray(table.astype(np.uint8)[pixels])
    return grey.convert("RGB"), transparent
