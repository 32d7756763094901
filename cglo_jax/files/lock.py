"""One run at a time in a work directory, and only for as long as it is still the same directory."""

import contextlib
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from cglo_jax.errors import UserError
from cglo_jax.files import readback, storage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "lock"
_LONGEST = 1 << 16  # bytes of a lock's content


class _Held(NamedTuple):
    workdir: pathlib.Path  # as it was named, absolute
    folder: int  # the open directory
    file: BinaryIO  # its open lock

    def is_there(self) -> bool:
        """Whether the directory's name still leads to the directory and the lock that were opened."""
        return storage.is_same(self.folder, self.workdir) and storage.is_same(
            self.file.fileno(), self.workdir / NAME
        )


_held: list[_Held] = []


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a work directory; it ends with this process, however that ends.

    The file `lock` stays: it names the process that holds the lock, or held it last. Until the end
    `check` finds out whether the directory was renamed or replaced.

    Raises:
      UserError: another process holds it (the message names that process), or a file of that name is
        not this program's.
    """
    path = workdir / NAME
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(storage.open_to_append(path))
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(_name_holder(workdir, file)) from None
            except OSError as error:  # a network disk may have no locks
                text = f"warning: no lock in {workdir} ({error.strerror}): start no other run there"
                print(text, file=sys.stderr, flush=True)
        if not storage.is_same(file.fileno(), path):  # it was set aside just now
            raise UserError(_name_holder(workdir, file))
        _check_ours(path, file)
        file.truncate(0)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": " ".join(sys.argv),
        }
        file.write(json.dumps(holder).encode() + b"\n")
        file.flush()
        folder = os.open(workdir, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        stack.callback(os.close, folder)
        held = _Held(pathlib.Path(os.path.abspath(workdir)), folder, file)
        _held.append(held)
        stack.callback(_held.remove, held)
        stack.enter_context(storage.checking(check))
        yield


def check(path: pathlib.Path) -> None:
    """Checks that the work directory that `path` lies in is still the one that is held here.

    It is called before every write, rename and removal. Paths outside the held directories are not checked.

    Raises:
      UserError: the directory was renamed, removed or replaced by another.
    """
    path = pathlib.Path(os.path.abspath(path))
    for held in _held:
        if path.is_relative_to(held.workdir) and not held.is_there():
            raise UserError(
                f"--workdir={held.workdir} is no longer the directory of this run"
                f"{_find(held)}: this run has ended, and has changed nothing in what is there now; "
                "the same command with the directory's new name continues from the last checkpoint"
            )


def _find(held: _Held) -> str:
    """Returns where an open directory is now, as words for a message; "" if it is not known."""
    try:
        place = os.readlink(f"/proc/self/fd/{held.folder}")
    except OSError:  # not Linux
        return ""
    if place.endswith(" (deleted)"):
        return " (it was removed)"
    same = place == os.path.realpath(held.workdir)
    return "" if same else f" (that is {place} now)"


def check_usable(workdir: pathlib.Path) -> None:
    """Raises UserError if a directory has a file `lock` that is somebody else's."""
    path = workdir / NAME
    storage.check_plain(path)
    with contextlib.suppress(FileNotFoundError), readback.open_own(path) as file:
        _check_ours(path, file)


def _check_ours(path: pathlib.Path, file: BinaryIO) -> None:
    """Raises UserError unless a lock's content is empty or what `hold` writes."""
    text = _read(file)
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        if not text or "pid" in json.loads(text):
            return
    raise UserError(
        f"{path} is not of this program, which keeps a file of that name there: move it away, or use "
        "another --workdir"
    )


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(_LONGEST)


def _name_holder(workdir: pathlib.Path, file: BinaryIO) -> str:
    try:
        holder = dict(json.loads(_read(file)))
        who = (
            f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
        )
    except (ValueError, KeyError, TypeError, RecursionError):  # not written yet
        who = "another process"
    return (
        f"--workdir={workdir} is in use by {who}: wait until it has ended, end it, or use "
        "another --workdir"
    )
