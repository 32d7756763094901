"""Reads files of a work directory, which anybody may have prepared or be writing to.

Only plain files are read, up to the size that a file of ours can have, and JSON is checked against a type.
A file that cannot be used is refused in one line.
"""

import errno
import io
import json
import os
import pathlib
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec
from PIL import Image

from cglo_jax.errors import UserError, printable, shorten
from cglo_jax.files import storage

T = TypeVar("T")

# Types of what is read.
_EXACT = 1 << 53  # up to it every whole number is a float
Count = Annotated[int, msgspec.Meta(ge=0, le=_EXACT)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=_EXACT)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Number = Annotated[float, msgspec.Meta(ge=-1e100, le=1e100)]  # neither NaN nor infinite
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e100)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
String = Annotated[str, msgspec.Meta(max_length=4096)]
# It is printed, and part of file names: \Z, as $ allows a line break at the end.
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]{1,64}\Z")]
_Whole = Annotated[int, msgspec.Meta(ge=-_EXACT, le=_EXACT)]
Scalar = bool | _Whole | float | str | None
Fields = dict[str, Scalar | list[Scalar]]  # a configuration's values by dotted name

_MOST_BYTES = 1 << 26  # of a file that is read as a whole
MOST_ENTRIES = 10_000  # of a folder of ours that is listed
_LONGEST_LINE = 1 << 16  # bytes of JSON lines
_MOST_PIXELS = (
    89_478_485  # of a picture; Pillow warns of larger ones, before they are decoded
)
_PATIENCE = 2.0  # seconds to wait for a folder that is being changed
_PAUSE = 0.02  # seconds between two looks at it
_REASONS = {errno.ELOOP: "it is a link", errno.ENXIO: "it is not a regular file"}


class Unusable(UserError):
    """A file or folder of a work directory that is there and cannot be used.

    Attributes:
      reason: why, in a few words without its name.
    """

    def __init__(self, path: pathlib.Path, reason: object, advice: str):
        self.reason = shorten(printable(reason))
        super().__init__(f"{printable(path)} cannot be used ({self.reason}): {advice}")


def open_own(path: pathlib.Path, advice: str = "move it away") -> BinaryIO:
    """Opens a plain file to read; folders on the way to it may be links.

    Args:
      advice: what a person can do about a file that is refused, without losing anything.

    Raises:
      FileNotFoundError: the file does not exist.
      Unusable: it is a link, a pipe or a folder, or may not be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | storage.GUARDED)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        reason = _REASONS.get(getattr(error, "errno", None), reason)
        raise Unusable(path, reason, advice) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Unusable(path, "it is not a regular file", advice)
    return os.fdopen(fd, "rb")


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a file in `folder` that one of our files names `name`.

    Raises:
      Unusable: the name leads out of the folder.
    """
    parts = pathlib.PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in name:
        reason = f"it names {name!r}, which is not in it"
        raise Unusable(folder, reason, "move it away and make it again")
    return folder / parts


def read_bytes(
    path: pathlib.Path, advice: str = "move it away", most: int = _MOST_BYTES
) -> bytes:
    """Reads a whole plain file of at most `most` bytes.

    Raises:
      FileNotFoundError, Unusable: see `open_own`; Unusable also if it is larger.
    """
    with open_own(path, advice) as file:
        try:
            size = min(os.fstat(file.fileno()).st_size, most)
            content = file.read(size + 1)  # one more: it may grow
        except OSError as error:  # of a disk
            raise Unusable(path, error.strerror, advice) from None
    if len(content) > most:
        raise Unusable(path, f"it has more than {most:,} bytes", advice)
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_unique)


def parse(content: bytes, kind: type[T]) -> T:
    """Returns the JSON value of `content`, which must have a type that msgspec can check.

    Fields that a TypedDict does not declare are dropped.

    Raises:
      ValueError: it is no JSON value of that type; the message is why.
    """
    try:
        return convert(_JSON.decode(content.decode()), kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def convert(value: Any, kind: type[T]) -> T:
    """Checks a JSON value as `parse` does; returns it or raises ValueError."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def read_json(
    path: pathlib.Path,
    kind: type[T],
    advice: str = "move it away",
    check: Callable[[T], None] = lambda _: None,
    most: int = _MOST_BYTES,
) -> T:
    """Reads a file of one JSON value, see `parse`.

    Args:
      check: raises ValueError for values that the type allows but that cannot be ours.

    Raises:
      FileNotFoundError, Unusable: see `read_bytes`; Unusable also if it is of another type.
    """
    content = read_bytes(path, advice, most)
    try:
        value = parse(content, kind)
        check(value)
    except ValueError as error:
        raise Unusable(path, error, advice) from None
    return value


def read_records(
    path: pathlib.Path,
    kind: type[T],
    advice: str = "move it away",
    check: Callable[[T], None] = lambda _: None,
) -> Iterator[T]:
    """Yields the records of a file of JSON lines; the arguments are those of `read_lines`."""
    for _, record in read_lines(path, kind, advice, check):
        yield record


def read_lines(
    path: pathlib.Path,
    kind: type[T],
    advice: str = "move it away",
    check: Callable[[T], None] = lambda _: None,
) -> Iterator[tuple[bytes, T]]:
    """Yields each line of a file of JSON lines and its record; nothing if there is no file.

    One line at a time is in memory. What is appended meanwhile is left out, and so is a last line
    without its end, which is being written or was when its process was killed.

    Args:
      kind: the type of the records, see `parse`.
      advice: what a person can do about a file that is refused.
      check: raises ValueError for values that the type allows but that cannot be ours.

    Raises:
      Unusable: the file is not a regular file, or a line is damaged, which is named by its number.
    """
    try:
        file = open_own(path, advice)
    except FileNotFoundError:
        return
    with file:
        left, number = os.fstat(file.fileno()).st_size, 0
        while line := file.readline(min(left, _LONGEST_LINE)):
            left, number = left - len(line), number + 1
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                return
            try:
                if not line.endswith(b"\n"):
                    raise ValueError(f"longer than {_LONGEST_LINE:,} bytes")
                record = parse(line, kind)
                check(record)
            except ValueError as error:
                raise Unusable(path, f"line {number}: {error}", advice) from None
            yield line, record


def list_names(folder: pathlib.Path) -> list[str]:
    """Returns the sorted names in a folder; an empty list if there is no folder.

    Raises:
      Unusable: there are more than a folder of ours can have, or the folder may not be listed.
    """
    advice = "move what is not of this program out of it"
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > MOST_ENTRIES:
                    reason = f"more than {MOST_ENTRIES:,} entries"
                    raise Unusable(folder, reason, advice)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Unusable(folder, error.strerror, advice) from None
    return sorted(names)


def read_png(
    path: pathlib.Path, advice: str = "move it away", most: int = _MOST_BYTES
) -> Image.Image:
    """Reads a PNG picture as a Pillow image of mode "RGB" or "L".

    Raises:
      FileNotFoundError, Unusable: see `read_bytes`; Unusable also if it is not a PNG, is damaged or
        has more pixels than are shown.
    """
    content = read_bytes(path, advice, most)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                return image.convert("L" if image.mode == "L" else "RGB")
    except Image.UnidentifiedImageError:
        raise Unusable(path, "it is not a PNG", advice) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unusable(path, f"more than {_MOST_PIXELS:,} pixels", advice) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise Unusable(path, error, advice) from None


def encode_png(image: Image.Image) -> bytes:
    """Returns a picture as a PNG file that holds its pixels and nothing else."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def read_steadily(folder: pathlib.Path, read: Callable[[], T]) -> T | None:
    """Reads several files of a folder that belong together, while others may replace them.

    They are replaced by renames within the folder: old entries into a folder .old-*, which exists only
    meanwhile, then new entries out of a folder .new-*.

    Args:
      read: reads the files; called again if the folder changed meanwhile.

    Returns:
      What `read` returned; None if the folder kept changing for two seconds.

    Raises:
      Unusable, FileNotFoundError: `read` raised it, and the folder did not change meanwhile.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        before = _identify(folder)
        if before is not None:
            try:
                value, error = read(), None
            except (Unusable, FileNotFoundError) as raised:
                value, error = None, raised
            if _identify(folder) == before:
                if error:
                    raise error
                return value
        if time.monotonic() > end:
            return None
        time.sleep(_PAUSE)


def _identify(folder: pathlib.Path) -> list[tuple[str, int, int]] | None:
    """Returns name, inode and time of change of all entries, None while they are being replaced."""
    names = [name for name in list_names(folder) if not name.startswith(".new-")]
    if any(name.startswith(".old-") for name in names):
        return None
    found = []
    for name in names:
        try:
            status = os.lstat(folder / name)
        except OSError:
            return None
        found.append((name, status.st_ino, status.st_mtime_ns))
    return found
