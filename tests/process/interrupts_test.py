"""Tests of cglo_jax/process/interrupts.py in processes of their own."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


HEAD = """
import hashlib, signal, sys, threading, time
from cglo_jax.process import interrupts
interrupts.install()
"""


def start(body: str, head: str = f"{HEAD}interrupts.begin()\n") -> subprocess.Popen:
    """Starts a program that prints "ready" when it may be signalled."""
    program = head + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


SAVE = """
try:
    with interrupts.deferred():
        print("ready")
        while not interrupts.requested():
            time.sleep(0.01)
        time.sleep({seconds})
        print("saved")
except interrupts.Interrupted as stop:
    sys.exit(stop.status)
"""


def finish(process: subprocess.Popen, status: int) -> tuple[str, str]:
    with process:  # communicate() would miss what came together with "ready"
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == status, err
    return out, err


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_raised_in_the_main_thread(signum):
    process = start("""
        try:
            print("ready")
            time.sleep(20)
        except interrupts.Interrupted as stop:
            print(stop)
            sys.exit(stop.status)
    """)
    process.send_signal(signum)
    assert finish(process, 128 + signum)[0] == f"{signum.name}\n"


@pytest.mark.parametrize("signum", SIGNALS)
def test_before_anything_is_begun_it_leaves_at_once_and_nothing_is_raised(signum):
    process = start(
        """
        try:
            print("ready")
            time.sleep(20)
        except BaseException:
            print("raised")
        """,
        head=HEAD,
    )
    began = time.monotonic()
    process.send_signal(signum)
    out, err = finish(process, 128 + signum)
    assert (out, err) == ("", f"\n{signum.name}: left, there was nothing to save\n")
    assert time.monotonic() - began < 4


def test_a_signal_just_before_it_begins_is_raised_then_and_once():
    process = start(
        """
        signal.set_wakeup_fd(-1)  # the thread hears nothing
        signal.raise_signal(signal.SIGTERM)
        print("ready")
        try:
            interrupts.begin()
        except interrupts.Interrupted as stop:
            print(stop)
        interrupts._repeat()
        time.sleep(0.1)
        """,
        head=HEAD,
    )
    assert finish(process, 0) == ("SIGTERM\n", "")


def test_a_signal_that_comes_just_before_a_wait_ends_the_wait():
    # Sent to another thread than the one that waits, it interrupts nothing, as one does that
    # comes between Python's last look for signals and the system call that waits.
    process = start("""
        other = threading.Thread(target=time.sleep, args=[20], daemon=True)
        other.start()
        send = signal.pthread_kill, (other.ident, signal.SIGTERM)
        threading.Timer(0.5, *send).start()
        print("ready")
        try:
            time.sleep(20)
        except interrupts.Interrupted as stop:
            sys.exit(stop.status)
    """)
    began = time.monotonic()
    assert finish(process, 143) == ("", "")
    assert time.monotonic() - began < 4  # before it leaves by itself


@pytest.mark.parametrize("signum", SIGNALS)
def test_what_must_be_saved_is_not_interrupted(signum):
    process = start("""
        try:
            with interrupts.deferred():
                assert not interrupts.requested()
                print("ready")
                while not interrupts.requested():
                    time.sleep(0.01)
                time.sleep(0.5)  # as long as a save takes; a line is printed meanwhile
                print("saved")
        except interrupts.Interrupted as stop:
            sys.exit(stop.status)
    """)
    process.send_signal(signum)
    out, err = finish(process, 128 + signum)
    assert out == "saved\n"
    assert f"{signum.name}: saving after this step; once more to leave at once" in err


def test_a_signal_that_comes_in_a_destructor_is_not_lost():
    process = start("""
        class Slow:
            def __del__(self):
                print("ready")
                time.sleep(20)
        slow = Slow()
        try:
            del slow
            time.sleep(20)
        except interrupts.Interrupted as stop:
            sys.exit(stop.status)
    """)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert finish(process, 143) == ("", "")
    assert time.monotonic() - began < 4  # before it leaves by itself


@pytest.mark.parametrize(
    ("pauses", "first"),
    [
        # `timeout` sends it to its child and to its group; `uv run` hands Ctrl-C on.
        ([(0, signal.SIGTERM), (0.05, signal.SIGTERM)], signal.SIGTERM),
        ([(0, signal.SIGINT), (0.05, signal.SIGINT)], signal.SIGINT),
        # A shell that loses its terminal, the kernel when the shell ends, the session's manager.
        (
            [(0, signal.SIGHUP), (0.3, signal.SIGHUP), (0.3, signal.SIGTERM)],
            signal.SIGHUP,
        ),
        ([(0, signal.SIGTERM), (0.3, signal.SIGHUP)], signal.SIGTERM),
    ],
)
def test_what_sends_several_signals_at_once_asks_once(pauses, first):
    process = start(SAVE.format(seconds=1.2))
    for pause, signum in pauses:
        time.sleep(pause)
        process.send_signal(signum)
    out, err = finish(process, 128 + first)
    assert out == "saved\n"
    assert err.count("saving after this step") == 1


def test_after_a_closed_terminal_two_more_leave_at_once():
    process = start(SAVE.format(seconds=20))
    for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(signum)
        time.sleep(0.3)
    out, err = finish(process, 129)
    assert out == ""
    assert err.endswith("\nSIGTERM again: left without saving\n")


@pytest.mark.parametrize("close", ["os.close(2)", "os.dup2(broken, 2)"])
def test_signals_are_heard_where_nothing_can_be_printed(close):
    program = f"import os\nreading, broken = os.pipe()\nos.close(reading)\n{close}\n"
    process = start(program + SAVE.format(seconds=20))
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert finish(process, 143) == ("", "")


BORROWED = """
import os, signal, sys, threading, time
from cglo_jax.process import interrupts
def theirs(*_): print("theirs")
signal.signal(signal.SIGHUP, theirs)
def state():
    handlers = [signal.getsignal(s) for s in (1, 2, 15)]
    return handlers, sys.unraisablehook, threading.active_count(), os.listdir("/proc/self/fd")
before = state()
print("ready")
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_another_programs_process_is_left_as_it_was(signum):
    process = start(
        f"""
        for saving in (False, True, True):
            try:
                with interrupts.borrowed():
                    if saving:
                        with interrupts.deferred():
                            signal.raise_signal({signum:d})
                            print("saved")
                    signal.raise_signal({signum:d})
            except interrupts.Interrupted as stop:
                print(stop.status)
            assert interrupts.requested() == 0
        try:
            with interrupts.borrowed(), interrupts.deferred():
                signal.raise_signal({signum:d})
                time.sleep(0.3)
                signal.raise_signal({signum:d})
                print("saved")
        except interrupts.Interrupted as stop:
            print(stop.status, "at once")
        with interrupts.borrowed():
            signal.raise_signal(signal.SIGHUP)
        assert state() == before
        print("ended")
        """,
        head=BORROWED,
    )
    number = str(128 + signum)
    printed = [number, "saved", number, "saved", number, f"{number} at once", "theirs"]
    assert finish(process, 0)[0].splitlines() == [*printed, "ended"]


def test_a_thread_of_another_program_has_no_handlers():
    process = start(
        """
        def work():
            with interrupts.borrowed():
                interrupts.begin()
                with interrupts.deferred():
                    assert state() == (*before[:2], 2, before[3])
                    print("worked")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
        head=BORROWED,
    )
    assert finish(process, 0) == ("worked\n", "")


# Python runs no handler of a signal before this has ended, in half a minute.
LONG = "hashlib.pbkdf2_hmac('sha256', b'', b'', 40_000_000)"


def test_a_second_signal_leaves_at_once_whatever_runs():
    process = start(f"""
        with interrupts.deferred():
            print("ready")
            {LONG}
    """)
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = finish(process, 143)
    assert time.monotonic() - began < 5
    assert "SIGTERM: saving after this step" in err
    assert "SIGTERM again: left without saving" in err


def test_with_nothing_to_save_it_leaves_after_some_seconds_whatever_runs():
    process = start(f"""
        interrupts._PATIENCE_S = 0.3
        print("ready")
        {LONG}
    """)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert finish(process, 130) == ("", "\nleft\n")
    assert 0.2 < time.monotonic() - began < 5
