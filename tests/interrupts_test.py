"""Tests of cglo_jax/interrupts.py in processes of their own."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def start(body: str) -> subprocess.Popen:
    """Starts a program that says "ready" when it may be signalled."""
    head = "import hashlib, sys, time\nfrom cglo_jax import interrupts\ninterrupts.install()\n"
    program = head + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen, status: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    return out, err


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_raised_in_the_main_thread(signum):
    process = start("""
        try:
            print("ready")
            time.sleep(20)
        except interrupts.Interrupted as signal:
            print(signal)
            sys.exit(signal.status)
    """)
    process.send_signal(signum)
    assert finish(process, 128 + signum)[0] == f"{signum.name}\n"


@pytest.mark.parametrize("signum", SIGNALS)
def test_what_must_be_saved_is_not_interrupted(signum):
    process = start("""
        with interrupts.deferred():
            assert not interrupts.requested()
            print("ready")
            while not interrupts.requested():
                time.sleep(0.01)
            print("saved")
        sys.exit(128 + interrupts.requested())
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
        except interrupts.Interrupted as signal:
            sys.exit(signal.status)
    """)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert finish(process, 143) == ("", "")
    assert time.monotonic() - began < 4  # before it leaves by itself


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
    finish(process, 130)
    assert 0.2 < time.monotonic() - began < 5
