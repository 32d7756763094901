"""Tests of cglo_jax/main.py: what an interrupted or failed call says to do next."""

import sys

import pytest

from cglo_jax import command_line, interrupts, main, process


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Runs the program until `ending` is raised in it; returns its exit status."""
    monkeypatch.setattr(interrupts, "install", lambda leaving: None)
    monkeypatch.setattr(process, "start", lambda: None)

    def call(ending, *flags):
        def fail(command):
            raise ending

        given = command_line.Command(None, tmp_path, "all", "--fresh" in flags)
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
        "\ninterrupted: the same command goes on from the last checkpoint\n"
    )
    assert called(interrupts.Interrupted(2), "--fresh") == 130
    assert capsys.readouterr().err == (
        "\ninterrupted: the same command without --fresh goes on from the last checkpoint\n"
    )


def test_a_file_that_cannot_be_written_is_one_line_with_what_to_do(called, capsys):
    assert called(OSError(28, "No space left on device", "runs/a")) == 2
    assert capsys.readouterr().err == (
        "error: No space left on device (runs/a); mend that, and the same command starts over: "
        "nothing was saved yet\n"
    )
