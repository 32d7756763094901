"""Tests of cglo_jax/progress.py."""

import io
import re
import sys

import pytest

from cglo_jax import progress

VALUES = {"loss": 1.25, "cross_entropy": 0.333333}


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when told; seconds are in `clock.now`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "perf_counter", lambda: Clock.now)
    return Clock


def run(clock, start=0, total=100, every=10):
    """Ten seconds of compilation, then a tenth of a second a step; 8 images each."""
    shown = progress.Progress("train seed 0", start, total, 8)
    clock.now += 10
    shown.first_steps(10.0, 1)
    for step in range(start + 2, total + 1):
        clock.now += 0.1
        if step % every == 0:
            shown.update(step, VALUES)
    shown.close()
    return shown


def test_on_a_terminal_one_line_is_updated(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(clock)
    text = terminal.getvalue()
    first, _, rest = text.partition("\n")
    assert first == "train seed 0: compiled and took the first step in 10.0 s"
    assert rest.count("\n") == 1  # at the end
    assert rest.endswith("\n")
    assert rest.count("\r") >= 2
    last = rest.strip().split("\r")[-1]
    for part in ("train seed 0", "100/100 steps", "left", "loss 1.25", "0.3333"):
        assert part in last
    assert "80 images/s" in last


def test_elsewhere_plain_lines_are_few(capsys, clock):
    run(clock, total=1000)  # 110 seconds
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "train seed 0: compiled and took the first step in 10.0 s"
    assert 3 <= len(lines) <= 6
    assert lines[-1] == (
        "train seed 0: step 1000/1000, loss 1.25, cross_entropy 0.3333, 80 images/s, "
        "00:00 left"
    )
    for line in lines[1:-1]:
        step, left = re.search(r"step (\d+)/1000, .* (\d\d:\d\d) left", line).groups()
        minutes, seconds = left.split(":")
        remaining = 0.1 * (1000 - int(step))
        assert int(minutes) * 60 + int(seconds) == pytest.approx(remaining, abs=1)


def test_the_first_plain_line_does_not_wait_for_the_end(capsys, clock):
    run(clock, total=1000)
    lines = capsys.readouterr().err.splitlines()
    assert re.search(r"step (\d+)/", lines[1])[1] == "210"  # 10 + 20.9 s have passed


def test_it_says_where_a_run_goes_on_and_when_nothing_is_left(capsys, clock):
    run(clock, start=40)
    assert "train seed 0: resumed at step 40 of 100" in capsys.readouterr().err
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


def test_a_run_of_one_step_has_a_timing(clock):
    shown = progress.Progress("x", 0, 1, 8)
    clock.now += 2
    shown.first_steps(2.0, 1)
    shown.update(1, VALUES)
    shown.close()
    assert shown.timing(1)["steps"] == 1
    assert shown.timing(1)["images_per_s"] == 0


def test_nothing_is_said_of_a_step_compiled_before(capsys, clock):
    shown = progress.Progress("train seed 1", 0, 10, 8)
    shown.first_steps(0.01, 1)
    assert capsys.readouterr().err == ""
