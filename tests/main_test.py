"""Tests of cglo_jax/main.py without its stages; tests/programs/end_to_end_test.py has them."""

import sys

import jax
import pytest

from cglo_jax import main
from cglo_jax.cli import flags as command_line
from cglo_jax.cli.flags import Command
from cglo_jax.data import dataset
from cglo_jax.errors import UserError
from cglo_jax.process import interrupts
from tests.helpers.tiny import create_config


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


def test_a_warning_that_is_an_error_is_said_to_be_a_librarys(called, capsys):
    assert called(DeprecationWarning("old")) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: a library warned at ") and told.count("\n") == 1
    assert "Python makes errors of warnings here (-W error or PYTHONWARNINGS)" in told


def test_a_device_out_of_memory_is_one_line_with_what_to_do(called, capsys):
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"
    )
    assert called(error) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "error: out of memory (RESOURCE_EXHAUSTED: Out of memory alloc"
    )
    assert told.endswith("; the same command starts over: nothing was saved yet\n")


def test_more_devices_than_there_are_are_refused_before_images_are_read(
    call, monkeypatch
):
    monkeypatch.setattr(dataset, "load", None)
    for stage in ("all", "train", "classify"):
        with pytest.raises(
            UserError, match="devices is 9, but this machine has 4 cpu dev"
        ):
            call(stage, devices=9)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Returns what a call of a stage on digits prints before the stage begins."""
    monkeypatch.setattr(main, "_run_stages", lambda *_: None)
    monkeypatch.setattr(main.interrupts, "begin", lambda: None)

    def run(stage: str, **changes: object) -> str:
        main.main(Command(create_config(**changes), tmp_path / "run", stage))
        return capsys.readouterr().out

    return run


def test_a_cglo_that_no_method_needs_is_told_of(call):
    told = "no method of config.classify.methods uses cGLO"
    without = {"classify.methods": ("baseline", "pixelmix")}
    assert told in call("all", **without)
    assert told not in call("classify", **without)
    assert told not in call("all")


def test_cutout_of_whole_images_is_refused_before_anything_is_written(call, tmp_path):
    fields = {"classify.methods": ("baseline", "cutout"), "classify.cutout_size": 8}
    for stage in ("all", "classify"):
        with pytest.raises(UserError, match="cutout_size is 8, but images have 8x8"):
            call(stage, **fields)
    assert not (tmp_path / "run").exists()
    assert "data: " in call("sample", **fields)  # which reads nothing of it
