"""Tests of experiments/tables.py, the command."""

import sys

import pytest

from experiments import tables
from experiments.harness import runner


def test_every_table_is_called_by_its_name():
    paper = [f"table{n}" for n in range(1, 7)]
    assert [*tables.TABLES] == [*paper, "cifar10", "study", "confirm", "precision"]


def test_the_first_argument_names_the_table_and_the_others_are_its_own(monkeypatch):
    called = []
    monkeypatch.setattr(runner, "main", lambda *a: called.append(a) or 1)
    monkeypatch.setattr(sys, "argv", ["tables", "table3", "--rows=lerp"])
    assert tables.main() == 1
    assert tables.main(["confirm", "--dry_run"]) == 1
    assert called == [
        (tables.TABLES["table3"], ["--rows=lerp"]),
        (tables.TABLES["confirm"], ["--dry_run"]),
    ]


@pytest.mark.parametrize("argv", [[], ["table7"], ["--scale=cpu", "table1"]])
def test_without_a_table_they_are_listed(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        tables.main(argv)
    assert "{table1,table2,table3," in capsys.readouterr().err


def test_a_table_explains_its_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        tables.main(["table6", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m experiments.tables table6 ")
    assert "--columns" in said
