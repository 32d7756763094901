"""Runs a program in a process of its own and measures it from outside."""

import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments.harness.paths import ROOT

POLL_S = 0.005

# A process's largest resident set begins with that of the one that starts it: this one is small.
_LAUNCHER = """
import json, os, sys, time
began = time.perf_counter()
to_stderr = [(os.POSIX_SPAWN_DUP2, 2, 1)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=to_stderr)
_, status, usage = os.wait4(pid, 0)
wall_s = round(time.perf_counter() - began, 2)
print(json.dumps([os.waitstatus_to_exitcode(status), wall_s, usage.ru_maxrss]))
"""


class Usage(NamedTuple):
    """What a process took."""

    status: int  # its exit status, negative if a signal ended it
    wall_s: float  # seconds from start to end
    peak_gb: float  # largest resident set in 1e9 bytes
    intervals_s: list[float]  # seconds between the lines that it added to a file


def _count_lines(path: pathlib.Path | None) -> int:
    return path.read_bytes().count(b"\n") if path and path.exists() else 0


def run(
    command: Sequence[str], log: pathlib.Path, lines: pathlib.Path | None = None
) -> Usage:
    """Runs `command`, an absolute path and its arguments, in the repository to its end (Linux).

    Args:
      log: gets what it prints. lines: a file whose new lines are timed.
    """
    with log.open("wb") as file:
        launcher = [sys.executable, "-c", _LAUNCHER, *command]
        pipe = subprocess.PIPE
        process = subprocess.Popen(launcher, stdout=pipe, stderr=file, cwd=ROOT)
    arrivals, seen, runs = [], _count_lines(lines), True
    while runs:
        time.sleep(POLL_S)
        runs = process.poll() is None
        if (count := _count_lines(lines)) > seen:
            arrivals += [time.perf_counter()] * (count - seen)
            seen = count
    with process.stdout:
        status, wall_s, peak_kib = json.load(process.stdout)
    intervals = [round(b - a, 3) for a, b in itertools.pairwise(arrivals)]
    return Usage(status, wall_s, round(peak_kib * 1024 / 1e9, 3), intervals)
