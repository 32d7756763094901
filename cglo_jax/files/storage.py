"""Files that survive a kill and a power cut: each is whole or absent, and synced to disk before it is used."""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from cglo_jax.errors import UserError

_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP)  # some network disks can sync only files
# Flags of `os.open` for a name where somebody may have put a link or a pipe: no link is followed, no
# pipe is waited for, and no child process inherits the descriptor. Windows has none of them.
GUARDED = 0
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
    GUARDED |= getattr(os, _flag, 0)
_checks: list[Callable[[pathlib.Path], None]] = []  # see `checking`


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
    """Returns when a folder and all files and folders in it are on disk."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(pathlib.Path(root, name))
        sync(pathlib.Path(root))


def make_folder(folder: pathlib.Path) -> None:
    """Creates a folder and its missing parents, synced to disk; does nothing if it exists."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    check_change(folder)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def make_temporary_folder(folder: pathlib.Path, prefix: str) -> pathlib.Path:
    """Creates a folder in `folder` under a name that nobody can foresee, and returns it."""
    check_change(folder)
    made = folder / f"{prefix}{secrets.token_hex(8)}"
    made.mkdir()
    return made


@contextlib.contextmanager
def opened_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields another path of a folder, which leads to it also after it or a parent was renamed.

    On systems without /proc/self/fd it is the folder's own path.
    """
    number = os.open(folder, os.O_RDONLY)
    try:
        path = pathlib.Path(f"/proc/self/fd/{number}")
        yield path if path.is_dir() else folder
    finally:
        os.close(number)


def rename(path: pathlib.Path, to: pathlib.Path) -> None:
    """Renames within a folder, replacing what is at `to`; synced to disk."""
    check_change(path)
    os.replace(path, to)
    sync(to.parent)


def remove_file(path: pathlib.Path) -> None:
    """Removes a file or a link; does nothing if there is none."""
    check_change(path)
    path.unlink(missing_ok=True)


def remove_files(
    folder: pathlib.Path, is_ours: Callable[[pathlib.Path], bool]
) -> list[pathlib.Path]:
    """Removes the files below a folder that are this program's, and then the folders that are empty.

    No link is followed: a link is a file here, and `is_ours` is called for it, too.

    Returns:
      The files that are left, for which `is_ours` returned False.
    """
    check_change(folder)
    left = []
    for root, folders, names in os.walk(folder, topdown=False):
        for name in [*names, *(n for n in folders if os.path.islink(f"{root}/{n}"))]:
            if is_ours(path := pathlib.Path(root, name)):
                path.unlink()
            else:
                left.append(path)
        with contextlib.suppress(OSError):  # something is left in it
            os.rmdir(root)
    return left


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a whole file or none: a reader never sees half a file.

    It is written beside `path` under a name that nobody can foresee, synced, and renamed.

    Raises:
      UserError: `path` exists and is not a regular file.
    """
    write_beside(path, content, temporary_name(path.name))


def temporary_name(name: str) -> str:
    """Returns the name under which a file is written before it is renamed to `name`."""
    return f".{name:.200}.{secrets.token_hex(8)}.tmp"


def write_beside(path: pathlib.Path, content: str | bytes, name: str) -> None:
    """Writes a file under `name`, which is from `temporary_name`, then renames it to `path`."""
    check_plain(path)
    check_change(path)
    temporary = path.with_name(name)
    data = content.encode() if isinstance(content, str) else content
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | GUARDED
    try:
        with _named(path), os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except FileExistsError:
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_plain(path: pathlib.Path) -> None:
    """Raises UserError if `path` exists and is a link, a pipe, a device or a folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(_not_plain(path))


def _not_plain(path: pathlib.Path) -> str:
    return (
        f"{path} is {_kind(path)}, where a file of this program belongs: move it away, or use another "
        "--workdir"
    )


def _kind(path: pathlib.Path) -> str:
    kinds = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(path.lstat().st_mode), "not a regular file")


def open_to_append(path: pathlib.Path) -> BinaryIO:
    """Opens a file for reading and for writing at its end; creates it if there is none.

    Raises:
      UserError: `path` is a link, a pipe, a device or a folder.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | GUARDED
    check_change(path)
    with _named(path):
        check_plain(path)
        try:
            number = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # made after the check above
                raise UserError(_not_plain(path)) from None
            raise
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            os.close(number)
            raise UserError(_not_plain(path))
        file = os.fdopen(number, "ab+")
        if status.st_nlink == 1:
            return file
    with file:  # a backup made of hard links keeps its content
        file.seek(0)
        write_atomically(path, file.read())
    return open_to_append(path)


def is_same(number: int, path: pathlib.Path) -> bool:
    """Whether an open file or folder, by its descriptor `number`, is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False


def contains(outer: pathlib.Path, inner: pathlib.Path) -> bool:
    """Whether `inner` is in the folder `outer` or is that folder, whatever links or `..` its path has."""
    real = pathlib.Path(os.path.realpath(inner))
    top = pathlib.Path(os.path.realpath(outer))
    if real.is_relative_to(top):
        return True
    with contextlib.suppress(OSError):  # disks that ignore case, or are mounted twice
        status = os.stat(top)
        for path in (real, *real.parents):
            if path.exists() and os.path.samestat(os.stat(path), status):
                return True
    return False


def append_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Appends one JSON line to a file in one write, after its last whole line."""
    with _named(path), open_to_append(path) as file:
        append_lines(file, [record])


def append_lines(file: BinaryIO, records: Iterable[Mapping[str, Any]]) -> None:
    """Appends JSON lines to an open file in one write, after its last whole line."""
    _cut_to_whole_lines(file)
    file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))


@contextlib.contextmanager
def checking(check: Callable[[pathlib.Path], None]) -> Iterator[None]:
    """Inside, `check` is called with every path before it is written, renamed or removed."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def check_change(path: pathlib.Path) -> None:
    """Calls every function that `checking` was entered with; they raise if `path` may not be changed."""
    for check in dict.fromkeys(_checks):
        check(path)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Adds the name `path` to errors of writing, which have no file name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _cut_to_whole_lines(file: BinaryIO) -> None:
    """Removes a last line that a killed process left half-written."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads JSON lines; a last line that a killed process left half-written is ignored.

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
                f"{path} is damaged in line {number}: move it away and run this again"
            ) from None
    return records


def explain(error: BaseException) -> str:
    """Returns why the operating system or a library below Python failed, in one line."""
    if isinstance(getattr(error, "reason", None), OSError):  # urllib wraps the cause
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.strerror} ({error.filename})" if error.filename else error.strerror
        )
    text = " ".join(str(error).split()) or type(error).__name__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
        if os.strerror(number).lower() in text.lower():  # an error of C++, as text
            return os.strerror(number)
    return f"{text:.200}"
