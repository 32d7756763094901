"""Standard input, output and error that cannot end a program.

They may be closed (`>&-`, a daemon, pythonw), full, broken (a reader such as `head` that ended, a
terminal that was closed) or have another encoding (PYTHONIOENCODING=ascii). Text that cannot be written is
dropped; letters that the encoding lacks become escapes.
"""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

_NAMES = ("stdin", "stdout", "stderr")  # by the number of the descriptor
# Values of Python's `errors` with which writing may raise.
_RAISING = ("strict", "surrogateescape", "surrogatepass")


class _Lenient(io.RawIOBase):
    """Writes to a raw stream, and drops data that cannot be written.

    Args:
      raw: the stream; None: all data is dropped.

    Attributes:
      error: why data was dropped, the last time that it was.
    """

    def __init__(self, raw: io.RawIOBase | None):
        self._raw = raw
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Returns the number of bytes that were written or dropped."""
        size = memoryview(data).nbytes
        if self._raw is None:
            return size
        try:
            while (written := self._raw.write(data)) is None:
                # Another program made the stream non-blocking: wait until it takes data.
                select.select([], [self._raw.fileno()], [])
            return written
        except OSError as error:
            self.error = error
        except ValueError:  # somebody closed the Python object
            pass
        return size

    def writable(self) -> bool:
        """Returns True: it can always be written to."""
        return True

    def isatty(self) -> bool:
        """Returns whether it is a terminal that is still open."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Returns the stream's descriptor.

        Raises:
          OSError: there is no stream.
        """
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return self._raw.fileno()


class _Stream(io.TextIOWrapper):
    """A text stream that never raises, in place of `given`; if that is None, all text is dropped."""

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
        self._given = given  # kept: when it is deleted it closes its descriptor
        self._lenient = _Lenient(raw)
        super().__init__(io.BufferedWriter(self._lenient), **style)

    @property
    def error(self) -> OSError | None:
        """Why text was dropped, the last time that it was; None if all was written."""
        return self._lenient.error


def _find_raw(stream: object) -> io.RawIOBase | None:
    """Returns the raw stream below one of Python's own standard streams, None for any other stream."""
    if type(stream) is not io.TextIOWrapper or stream.closed:
        return None
    raw = getattr(stream.buffer, "raw", stream.buffer)  # the latter: python -u
    return raw if isinstance(raw, io.RawIOBase) else None


def mend() -> None:
    """Replaces the standard streams of this process by streams that never raise; call it first of all.

    The next opened file would get the number of a closed descriptor: C libraries would print into a
    checkpoint. So closed descriptors are opened, to /dev/null.
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
            setattr(sys, name, _Stream(stream))


def _open_nowhere(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(opened, number)
        os.close(opened)


@contextlib.contextmanager
def mended() -> Iterator[None]:
    """Inside, the streams are mended, in a program that is not ours; it gets its streams back."""
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
    """Checks that all text printed to a mended standard output was written.

    For programs whose printed lines are their result.

    Raises:
      BrokenPipeError: its reader has ended.
      OSError: it is full, or could not be written.
    """
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, _Stream) else None
    if error:
        raise OSError(error.errno, error.strerror, "standard output")
