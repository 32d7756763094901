"""Tests of stages/report.py: the report of a run or a comparison of runs, and where it is printed."""

import pathlib
import subprocess
import sys

import pytest

from cglo_jax.files import ownership
from cglo_jax.stages import report
from tests.helpers.report_workdir import make_config, put_finished_run


def test_verdicts_and_paths_are_printed(workdir, config, capsys):
    report.run(config, workdir)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cglo helped. ")
    assert lines[1:] == [str(workdir / "report.md"), str(workdir / "report.html")]
    assert not list(workdir.glob("*.tmp"))


@pytest.fixture
def two(tmp_path):
    return put_finished_run(tmp_path / "a"), put_finished_run(tmp_path / "b")


def test_a_comparison_is_written_where_no_run_is(tmp_path, two, capsys):
    workdir = tmp_path / "new" / "both"
    config = make_config(**{"report.compare": f"{two[0]},{two[1]}"})
    report.run(config, workdir)
    assert capsys.readouterr().out.splitlines() == [
        "Their accuracies can be compared. They have the same training and test images.",
        str(workdir / "compare.md"),
        str(workdir / "compare.html"),
    ]
    names = {path.name for path in workdir.iterdir()}
    assert names == {"compare.md", "compare.html", ownership.RECORD}


def main(*arguments):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "cglo_jax.main",
            "--config=configs/digits.py",
            *arguments,
        ],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_compares(tmp_path, two):
    runs = f"--config.report.compare={two[0]},{two[1]}"
    both = tmp_path / "both"
    done = main("--stage=report", f"--workdir={both}", runs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        f"{both}/compare.md",
        f"{both}/compare.html",
    ]
    assert (both / "compare.html").read_text().startswith("<!doctype html>")


def test_other_stages_refuse_to_compare(tmp_path, two):
    runs = f"--config.report.compare={two[0]},{two[1]}"
    done = main("--stage=all", f"--workdir={tmp_path / 'c'}", runs)
    assert (done.returncode, done.stdout) == (2, "")
    expected = "error: config.report.compare is for --stage=report only: leave it out\n"
    assert done.stderr == expected
    assert not (tmp_path / "c").exists()
