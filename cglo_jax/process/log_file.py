"""log.txt: all lines that a run printed, with their times, in its work directory.

A terminal may be closed, a pipe broken, and a service has neither: log.txt has every line.
"""

import contextlib
import os
import pathlib
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO

from cglo_jax.errors import UserError
from cglo_jax.files import storage

NAME = "log.txt"
_MOST_WAITING = 1000  # lines kept in memory before there is a work directory


class _Log:
    """Lines of the log; until `keep` names a work directory they are kept in memory."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._file: BinaryIO | None = None

    def add(self, text: str) -> None:
        """Adds a line; one that cannot be written is dropped."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        data = line.encode(errors="backslashreplace")
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.write(self._file.fileno(), data)
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting.append(data)

    def keep(self, workdir: pathlib.Path) -> None:
        """Writes all lines so far, and from here on every line, to the log of a work directory."""
        # A link, or what is no plain file, is not written to.
        with contextlib.suppress(OSError, UserError):
            file = storage.open_to_append(workdir / NAME)
            os.write(file.fileno(), b"".join(self._waiting))
            self._file = file

    def close(self) -> None:
        """Closes the file; later lines are dropped."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class _Copied:
    """A stream whose lines are also added to a log; errors of the stream are dropped."""

    def __init__(self, stream: Any, log: _Log):
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        """Writes text; of a line that is drawn again, such as a progress bar, the log has the last version."""
        *whole, rest = (self._line + text).split("\n")
        for line in whole:
            if shown := line.rstrip().rpartition("\r")[2]:
                self._log.add(shown)
        self._line = rest.rpartition("\r")[2]
        with contextlib.suppress(OSError, ValueError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                escaped = text.encode(error.encoding, "backslashreplace")
                self._stream.write(escaped.decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_log: _Log | None = None  # of the run that is under way in this process


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Copies all that is printed inside, and the traceback of what is raised, to the log that `keep` names."""
    global _log
    log, given = _Log(), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (_Copied(stream, log) for stream in given)
    _log = log
    log.add(f"started: {shlex.join(sys.argv)}")
    try:
        yield
    except Exception:
        for line in traceback.format_exc().splitlines():
            log.add(line)
        raise
    finally:
        sys.stdout, sys.stderr = given
        _log = None
        log.close()


def keep(workdir: pathlib.Path) -> None:
    """Writes all lines printed in `recording`, so far and from here on, to workdir/log.txt."""
    if _log:
        _log.keep(workdir)


def note(text: str) -> None:
    """Adds a line that was not printed through Python's streams."""
    if _log:
        _log.add(text)
