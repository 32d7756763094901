"""Tests of cglo_jax/training/processes.py; tests/cli/launch_test.py has two processes."""

import pytest

from cglo_jax.errors import UserError
from cglo_jax.training import parallel, processes


def test_one_process_agrees_with_itself(tmp_path):
    processes.check_equal("flags", "a")
    processes.check_workdir(tmp_path)
    assert processes.describe().startswith("1 processes, ")


def test_the_process_that_differs_is_named(monkeypatch):
    monkeypatch.setattr(
        parallel, "gather_strings", lambda name, value: ["a", "a", value]
    )
    processes.check_equal("flags", "a")
    with pytest.raises(UserError, match=r"^process 2 has flags other than process 0's"):
        processes.check_equal("flags", "b")
