"""Hostile command lines and configuration files: accepted, or one line and status 2.

All are parsed by `main.run` in copies of one process that has imported what it needs, as flags
are global; a few in processes of their own.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.config_cases import DIGITS, FLAGS, RAN, Case, files, names, values

ROOT = Path(__file__).parents[2]
ACCEPTED = "accepted"
SECONDS = 20
# Runs main.run for each argv of the JSON list in a file, each in a child process.
DRIVE = """
import json, os, signal, sys
from cglo_jax.cli import flags as command_line
from cglo_jax import main
from cglo_jax.process import setup as process
main.main = lambda command: print("accepted")
process.start = lambda: None

def run(argv, out):
    for stream in (1, 2):
        os.dup2(out.fileno(), stream)
    sys.argv = ["main.py", *argv]
    signal.alarm(int(seconds))
    main.run()

results, (_, listed, seconds) = [], sys.argv
for argv in json.load(open(listed)):
    with open(listed + ".out", "w+b") as out:
        if not (child := os.fork()):
            run(argv, out)
            break
        status = os.waitpid(child, 0)[1]
        out.seek(0)
        results.append([os.waitstatus_to_exitcode(status), out.read().decode(errors="replace")])
else:
    print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    rng = random.Random(6)
    flagged = [Case(arguments, (named,)) for arguments, named in FLAGS]
    folder = tmp_path_factory.mktemp("files")
    return [*values(rng), *names(rng), *files(folder), *flagged]


@pytest.fixture(scope="module")
def results(cases, tmp_path_factory) -> list[tuple[int, str]]:
    """(status, all that was printed) of each case."""
    listed = tmp_path_factory.mktemp("cases") / "cases.json"
    listed.write_text(json.dumps([case.arguments for case in cases]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVE, str(listed), str(SECONDS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [tuple(result) for result in json.loads(done.stdout)]


def is_one_line(status: int, text: str) -> bool:
    return (
        status == 2 and text.startswith("error: ") and text.find("\n") == len(text) - 1
    )


def test_each_is_accepted_or_refused_in_one_line(cases, results):
    assert len(cases) >= 200
    wrong = [
        (case.arguments, result)
        for case, result in zip(cases, results, strict=True)
        if not is_one_line(*result)
        and not (case.may_pass and result == (0, f"{ACCEPTED}\n"))
    ]
    assert wrong == []
    assert not (ROOT / RAN).exists()


def test_the_line_names_what_is_wrong(cases, results):
    refused = [
        (case, text)
        for case, (status, text) in zip(cases, results, strict=True)
        if status == 2
    ]
    assert len(refused) >= 200
    unnamed = [
        (case.arguments, text)
        for case, text in refused
        if not any(name in text for name in case.named)
    ]
    assert unnamed == []
    assert max(len(text) for _, text in refused) < 1000


def test_the_driver_tells_a_good_command_and_a_traceback(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nos.kill(os.getpid(), 9)\n")
    listed = tmp_path / "cases.json"
    listed.write_text(json.dumps([[DIGITS], [f"--config={bad}"]]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVE, str(listed), str(SECONDS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[0, f"{ACCEPTED}\n"], [-9, ""]]


@pytest.mark.parametrize(
    "number",
    [n if n % 4 == 0 else pytest.param(n, marks=pytest.mark.slow) for n in range(10)],
)
def test_it_is_so_in_a_process_of_its_own(cases, results, number):
    refused = [i for i, (status, _) in enumerate(results) if status == 2]
    i = refused[number * len(refused) // 10]
    done = subprocess.run(
        [sys.executable, "-m", "cglo_jax.main", *cases[i].arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", results[i][1])
