"""Tests of experiments/harness/watched.py."""

import pathlib
import sys
import time

import numpy as np
import pytest

from experiments.harness import watched


def run_python(tmp_path: pathlib.Path, code: str) -> tuple[watched.Usage, str]:
    """Watches a program that may append to the file in sys.argv[1]."""
    log, lines = tmp_path / "log", tmp_path / "lines"
    lines.write_text("an older line\n")
    usage = watched.run([sys.executable, "-c", code, str(lines)], log, lines)
    return usage, log.read_text()


def test_memory_is_that_of_the_process_alone(tmp_path):
    ours = np.ones(300_000_000, np.uint8)  # would count too without the launcher
    peaks = []
    for megabytes in (50, 250):
        code = f"x = b'1' * {megabytes * 10**6}"
        usage, _ = run_python(tmp_path, code)
        assert usage.status == 0
        peaks.append(usage.peak_gb)
    assert len(ours) == 300_000_000
    assert 0.05 < peaks[0] < 0.1
    assert peaks[1] - peaks[0] == pytest.approx(0.2, abs=0.01)


def test_times_are_those_between_lines(tmp_path):
    code = (
        "import sys, time\n"
        "for wait in (0.1, 0.3, 0.6):\n"
        "    time.sleep(wait)\n"
        "    open(sys.argv[1], 'a').write('line\\n')\n"
        "print('out')\n"
        "sys.exit('err')\n"
    )
    began = time.perf_counter()
    usage, printed = run_python(tmp_path, code)
    assert usage.status == 1
    assert len(usage.intervals_s) == 2
    assert 0.2 < usage.intervals_s[0] < usage.intervals_s[1] < usage.wall_s
    assert 1.0 <= usage.wall_s <= time.perf_counter() - began
    assert sorted(printed.split()) == ["err", "out"]


def test_a_killed_process_is_no_success(tmp_path):
    usage, _ = run_python(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert usage.status == -9
