"""Tests of experiments/harness/entry.py."""

import os

import pytest

from cglo_jax.errors import UserError
from experiments.harness import entry


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("main", "status", "says"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: _raise(UserError("no such dog")), 2, "error: no such dog\n"),
        (
            lambda: _raise(KeyboardInterrupt()),
            130,
            "\ninterrupted: the same command goes on from here\n",
        ),
    ],
)
def test_status_and_message(capsys, monkeypatch, main, status, says):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    with pytest.raises(SystemExit) as exit_:
        entry.run(main)
    assert (exit_.value.code or 0) == status
    assert capsys.readouterr() == ("", says)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        entry.run(lambda: 1 // 0)


def test_xla_is_quiet_before_main_starts(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")  # restored after the test
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with pytest.raises(SystemExit) as exit_:
        entry.run(lambda: int(os.environ["TF_CPP_MIN_LOG_LEVEL"]))
    assert exit_.value.code == 1
