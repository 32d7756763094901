"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) end a run after it has saved.

A second signal ends the process at once. `timeout` and launchers send the same signal twice at once, and a
terminal that is closed sends SIGHUP, often more than once: these count as one signal.
"""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cglo_jax.process import log_file

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_SIGNALS = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, _HANGUP)))
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_SAME_S = 0.2  # signals within so many seconds are one request
_PATIENCE_S = 5.0  # until a process with nothing to save is ended, whatever it computes
_UNHEARD_S = (
    0.2  # until the signal is repeated, in case the main thread had just begun to wait
)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
      status: the exit status, 128 + the signal's number.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


_received: list[int] = []  # signals that the watching thread saw, in order
_heard: list[int] = []  # signals that the main thread handled
_leaving: Callable[[], None] = lambda: None
_begun = False  # whether there may be something to save or to close
_saving = 0  # how many `deferred` are entered
_dropped = False  # whether Python dropped what `_raise` raised
_repeated = 0  # signals sent by `_repeat` that the thread has not seen yet
_asked: float | None = None  # when the first signal except SIGHUP came


def install(leaving: Callable[[], None] = lambda: None) -> None:
    """Lets the signals end the process, and after `begin` raise `Interrupted` in the main thread.

    A thread watches, for Python runs handlers only between two of its own instructions, and a
    compilation or a step may take minutes. Before `begin` it ends the process at the first signal: C
    modules print or replace exceptions raised while they are imported. Later it ends the process at the
    second signal, or if nothing is to be saved and the first has not ended it after some seconds.

    Args:
      leaving: called by the thread just before it ends the process.
    """
    global _leaving
    _leaving = leaving
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    sys.unraisablehook = functools.partial(_raise_again, sys.unraisablehook)
    for signum in _SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup and scripts set it
            signal.signal(signum, _raise)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(
        target=_watch, args=(ours, theirs), name="interrupts", daemon=True
    ).start()


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """Lets the signals raise `Interrupted` for a while, in a program that is not ours.

    They never end its process: a second signal is raised inside `deferred`, too. Only Python's own
    handlers are replaced, and only in the main thread; they are put back in the end.
    """
    global _begun, _saving, _dropped, _asked
    _begun, _saving, _dropped, _asked = True, 0, False, None
    _heard.clear()
    _received.clear()
    replaced = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) in _DEFAULTS:
                    replaced[signum] = signal.signal(signum, _raise_borrowed)
        yield
    finally:
        for signum, handler in replaced.items():
            signal.signal(signum, handler)
        _begun = False
        _heard.clear()


def begin() -> None:
    """From here on signals raise `Interrupted`; inside `deferred` they only make `requested` true.

    Raises:
      Interrupted: a signal came before.
    """
    global _begun
    _begun = True
    if signum := requested():
        raise Interrupted(signum)


def _raise(signum: int, _: object) -> None:
    global _dropped
    first = not _heard or _dropped
    _dropped = False
    _heard.append(signum)
    if _begun and first and not _saving:
        raise Interrupted(signum)


def _raise_borrowed(signum: int, _: object) -> None:
    first, second = not _heard, _is_second(signum)
    _heard.append(signum)
    if second or (first and not _saving):
        raise Interrupted(signum)
    if first:
        _print_saving(signum)


def _is_second(signum: int) -> bool:
    """Whether somebody asks a second time for the end."""
    global _asked
    if signum == _HANGUP:
        return False
    if _asked is None:
        _asked = time.monotonic()
    return time.monotonic() - _asked > _SAME_S


def _raise_again(otherwise: Callable[[Any], None], unraisable: Any) -> None:
    """Repeats a signal that came where Python drops exceptions, as in a destructor."""
    global _dropped
    if isinstance(unraisable.exc_value, Interrupted):
        _dropped = True
        _start_timer(0.05, _repeat)  # once this hook has ended
    else:
        otherwise(unraisable)


def _repeat() -> None:
    global _repeated
    _repeated += 1
    signal.pthread_kill(threading.main_thread().ident, requested())


def _wake() -> None:
    """Repeats a signal that came just before the main thread began to wait, which it did not end."""
    if not _heard:
        _repeat()


def _watch(ours: socket.socket, _: socket.socket) -> None:
    """Reads each signal's number from `ours`; the other end must stay open."""
    global _repeated
    while number := ours.recv(1):
        if number[0] not in _SIGNALS:
            continue
        if _repeated:
            _repeated -= 1
            continue
        signum = number[0]
        _received.append(signum)
        name = signal.Signals(signum).name
        if not _begun:
            _leave(f"{name}: left, there was nothing to save")
        if _is_second(signum):
            _leave(f"{name} again: left without saving")
        if _saving and len(_received) == 1:
            _print_saving(signum)
        elif not _saving:
            _start_timer(_UNHEARD_S, _wake)
            _start_timer(_PATIENCE_S, _leave_unless_saving)


def _start_timer(seconds: float, call: Callable[..., None], *arguments: Any) -> None:
    timer = threading.Timer(seconds, call, arguments)
    timer.daemon = True
    timer.start()


def _print_saving(signum: int) -> None:
    name = signal.Signals(signum).name
    _print(f"{name}: saving after this step; once more to leave at once")


def _print(text: str) -> None:
    """Prints a line even while another thread is printing; the terminal may be closed."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
    log_file.note(text)


def _leave_unless_saving() -> None:
    if not _saving:  # else the main thread handled the signal in time
        _leave("left")


def _leave(text: str) -> None:
    _print(text)
    _leaving()
    os._exit(128 + _received[0])


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, signals only make `requested` true.

    Raises:
      Interrupted: at the end, if a signal has come.
    """
    global _saving
    _saving += 1
    try:
        yield
    finally:
        _saving -= 1
    if not _saving and (signum := requested()):
        raise Interrupted(signum)


def requested() -> int:
    """Returns the number of the first signal that has come, 0 if none has."""
    return next(iter(_heard or _received), 0)
