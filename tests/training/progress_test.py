"""Tests of cglo_jax/training/progress.py."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import timeit

import jax.numpy as jnp
import pytest

from cglo_jax.training import progress

VALUES = {"cross_entropy": 0.333333, "loss": 1.25, "weak_accuracy": 50.0}


class Result:
    """What a call gives: there at once, or once `ready` is set."""

    def __init__(self, ready=True):
        self.ready = ready

    def is_ready(self) -> bool:
        return self.ready


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets; seconds are in `clock.now`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr("tqdm.std.time", lambda: Clock.now)
    return Clock


def run(clock, start=0, total=100, every=10):
    """Ten seconds of compilation, then a tenth of a second a step; 8 images each."""
    shown = progress.Progress("train seed 0", start, total, 8)
    clock.now += 10
    shown.first_steps(1)
    for step in range(start + 2, total + 1):
        clock.now += 0.1
        shown.tick(step, {"loss": Result()})
        if step % every == 0:
            shown.update(step, VALUES)
    shown.print_done()
    shown.close()
    return shown


def test_on_a_terminal_one_line_is_updated_and_one_stays(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(clock)
    first, rest, end = terminal.getvalue().split("\n")
    assert first == "train seed 0: compiled and took the first step in 10.0 s"
    *texts, last = [text for text in rest.split("\r") if text.strip()]
    assert re.fullmatch(r"train seed 0: 1/100 .* \? left", texts[0])
    assert re.fullmatch(
        r"train seed 0: 100/100 .* 00:00 left, 80 images/s, loss 1.25, .*", texts[-1]
    )
    assert (
        last == "train seed 0: done, 100 steps in 20 s (80 images/s), loss 1.25, saved"
    )
    assert end == ""


def test_elsewhere_plain_lines_are_few(capsys, clock):
    run(clock, total=1000)  # 110 seconds
    text = capsys.readouterr().err
    assert "\r" not in text
    first, *lines, last = text.splitlines()
    assert first == "train seed 0: compiled and took the first step in 10.0 s"
    assert len(lines) == 3
    assert lines[0] == (
        "train seed 0: step 205/1,000, 01:19 left, 80 images/s, loss 1.25, "
        "cross_entropy 0.3333, weak_accuracy 50"
    )
    for line in lines:
        step, left = re.search(r"step (\d+)/1,000, (\d\d:\d\d) left", line).groups()
        minutes, seconds = left.split(":")
        remaining = 0.1 * (1000 - int(step))
        assert int(minutes) * 60 + int(seconds) == pytest.approx(remaining, abs=1)
    assert (
        last
        == "train seed 0: done, 1,000 steps in 01:49 (80 images/s), loss 1.25, saved"
    )


def test_a_slow_run_prints_a_line_every_30_seconds(capsys, clock):
    shown = progress.Progress("train seed 0", 0, 1000, 8)
    shown.first_steps(1)
    for step in range(2, 21):  # and no log point
        clock.now += 16
        shown.tick(step, {"loss": Result()})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9  # every second of 19 steps
    assert lines[0] == "train seed 0: step 3/1,000, 4:25:52 left, 0.5 images/s"


def test_steps_that_are_only_dispatched_are_not_shown_as_done(capsys, clock):
    shown = progress.Progress("x", 0, 1000, 8)
    shown.first_steps(1)
    clock.now += 40
    late = Result(ready=False)
    shown.tick(2, {"loss": late})
    for step in range(3, 9):
        shown.tick(step, {"loss": Result()})
    assert capsys.readouterr().err == ""
    late.ready = True
    shown.tick(9, {"loss": Result(ready=False)})
    assert capsys.readouterr().err.startswith("x: step 2/1,000, ")


def test_a_tick_takes_less_than_20_microseconds():
    shown = progress.Progress("x", 0, 1000, 8)
    shown.first_steps(1)
    results = {"loss": jnp.zeros(())}
    taken = timeit.repeat(lambda: shown.tick(2, results), number=1000, repeat=20)
    assert min(taken) / 1000 < 20e-6


def test_where_a_run_resumes_and_that_nothing_is_left_is_printed(capsys, clock):
    run(clock, start=40)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train seed 0: resumed at step 40 of 100"
    assert lines[-1] == (
        "train seed 0: done, 100 steps, the last 60 in 16 s (80 images/s), loss 1.25, saved"
    )
    progress.Progress("train seed 0", 100, 100, 8).close()
    assert capsys.readouterr().err == "train seed 0: done before, at step 100\n"


def test_timing_keeps_compilation_out_of_the_rate(clock):
    timing = run(clock, start=40, total=100).timing(100)
    assert timing == {
        "wall_s": 15.9,
        "compile_s": 10.0,
        "steps": 60,
        "images_per_s": 80.0,
    }


def test_the_last_save_does_not_lower_the_rate(capsys, clock):
    shown = progress.Progress("x", 0, 11, 8)
    shown.first_steps(1)
    clock.now += 1
    shown.update(11, VALUES)
    clock.now += 9  # until it is saved
    shown.print_done()
    assert shown.timing(11)["images_per_s"] == 80
    printed = capsys.readouterr().err
    assert printed == "x: done, 11 steps in 10 s (80 images/s), loss 1.25, saved\n"


def test_a_run_of_one_step_has_a_timing(capsys, clock):
    shown = progress.Progress("x", 0, 1, 8)
    clock.now += 0.5
    shown.first_steps(1)
    shown.update(1, VALUES)
    shown.print_done()
    shown.close()
    assert shown.timing(1)["steps"] == 1
    assert shown.timing(1)["images_per_s"] == 0
    printed = capsys.readouterr().err
    assert printed == "x: done, 1 step in 0 s, loss 1.25, saved\n"


def test_nothing_is_printed_about_a_step_compiled_before_nor_by_other_processes(
    capsys, clock
):
    progress.Progress("train seed 1", 0, 10, 8).first_steps(1)
    assert capsys.readouterr().err == ""
    silent = progress.Progress("x", 5, 10, 8, silent=True)
    clock.now += 99
    silent.first_steps(1)
    clock.now += 99
    silent.tick(7, {"loss": Result()})
    silent.update(8, VALUES)
    silent.print_done()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [12, 40, 80, 120])
def test_the_bar_is_cut_to_the_terminal(monkeypatch, clock, columns):
    lines = draw_on_terminal(monkeypatch, clock, columns)
    assert max(map(len, lines)) < columns  # a full line would wrap
    start, end = (
        "classify cglo seed 0: 1,234/5,000 ",
        " 06:16 left, 80 images/s, loss 1.25",
    )
    assert lines[-1].startswith(start[: columns - 1])
    assert (end in lines[-1]) == (columns >= 80)
    assert ("weak_accuracy 50" in lines[-1]) == (columns >= 120)


def test_on_a_terminal_without_a_width_it_stays_one_line(monkeypatch, clock):
    line = draw_on_terminal(monkeypatch, clock, 0)[-1]
    assert "06:16 left, 80 images/s, loss 1.25" in line and "\n" not in line


def draw_on_terminal(monkeypatch, clock, columns: int) -> list[str]:
    """Returns the texts that were drawn over each other on a terminal of this width."""
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown = progress.Progress("classify cglo seed 0", 0, 5000, 8)
        shown.first_steps(1)
        clock.now += 123.3
        shown.update(1234, VALUES)
        print("END", file=terminal, flush=True)
        text = b""
        while b"END" not in text:
            text += os.read(ours, 10_000)
        shown.close()
        monkeypatch.undo()
        os.close(ours)
    drawn, _, _ = text.decode().partition("END")
    return [line.rstrip() for line in drawn.split("\r")]
