"""Image files of any kind -> 8-bit sRGB, upright, opaque; or a plain reason why not.

Whatever a file holds, reading it does not raise: the files are people's own, and one bad file among
thousands must not stop a run. Pillow decodes. Pillow, and libtiff below it, print warnings about
damaged files: our programs silence them, other programs that use this package decide for themselves.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from cglo_jax.data import colours
from cglo_jax.data.colours import DEFAULT, Conversion, Profile
from cglo_jax.errors import printable
from cglo_jax.process import setup

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MAX_PIXELS = 100_000_000
MAX_BYTES = 200 << 20  # of a file; Pillow may hold two copies
_LONG = 16 << 20  # bytes; a longer file is read while no other is
_MAX_SCANS = 200  # of a JPEG: some 10 are usual, thousands of empty scans take minutes
_MIN_SIDE = 4
_MAX_ASPECT = (
    50  # long side / short side: thin images, scaled up, would fill the memory
)
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

# A JPEG's marker that has a length.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
_BAND = 1 << 20  # pixels that are converted at once
# Pillow's raw modes of 16 bits per channel, of which it keeps the high 8
_DEEP = re.compile(r"(RGB|RGBA|RGBX|RGBa|LA|CMYK);16([BLN])")
_PAIRS = ("RGB", "RGBA", "RGBX", "CMYK")  # the modes that it reads in both byte orders

T = TypeVar("T")


class UnusableImage(Exception):
    """Why a file cannot be used: "kind" or "kind (details)", in plain words."""


class Decoded(NamedTuple):
    """A decoded image, ready for networks.

    Attributes:
      image: mode "RGB", turned upright.
      grey: the file stores shades of grey.
      transparent: some of its pixels were, and have the background's colour now.
      turned: by its EXIF data. (A TIFF's own orientation is not counted.)
      file_hash: 32 hexadecimal digits of the file's content if its format may be lossy, or its
        colours were converted: which pixels that becomes depends on the decoder's version. Else "".
      content: hash of colours and transparency of a transparent image, whatever it is put on.
      hidden_on: backgrounds on which a transparent image cannot be seen.
      largest: the largest of the values that are stored with 16 bits and may use fewer, 0 without any.
      profile: "converted" to sRGB, "unusable" or "" (there is none, or it is sRGB's).
      mark: what is not the default in its conversion; a part of its id.
    """

    image: Image.Image
    grey: bool
    transparent: bool
    turned: bool
    file_hash: str = ""
    content: str = ""
    hidden_on: tuple[str, ...] = ()
    largest: int = 0
    profile: str = ""
    mark: str = ""


class _Budget:
    """An amount that threads share; a thread that takes a part waits until it is free."""

    def __init__(self, total: int):
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Holds `amount` inside the context; more than the total is held as all of the total."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            if amount > self._total // 2:
                _give_back_memory()
            with self._changed:
                self._free += amount
                self._changed.notify_all()


def _give_back_memory() -> None:
    """Returns freed memory to the system where glibc would keep it for the thread that freed it.

    Ten loads of the tests' zoo of hostile files peaked at 0.59 to 0.78 GB with it, six at 0.6 to 1.15 GB
    without: it depends on which thread gets which of the large images. After every photograph of 12
    million pixels it would take 45 % more time.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


# Pixels that all threads hold together. While a larger image, or a long file, is decoded no other is.
_PIXELS = _Budget(48_000_000)


def decode_each(
    paths: Sequence[Path],
    use: Callable[[Decoded], T],
    name: str = "",
    conversion: Conversion = DEFAULT,
) -> list[T | UnusableImage]:
    """Decodes files on a few threads, each image held no longer than `use` needs it.

    Of animations and of files with several pages only the first image is decoded. Values of 16 bits are
    scaled to 8, other modes are converted as Pillow does.

    Args:
      paths: n files of any kind, directories excepted.
      use: what to keep of an image; called on several threads.
      name: title of a progress bar, which is shown on a terminal; "": no bar.
      conversion: how transparency, values of 16 bits and colour profiles are converted.

    Returns:
      n results, in the order of `paths`: what `use` returned, or why the file cannot be used.
    """

    def decode(path: Path) -> T | UnusableImage:
        with contextlib.ExitStack() as held:
            try:
                return use(_decode(path, held, conversion))
            except UnusableImage as why:
                # A new exception: the traceback of this one holds the image.
                return UnusableImage(*why.args)

    if setup.is_ours():
        _silence()
    with (
        ThreadPoolExecutor(THREADS) as pool,
        contextlib.closing(pool.map(decode, paths)) as results,  # Ctrl-C stops the rest
    ):
        if name:
            return list(tqdm(results, name, len(paths), leave=False, disable=None))
        return list(results)  # tqdm starts a thread, shown or not


def _silence() -> None:
    """Silences Pillow and libtiff for the rest of this process, which a program of ours began.

    libtiff writes its errors to descriptor 2. Its error handler is removed, so no descriptor is
    redirected; where libtiff is out of reach (built into Pillow), its lines are printed.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with contextlib.suppress(OSError, AttributeError):
        find_libtiff().TIFFSetErrorHandler(None)


def find_libtiff() -> ctypes.CDLL:
    """Returns the libtiff that Pillow uses, or a library without its functions."""
    library = ctypes.CDLL(Image.core.__file__)  # and all that it is linked to
    with contextlib.suppress(AttributeError):
        library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
        library.TIFFSetErrorHandler.restype = ctypes.c_void_p
    return library


def _decode(
    path: Path, held: contextlib.ExitStack, conversion: Conversion = DEFAULT
) -> Decoded:
    """Decodes a file; `held` is closed when the image is no longer used."""
    with _open(path) as file:
        if long := os.fstat(file.fileno()).st_size > _LONG:
            held.enter_context(_PIXELS.take(_MAX_PIXELS))
        try:
            with Image.open(file, formats=_FORMATS) as image:
                _check_shape(*image.size)
                _check_scans(image, file)
                if not long:
                    held.enter_context(_PIXELS.take(image.width * image.height))
                deep = _is_deep(image)
                image.load()
                low = _load_low_bytes(file) if deep and conversion.bits < 16 else None
                decoded = _normalise(image, conversion, deep, low)
                if _may_be_lossy(image) or decoded.profile == "converted":
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
            known = ", ".join(_FORMATS)
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
    return UnusableImage(f"too large (more than {_MAX_PIXELS // 10**6} million pixels)")


def _check_shape(width: int, height: int) -> None:
    """Refuses sides that a file's header gives, before any pixel is decoded."""
    short, long = sorted([width, height])
    if width * height > _MAX_PIXELS:
        raise _too_large()
    if short < _MIN_SIDE:
        least = f"{_MIN_SIDE}x{_MIN_SIDE}"
        raise UnusableImage(f"too small ({width}x{height} pixels, {least} are needed)")
    if long > _MAX_ASPECT * short:
        raise UnusableImage(f"too long and thin ({width}x{height} pixels)")


def _check_scans(image: Image.Image, file: BinaryIO) -> None:
    """Refuses a JPEG that stores the same pixels over and over."""
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
    if scans > _MAX_SCANS:
        raise UnusableImage(f"too many scans ({scans}, save it as a baseline JPEG)")


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow will drop the low 8 of 16 bits when it loads the image."""
    return any(_DEEP.fullmatch(str(_raw_mode(tile.args))) for tile in image.tile)


def _raw_mode(args: Any) -> Any:
    return args[0] if isinstance(args, tuple) and args else args


def _load_low_bytes(file: BinaryIO) -> Image.Image | None:
    """Loads the image whose channels are the low 8 of 16 bits, if Pillow can.

    Pillow keeps the first or the second byte of each pair, by the byte order in the raw mode's name.
    """
    file.seek(0)
    with Image.open(file, formats=_FORMATS) as image:
        tiles = []
        for tile in image.tile:
            mode, order = _DEEP.fullmatch(_raw_mode(tile.args)).groups()
            if mode not in _PAIRS:
                return None
            if order == "N":
                order = {"little": "L", "big": "B"}[sys.byteorder]
            swapped = f"{mode};16{'L' if order == 'B' else 'B'}"
            rest = tile.args[1:] if isinstance(tile.args, tuple) else None
            args = swapped if rest is None else (swapped, *rest)
            tiles.append(tile._replace(args=args))
        image.tile = tiles
        image.load()
        return image.copy()


def _normalise(
    image: Image.Image,
    conversion: Conversion,
    deep: bool = False,
    low: Image.Image | None = None,
) -> Decoded:
    """Converts a loaded image of any mode and orientation to upright RGB.

    Args:
      image: loaded by Pillow.
      deep: whether it had 16 bits per channel, of which Pillow dropped the low 8.
      low: the low 8 bits, if they are needed and Pillow can load them.
    """
    mode = image.mode
    turn = _find_turn(image)
    if mode == "F" or (mode == "I" and image.format == "TIFF"):
        advice = "save it with 8 or 16 bits per channel"
        raise UnusableImage(f"pixels without a known range ({advice})")
    decoded = _convert(image, conversion, deep, low)
    grey = mode in ("1", "L", "LA") or mode.startswith("I")
    upright = decoded.image if turn is None else decoded.image.transpose(turn)
    return decoded._replace(image=upright, grey=grey, turned=turn is not None)


def _convert(
    image: Image.Image, conversion: Conversion, deep: bool, low: Image.Image | None
) -> Decoded:
    """Converts to opaque RGB, not yet turned; by bands of rows, to save memory."""
    table, is_open, largest = None, deep, 0
    if image.mode.startswith("I"):
        table, is_open = _scale_16_bits(image, conversion.bits)
    elif deep and conversion.bits < 16:
        table = _scale(conversion.bits)
    profile = _find_profile(image) if conversion.profiles else Profile("")
    rgb = Image.new("RGB", image.size, conversion.background)
    digest = hashlib.sha256(repr(image.size).encode())
    transparent, visibility = False, colours.Visibility()
    clear = image.has_transparency_data
    if clear and image.mode in ("RGBA", "LA"):  # most are opaque nevertheless
        clear = image.getextrema()[-1][0] < 255
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = image.crop(box)
        if image.mode.startswith("I"):
            if is_open:
                largest = max(largest, int(np.asarray(band).max()))
            part, alpha = _from_16_bits(band, table)
        else:
            part, alpha = _split_alpha(band, profile, clear)
            if deep:
                largest = max(largest, *(top for _, top in _extrema(part)))
            if table is not None:
                part = _join_bytes(part, None if low is None else low.crop(box), table)
            part = _to_srgb(part, profile)
        rgb.paste(part, (0, top), mask=alpha)
        if clear and alpha is not None:
            transparent |= alpha.getextrema()[0] < 255
            visibility.add(part, alpha)
            _add_hash(digest, part, alpha)
    if deep and largest >= 0:
        largest = (largest << 8) + 255
    decoded = Decoded(
        rgb, False, transparent, False, largest=largest, profile=profile.state
    )
    marks = ["sRGB"] if profile.state == "converted" else []
    if transparent:
        if not visibility.anything:
            raise UnusableImage("nothing to see (all of it is transparent)")
        decoded = decoded._replace(
            content=digest.hexdigest()[:32], hidden_on=visibility.hidden_on()
        )
        if conversion.background != DEFAULT.background:
            marks.append(f"on {conversion.background}")
    return decoded._replace(mark=" ".join(marks))


def _extrema(image: Image.Image) -> Sequence[tuple[int, int]]:
    found = image.getextrema()
    return found if isinstance(found[0], tuple) else (found,)


def _split_alpha(
    band: Image.Image, profile: Profile, clear: bool
) -> tuple[Image.Image, Image.Image | None]:
    """Returns a band as "RGB", or in the mode that the profile takes ("L", "CMYK"), and its alpha if any."""
    alpha, mode = None, "RGB"
    if clear:
        alpha = band.convert("RGBA").getchannel("A")
    if profile.state == "converted" and profile.mode != "RGB":
        mode = profile.mode
    if band.mode == "P" or (alpha is not None and band.mode not in ("L", "LA")):
        band = band.convert("RGBA")
    return band.convert(mode), alpha


def _to_srgb(part: Image.Image, profile: Profile) -> Image.Image:
    if profile.state == "converted":
        return colours.apply_profile(part, profile)
    return part


def _add_hash(digest: Any, rgb: Image.Image, alpha: Image.Image) -> None:
    """Adds pixels to a hash; the colours of wholly transparent pixels do not count."""
    share = np.asarray(alpha.convert("L"))
    pixels = np.dstack([np.asarray(rgb), share])
    pixels[share == 0] = 0
    digest.update(pixels.tobytes())


def _find_profile(image: Image.Image) -> Profile:
    content = image.info.get("icc_profile")
    if not content:
        return Profile("")
    mode = {"L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if mode == "RGB" and image.mode not in ("RGB", "RGBA", "RGBX", "P", "YCbCr"):
        return Profile("unusable")
    return colours.read_profile(bytes(content), mode)


def _may_be_lossy(image: Image.Image) -> bool:
    tiff = image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF
    return tiff or image.format in _LOSSY


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """Returns what turns an image upright by its EXIF data; Pillow turns a TIFF when it loads it."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Warning:  # an error in this process: not to be hidden
        raise
    except Exception:  # noqa: BLE001 - any; broken EXIF data harm no pixel
        return None


def _scale(bits: int) -> np.ndarray:
    """Returns uint8 [65536], the grey of each value if `bits` bits are used; larger values are white."""
    largest = (1 << bits) - 1
    table = np.minimum(np.round(np.arange(1 << 16) * (255 / largest)), 255)
    return table.astype(np.uint8)


def _scale_16_bits(image: Image.Image, bits: int) -> tuple[np.ndarray, bool]:
    """Scales 16-bit grey by its whole range: Pillow's own conversion clips, or has clipped.

    Pillow scales a PGM's largest value to 65535 itself; a TIFF may have fewer bits than 16, and may
    mean white by 0. How many bits all others use depends on the whole data set.

    Args:
      bits: how many bits the data set uses.

    Returns:
      (uint8 [65536], the grey of each value; whether it depends on `bits`).
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    stored = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    is_open = stored == 16 and image.format != "PPM"
    table = _scale(bits if is_open else stored)
    return (255 - table if tags.get(_PHOTOMETRIC) == 0 else table), is_open


def _join_bytes(
    high: Image.Image, low: Image.Image | None, table: np.ndarray
) -> Image.Image:
    """Scales 16-bit values whose high and low bytes are two images of one mode."""
    values = np.asarray(high).astype(np.uint16) << 8
    if low is not None:
        values |= np.asarray(low.convert(high.mode))
    return Image.fromarray(table[values], high.mode if high.mode == "CMYK" else None)


def _from_16_bits(
    band: Image.Image, table: np.ndarray
) -> tuple[Image.Image, Image.Image | None]:
    """Returns "RGB", and alpha if one value of a PNG is transparent."""
    pixels = np.asarray(band)
    clear = band.info.get("transparency")
    rgb = Image.fromarray(table[pixels]).convert("RGB")
    return rgb, None if clear is None else Image.fromarray(pixels != clear)
