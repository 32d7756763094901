"""Standard input, output and error that cannot end a program.

They may be closed (`>&-`, a daemon, pythonw), full, broken (a reader such as `head` that left, a
terminal that was closed) or without the letters (PYTHONIOENCODING=ascii). What cannot be written is
dropped, letters that the encoding lacks become escapes.
"""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

_NAMES = ("stdin", "stdout", "stderr")  # by the number of the descriptor
_RAISING = ("strict", "surrogateescape", "surrogatepass")  # of what Python calls errors


class _Lenient(io.RawIOBase):
    """Writes to a raw stream, and takes for written what cannot be.

    Args:
      raw: None: nothing is written.

    Attributes:
      error: why the newest part that was not written was not.
    """

    def __init__(self, raw: io.RawIOBase | None):
        self._raw = raw
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Returns the number of bytes that need not be written again."""
        size = memoryview(data).nbytes
        if self._raw is None:
            return size
        try:
            while (written := self._raw.write(data)) is None:
                # Another program let writes to it not wait; we do.
                select.select([], [self._raw.fileno()], [])
            return written
        except OSError as error:
            self.error = error
        except ValueError:  # somebody closed the Python object
            pass
        return size

    def writable(self) -> bool:
        """Returns True."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal that is still there."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Returns the descriptor.

        Raises:
          OSError: there is none.
        """
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return self._raw.fileno()


class Stream(io.TextIOWrapper):
    """A text stream that never raises, in place of the one given; None: nothing is written."""

    def __init__(self, given: io.TextIOWrapper | None):
        style: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
        raw = None
        if given is not None:
            raw = _find_raw(given)
            style["encoding"] = given.encoding
            if given.errors not in _RAISING:
                style["errors"] = given.errors
            # python -u writes through at once, which would end in the buffer below.
            style["line_buffering"] = given.line_buffering or given.write_through
        self._given = given  # it would close what is below it when it is forgotten
        self._lenient = _Lenient(raw)
        super().__init__(io.BufferedWriter(self._lenient), **style)

    @property
    def error(self) -> OSError | None:
        """Why the newest part that could not be written could not be, None if all was."""
        return self._lenient.error


def _find_raw(stream: object) -> io.RawIOBase | None:
    """The raw stream below one of Python's own standard streams, None for any other."""
    if type(stream) is not io.TextIOWrapper or stream.closed:
        return None
    raw = getattr(stream.buffer, "raw", stream.buffer)  # the latter: python -u
    return raw if isinstance(raw, io.RawIOBase) else None


def mend() -> None:
    """Makes the standard streams of this process harmless, for good; before it opens any file.

    A descriptor that is closed would be the next opened file's: a checkpoint would get what C
    libraries print. It is opened, to nowhere.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _open_nowhere(number)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    for name in _NAMES[1:]:
        stream = getattr(sys, name)
        if stream is None or _find_raw(stream):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
            setattr(sys, name, Stream(stream))


def _open_nowhere(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(opened, number)
        os.close(opened)


@contextlib.contextmanager
def mended() -> Iterator[None]:
    """The same for a while, in a program that is not ours: it gets its streams back."""
    given = {name: getattr(sys, name) for name in _NAMES}
    mend()
    try:
        yield
    finally:
        for name, stream in given.items():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                getattr(sys, name).flush()
            setattr(sys, name, stream)


def check_output() -> None:
    """Checks that all that was printed to a mended standard output was written.

    For programs whose printed lines are their result.

    Raises:
      BrokenPipeError: its reader has left. OSError: it is full, or could not be written.
    """
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, Stream) else None
    if error:
        raise OSError(error.errno, error.strerror, "standard output")
