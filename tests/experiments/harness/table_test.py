"""Tests of experiments/harness/table.py."""

from experiments.harness.table import by_shots


def test_by_shots():
    columns = by_shots({5: 25, 10: 50}, dataset__transductive=True)
    assert [*columns] == ["5", "10"]
    assert columns["5"].paper == "25"
    assert columns["5"].overrides == {"dataset.shots": 5, "dataset.transductive": True}
