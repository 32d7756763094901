"""`main.run` called again and again by another program: equal results, and nothing stays behind."""

import os
import signal
import sys
import threading

import pytest
from absl import logging

from cglo_jax import main
from tests.helpers.small_run import FIELDS, digest_run, write_images

# What ml_collections reads configuration files with.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls `main.run` for a work directory; returns the exit status."""
    images = write_images(tmp_path / "images")
    fields = {**FIELDS, "dataset.path": str(images), "train.epochs": "1"}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]

    def run(name: str) -> int:
        argv = ["--config=folder", f"--workdir={tmp_path / name}", "--stage=train"]
        monkeypatch.setattr(sys, "argv", ["cell.py", *argv, *flags])
        with pytest.raises(SystemExit) as ended:
            main.run()
        return ended.value.code

    return run


def describe_process() -> dict[str, object]:
    """Returns what a call must leave as it was."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "handlers": [signal.getsignal(s) for s in (1, 2, 15)],
        "wakeup": wakeup,
        "hooks": (sys.unraisablehook, sys.excepthook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": {thread.name for thread in threading.enumerate()},
        "verbosity": logging.get_verbosity(),
    }


def test_calls_in_one_process_are_equal_and_leave_nothing(call, tmp_path, capsys):
    assert call("first") == 0  # JAX and Orbax keep threads of their own
    first, printed = describe_process(), capsys.readouterr().out
    assert call("second") == 0
    assert describe_process() == first
    assert capsys.readouterr().out == printed
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(call("third")))
    thread.start()
    thread.join()
    assert statuses == [0]
    assert describe_process() == first
    results = [digest_run(tmp_path / name) for name in ("first", "second", "third")]
    assert results[0] == results[1] == results[2]


def test_two_calls_at_once_are_one_and_one_line(call, monkeypatch, capsys):
    began, end, statuses = threading.Event(), threading.Event(), []

    def wait(command) -> None:
        began.set()
        end.wait(30)

    monkeypatch.setattr(main, "main", wait)
    thread = threading.Thread(target=lambda: statuses.append(call("first")))
    thread.start()
    assert began.wait(30)
    assert call("second") == 2
    end.set()
    thread.join()
    assert statuses == [0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: another call of run() is at work in this process: ")
    assert call("third") == 0


def test_several_processes_are_not_for_another_programs(call, monkeypatch, capsys):
    argv = ["cell.py", "--config=digits", "--coordinator=127.0.0.1:1"]
    monkeypatch.setattr(sys, "argv", [*argv, "--processes=2", "--process=0"])
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --coordinator is for processes")


def test_an_interrupted_call_ends_with_its_status(call, monkeypatch, capsys):
    def interrupted(command) -> None:
        signal.raise_signal(signal.SIGHUP)

    before = describe_process()
    monkeypatch.setattr(main, "main", interrupted)
    assert call("run") == 129
    assert "interrupted: the same command starts over" in capsys.readouterr().err
    assert describe_process() == before
