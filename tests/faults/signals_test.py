"""SIGINT, SIGTERM and SIGHUP in every phase: saved, ended in time with the right status, resumed."""

import contextlib
import fcntl
import functools
import os
import random
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest

from cglo_jax.files import storage
from cglo_jax.stages import classify
from cglo_jax.training import parallel
from cglo_jax.workdir import directory
from tests.helpers.small_run import (
    FIELDS,
    SAVE_EVERY,
    STEPS,
    Run,
    digest_run,
    digest_state,
    write_images,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
MOST_S = 10
CLASSIFY = {"stage": "all", "classify.methods": "('baseline','cglo')"}


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def in_compile(signum: int) -> None:
    """While the first program of a step is compiled."""
    once = parallel.MappedStep.__call__

    def first(self, *args):
        threading.Timer(0.05, send, [signum]).start()
        parallel.MappedStep.__call__ = once
        return once(self, *args)

    parallel.MappedStep.__call__ = first


def in_step(signum: int, number: int) -> None:
    """While the step with this number is taken."""
    real, taken = parallel.MappedStep.__call__, []

    def counted(self, *args):
        taken.append(1)
        if len(taken) == number:
            send(signum)
        return real(self, *args)

    parallel.MappedStep.__call__ = counted


def in_save(signum: int, number: int) -> None:
    """While a checkpoint with this number is written, in another thread."""
    real, saved = storage.sync_tree, []

    def counted(folder):
        saved.append(1)
        if len(saved) == number:
            send(signum)
        real(folder)

    storage.sync_tree = counted


def in_eval(signum: int) -> None:
    """While the trained classifier is tested."""

    def signalled(*args):
        send(signum)
        return real(*args)

    real, classify.evaluate = classify.evaluate, signalled


def in_an_import(signum: int) -> None:
    """While a module in C is initialised, which makes an ImportError of it."""

    def hold(*_):
        try:
            send(signum)
        except KeyboardInterrupt as error:
            raise ImportError("Encountered an error while initializing") from error

    directory.hold = hold


def in_a_terminal(number: int, ignored: bool) -> None:
    """The run has a terminal of its own, that is closed while the step with this number is taken."""
    master, slave = os.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for descriptor in range(3):
        os.dup2(slave, descriptor)
    os.close(slave)
    os.set_blocking(master, False)
    if ignored:  # as by nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    real, taken = parallel.MappedStep.__call__, []

    def counted(self, *args):
        taken.append(1)
        if len(taken) <= number:
            with contextlib.suppress(BlockingIOError):
                os.read(master, 100_000)
        if len(taken) == number:
            os.close(master)
        return real(self, *args)

    parallel.MappedStep.__call__ = counted


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("signals") / "images")


@pytest.fixture(scope="module")
def reference(images):
    """What an uninterrupted run of all stages leaves."""
    run = Run(images, images.parent / "whole", **CLASSIFY)
    assert run.finish(120) == 0, run.error()
    return digest_run(images.parent / "whole")


def interrupt(images, workdir, signum: int, before) -> str:
    """Runs until the signal that `before` sends; returns what was told."""
    began = time.monotonic()
    run = Run(images, workdir, before=functools.partial(before, signum), **CLASSIFY)
    assert run.finish() == 128 + signum, run.error()
    # With all that comes before the signal.
    assert time.monotonic() - began < MOST_S + 20
    error = run.error()
    assert "Traceback" not in error
    saved, _ = digest_state(workdir / "checkpoints" / "seed-0")
    again = "continues from the last checkpoint"
    if not saved:
        again = "starts over: nothing was saved yet"
    assert error.endswith(f"interrupted: the same command {again}\n")
    return error


def interrupt_everywhere(images, workdir, signum: int, seed: int) -> None:
    """One run, interrupted while it compiles, takes a step, saves and tests."""
    rng = random.Random(seed)

    def interrupted(before, **numbers) -> int:
        """Returns the newest step saved."""
        said = interrupt(images, workdir, signum, functools.partial(before, **numbers))
        if before == in_step:
            assert "saving after this step" in said
        return digest_state(workdir / "checkpoints" / "seed-0")[0]

    compiled = interrupted(in_compile)
    number = rng.randrange(2, 9)
    stepped = interrupted(in_step, number=number)
    # Between two periodic saves, too: the step that was being taken.
    assert stepped == compiled + number
    saves = rng.randrange(1, 3)  # of those to come
    saved = interrupted(in_save, number=saves)
    assert saved >= stepped // SAVE_EVERY * SAVE_EVERY + saves * SAVE_EVERY
    assert interrupted(in_eval) == STEPS


SLOW = [pytest.param(s, marks=pytest.mark.slow) for s in SIGNALS if s != signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_in_any_phase_is_heard_and_leaves_no_trace(
    images, reference, tmp_path, signum
):
    check_everywhere(images, reference, tmp_path / "run", signum, seed=0)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_that_somebody_makes_an_error_of_is_still_one(
    images, tmp_path, signum
):
    interrupt(images, tmp_path / "run", signum, in_an_import)


@pytest.mark.slow
@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_signal_in_any_phase_again(images, reference, tmp_path, signum, seed):
    check_everywhere(images, reference, tmp_path / "run", signum, seed)


def check_everywhere(images, reference, workdir, signum, seed) -> None:
    interrupt_everywhere(images, workdir, signum, seed)
    run = Run(images, workdir, **CLASSIFY)
    assert run.finish(120) == 0, run.error()
    assert digest_run(workdir) == reference


@pytest.mark.parametrize("ignored", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_terminal_that_is_closed(images, reference, tmp_path, ignored):
    workdir, place = tmp_path / "run", "checkpoints/seed-0"
    closed = functools.partial(in_a_terminal, number=7, ignored=ignored)
    status = Run(images, workdir, before=closed).finish()
    log = (workdir / "log.txt").read_text()
    if ignored:
        assert status == 0, log
        assert f"train seed 0: done, {STEPS} steps in " in log
    else:
        assert status == 129, log
        assert digest_state(workdir / place)[0] == 7
        lines = [line[20:] for line in log.splitlines()]
        assert lines[-3:] == [
            "SIGHUP: saving after this step; once more to leave at once",
            f"train seed 0: saved step 7 of {STEPS}",
            "interrupted: the same command continues from the last checkpoint",
        ]
        assert Run(images, workdir).finish() == 0
    assert digest_state(workdir / place) == reference[place]


@pytest.mark.parametrize("signum", [signal.SIGTERM, *SLOW])
@pytest.mark.parametrize("module", ["cglo_jax.config", "_compat_pickle", "flax.linen"])
def test_a_signal_while_modules_are_imported(images, tmp_path, signum, module):
    fields = {**FIELDS, "dataset.path": str(images)}
    command = [sys.executable, "-X", "importtime", "-m", "cglo_jax.main"]
    command += ["--config=configs/folder.py", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        # In numpy's C code, when it is _compat_pickle: it prints what is raised.
        assert any(line.split("|")[-1].strip() == module for line in process.stderr)
        began = time.monotonic()
        process.send_signal(signum)
        error = process.stderr.read()
        assert process.wait(30) == 128 + signum, error
        assert time.monotonic() - began < MOST_S
    assert "Traceback" not in error
    assert f"\n{signum.name}: left, there was nothing to save\n" in error
    assert not (tmp_path / "run").exists()
