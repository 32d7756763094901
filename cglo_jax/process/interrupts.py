"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed): what can be saved is saved first.

A second one leaves at once, where somebody asks a second time: `timeout` and launchers send the same
signal twice at once, and a terminal that is closed sends SIGHUP, often more than once.
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
_SAME_S = 0.2  # within it signals are one request
_PATIENCE_S = 5.0  # until a process leaves that has nothing to save, whatever it is in
_UNHEARD_S = 0.2  # until a wait that began as the signal came is ended


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end; `status` is what it should exit with."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


_received: list[int] = []  # by the thread that watches, in the order of their coming
_heard: list[int] = []  # by the main thread
_leaving: Callable[[], None] = lambda: None
_begun = False  # whether there may be something to save or to end properly
_saving = 0  # how many `deferred` are entered
_dropped = False  # whether Python dropped what `_raise` raised
_repeated = 0  # signals of our own making that the thread has not seen yet
_asked: float | None = None  # when the first one but SIGHUP came


def install(leaving: Callable[[], None] = lambda: None) -> None:
    """Lets the signals end the process, and after `begin` raise `Interrupted` in the main thread.

    A thread watches: Python runs handlers between two of its own instructions, and a compilation
    or a step may take minutes. It ends the process at the first signal before `begin`, for modules
    in C print or replace what is raised while they are imported; later at the second, or if nothing
    is to be saved and the first has not ended it after some seconds.

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

    They never end its process: a second one is raised in `deferred`, too. Handlers that are not
    Python's own stay, those that are come back, and other threads than the main one have none.
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
    """From here on signals raise `Interrupted`, but in `deferred`, where they are `requested`."""
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
        _say_saving(signum)


def _is_second(signum: int) -> bool:
    """Whether somebody asks a second time for the end."""
    global _asked
    if signum == _HANGUP:
        return False
    if _asked is None:
        _asked = time.monotonic()
    return time.monotonic() - _asked > _SAME_S


def _raise_again(otherwise: Callable[[Any], None], unraisable: Any) -> None:
    """Repeats a signal that came where Python drops what is raised, as in a destructor."""
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
    """Repeats a signal that came just before the main thread began to wait: the wait goes on."""
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
            _say_saving(signum)
        elif not _saving:
            _start_timer(_UNHEARD_S, _wake)
            _start_timer(_PATIENCE_S, _leave_unless_saving)


def _start_timer(seconds: float, call: Callable[..., None], *arguments: Any) -> None:
    timer = threading.Timer(seconds, call, arguments)
    timer.daemon = True
    timer.start()


def _say_saving(signum: int) -> None:
    name = signal.Signals(signum).name
    _say(f"{name}: saving after this step; once more to leave at once")


def _say(text: str) -> None:
    """Prints a line whatever another thread is printing; there may be no terminal any more."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
    log_file.note(text)


def _leave_unless_saving() -> None:
    if not _saving:  # else it began to in time
        _leave("left")


def _leave(text: str) -> None:
    _say(text)
    _leaving()
    os._exit(128 + _received[0])


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, signals only make `requested` true; one that has come is raised at the end."""
    global _saving
    _saving += 1
    try:
        yield
    finally:
        _saving -= 1
    if not _saving and (signum := requested()):
        raise Interrupted(signum)


def requested() -> int:
    """Returns the first signal that has come, 0 without one."""
    return next(iter(_heard or _received), 0)
