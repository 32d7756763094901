"""Files that survive a kill and a power cut: whole or not there, synced before they count."""

import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from cglo_jax.errors import UserError

_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP)  # some network disks sync files only


def sync(path: pathlib.Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDERS):
            raise
    finally:
        os.close(fd)


def sync_tree(folder: pathlib.Path) -> None:
    """Returns when all that is in a folder is on disk."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(pathlib.Path(root, name))
        sync(pathlib.Path(root))


def make_folder(folder: pathlib.Path) -> None:
    """Creates a folder, and those it is in, for good; nothing if it is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def make_file(path: pathlib.Path) -> None:
    """Creates an empty file, and the folders it is in, for good; nothing if it is there."""
    if not path.exists():
        make_folder(path.parent)
        path.touch()
        sync(path.parent)


def rename(path: pathlib.Path, to: pathlib.Path) -> None:
    """Renames within a folder, for good."""
    os.replace(path, to)
    sync(to.parent)


def remove_folder(folder: pathlib.Path) -> None:
    """Removes a folder under another name first: nobody sees half of it under its own."""
    if folder.suffix == ".removed":
        shutil.rmtree(folder)
    elif folder.exists():
        removed = folder.with_name(folder.name + ".removed")
        with contextlib.suppress(FileNotFoundError):  # of an earlier, killed call
            shutil.rmtree(removed)
        os.replace(folder, removed)
        shutil.rmtree(removed)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or none: a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with _named(path), temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    rename(temporary, path)


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
    """Writes a file of these lines, or removes it if there are none."""
    if lines:
        write_atomically(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


def append_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Appends one JSON line, in one write, to the last whole one."""
    with _named(path), path.open("ab+") as file:
        _cut_to_whole_lines(file)
        file.write(json.dumps(record).encode() + b"\n")


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Gives errors of writing, which name no file, that of `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _cut_to_whole_lines(file: BinaryIO) -> None:
    """Cuts a last line off that a killed process left half-written."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads JSON lines; a last line that a killed process left half-written is left out.

    Raises:
      UserError: another line is damaged.
    """
    if not path.exists():
        return []
    records = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise UserError(
                f"{path} is damaged: remove its line {number} and run this again"
            ) from None
    return records


def drop_records(path: pathlib.Path, tags: Mapping[str, Any], after_step: int) -> None:
    """Removes the lines with these tags past a step, which are written again; all without one."""
    records = read_records(path)
    kept = [
        r
        for r in records
        if r.get("step", math.inf) <= after_step
        or any(r.get(k) != v for k, v in tags.items())
    ]
    if path.exists():
        write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept))


def explain(error: BaseException) -> str:
    """Returns why the operating system or a library below Python failed, in one line."""
    if isinstance(getattr(error, "reason", None), OSError):  # what urllib wraps
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.strerror} ({error.filename})" if error.filename else error.strerror
        )
    text = " ".join(str(error).split()) or type(error).__name__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
        if os.strerror(number).lower() in text.lower():  # what C++ tells of one
            return os.strerror(number)
    return f"{text:.200}"
