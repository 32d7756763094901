"""One run at a time in a work directory."""

import contextlib
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from cglo_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a work directory; it ends with this process, however that ends.

    The file `lock` stays: it says who holds the lock, or held it last.

    Raises:
      UserError: another process holds it; names that process.
    """
    with (workdir / "lock").open("a+", encoding="utf-8") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(_tell(workdir, file)) from None
            except OSError as error:  # a network disk may have no locks
                text = f"warning: no lock in {workdir} ({error.strerror}): start no other run there"
                print(text, file=sys.stderr, flush=True)
        if not _is(file, workdir / "lock"):  # set aside just now
            raise UserError(_tell(workdir, file))
        file.truncate(0)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": " ".join(sys.argv),
        }
        file.write(json.dumps(holder) + "\n")
        file.flush()
        yield


def _is(file: TextIO, path: pathlib.Path) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _tell(workdir: pathlib.Path, file: TextIO) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        who = "process {pid} on {host} since {since}".format(**holder)
    except (ValueError, KeyError):  # it has not written it yet
        who = "another process"
    return (
        f"--workdir={workdir} is in use by {who}: wait until it has ended, end it, or use "
        "another --workdir"
    )
