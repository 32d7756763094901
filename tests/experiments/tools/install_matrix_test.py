"""Tests of experiments/tools/install_matrix.py but for the installing, which takes minutes."""

import sys

import pytest

from cglo_jax.config import presets
from cglo_jax.config.defaults import flatten, get_config
from experiments.tools import install_matrix


@pytest.fixture(autouse=True)
def wheel(monkeypatch, tmp_path):
    monkeypatch.setattr(install_matrix, "build_wheel", lambda _: tmp_path / "a.whl")


def test_what_it_changes_are_fields_and_it_names_a_configuration_that_comes_along():
    assert install_matrix.SHRUNK.keys() <= flatten(get_config()).keys()
    assert "digits" in presets.names()


def test_a_python_that_fails_is_told_and_the_others_are_tried(
    monkeypatch, capsys, tmp_path
):
    (bad := tmp_path / "python9").write_text("#!/bin/sh\necho no venv >&2; exit 3\n")
    bad.chmod(0o755)
    try_one = install_matrix.try_one
    tried = []

    def try_or_say(python, jax, *rest):
        tried.append((python, jax))
        return "fine" if python == "good" else try_one(python, jax, *rest)

    monkeypatch.setattr(install_matrix, "try_one", try_or_say)
    monkeypatch.setattr(sys, "argv", ["x", "--jax=0.10.0", str(bad), "good"])
    assert install_matrix.main() == 1
    assert tried == [(str(bad), "0.10.0"), ("good", "0.10.0")]
    assert capsys.readouterr().out == f"{bad}: FAILED: ... no venv\nfine\n"


def test_all_that_succeed_is_success(monkeypatch):
    monkeypatch.setattr(install_matrix, "try_one", lambda *_: "fine")
    monkeypatch.setattr(sys, "argv", ["x", "good"])
    assert install_matrix.main() == 0
