"""Tests of cglo_jax/cli/exit_status.py, through cglo_jax.main.run."""

import sys

import jax
import pytest

from cglo_jax import main
from cglo_jax.cli import flags as command_line
from cglo_jax.cli.flags import Command
from cglo_jax.process import interrupts


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Runs the program until `ending` is raised in it; returns its exit status."""

    def call(ending, *flags):
        def fail(command):
            raise ending

        given = Command(None, tmp_path, "all", "--fresh" in flags)
        monkeypatch.setattr(command_line, "parse", lambda argv: given)
        monkeypatch.setattr(main, "main", fail)
        monkeypatch.setattr(sys, "argv", ["main.py", *flags])
        with pytest.raises(SystemExit) as left:
            main.run()
        return left.value.code

    return call


def test_an_interrupted_call_says_whether_there_is_something_to_go_on_from(
    called, tmp_path, capsys
):
    assert called(interrupts.Interrupted(2)) == 130
    assert capsys.readouterr().err == (
        "\ninterrupted: the same command starts over: nothing was saved yet\n"
    )
    (tmp_path / "checkpoints" / "seed-0" / "5").mkdir(parents=True)
    assert called(interrupts.Interrupted(15)) == 143
    assert capsys.readouterr().err == (
        "\ninterrupted: the same command continues from the last checkpoint\n"
    )
    assert called(interrupts.Interrupted(2), "--fresh") == 130
    assert capsys.readouterr().err == (
        "\ninterrupted: the same command without --fresh continues from the last checkpoint\n"
    )


def test_a_file_that_cannot_be_written_is_one_line_with_what_to_do(called, capsys):
    assert called(OSError(28, "No space left on device", "runs/a")) == 2
    assert capsys.readouterr().err == (
        "error: No space left on device (runs/a); mend that, and the same command starts over: "
        "nothing was saved yet\n"
    )


def test_a_warning_that_is_an_error_is_said_to_be_a_librarys(called, capsys):
    assert called(DeprecationWarning("old")) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith("error: a library issued a warning at ")
        and message.count("\n") == 1
    )
    assert (
        "Python is set to raise warnings as errors (-W error or PYTHONWARNINGS)"
        in message
    )


def test_a_device_out_of_memory_is_one_line_with_what_to_do(called, capsys):
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"
    )
    assert called(error) == 2
    message = capsys.readouterr().err
    assert message.startswith(
        "error: out of memory (RESOURCE_EXHAUSTED: Out of memory alloc"
    )
    assert message.endswith("; the same command starts over: nothing was saved yet\n")
