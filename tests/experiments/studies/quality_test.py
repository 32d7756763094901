"""Tests of experiments/studies/quality.py on a tiny run."""

import json
import sys

import numpy as np
import pytest

from cglo_jax.cglo import quality
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.inference import sampler
from cglo_jax.stages import classify
from cglo_jax.workdir import directory
from cglo_jax.workdir import trained as restoring
from cglo_jax.workdir.results import read_result, result_path
from experiments.studies import quality as experiment
from tests.helpers.tiny import create_config, create_dataset


@pytest.fixture
def run(trained, monkeypatch):
    """A work directory with a cGLO and a baseline classifier: (workdir, datasets)."""
    config, dataset, workdir = trained
    datasets = dataset, create_dataset(30, seed=1, split="test")
    monkeypatch.setattr(data, "load", lambda fields, seed=0: datasets)
    directory.create(config, workdir)
    classify.run(config, workdir, datasets, "baseline", 0)
    return workdir, datasets


def test_quality_of_a_run(run, tmp_path, monkeypatch, capsys):
    workdir, (train_set, _) = run
    monkeypatch.setattr(experiment, "RESULTS", tmp_path / "quality.jsonl")
    argv = ["quality", f"--workdir={workdir}", "--per_class=4"]
    monkeypatch.setattr(sys, "argv", argv)
    capsys.readouterr()
    experiment.main()
    lines = capsys.readouterr().out.splitlines()
    record = json.loads((tmp_path / "quality.jsonl").read_text())
    checks = record["checks"]
    assert len(lines) == 2 + len(checks) == 18
    assert all(line.count("|") == 5 for line in lines)
    # What classify.evaluate found on the same images by another path.
    top1 = read_result(result_path(workdir, "baseline", 0))["top1"]
    assert checks["seen as their class, %"][1] == pytest.approx(top1)
    model = restoring.restore(experiment.read_config(workdir), workdir, train_set, 0)
    angles = quality.code_angles(model.z, train_set.labels)
    names = [
        f"angle of codes {x}, degrees" for x in ("within a class", "between classes")
    ]
    assert [checks[name][0] for name in names] == pytest.approx(angles)
    assert (record["seed"], record["per_class"]) == (0, 4)


def test_synthetic_images_have_parents_of_their_class(run):
    workdir, (train_set, _) = run
    config = experiment.read_config(workdir)
    model = sampler.restore(config, workdir, train_set, 0)
    images, labels, parents = experiment.synthesize(model, 10)
    assert images.shape == (30, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    np.testing.assert_array_equal(
        train_set.labels[parents], labels[:, None].repeat(2, 1)
    )
    assert (parents[:, 0] != parents[:, 1]).all()
    # The 8 images of class 0 are sources in turn.
    assert parents[:10, 0].tolist() == [*range(0, 24, 3), 0, 3]


def make_images(values, labels):
    values = np.asarray(values, np.uint8)
    logits = np.eye(2, dtype=np.float32)[[int(v > 100) for v in values]]
    embeddings = values[:, None].astype(np.float32) / 10
    return experiment.Images(
        values[:, None, None, None], np.array(labels), logits, embeddings
    )


def test_checks_by_hand():
    known = make_images([0, 20, 200, 220], [0, 0, 1, 1])
    held_out = make_images([30, 40, 190, 120], [0, 0, 1, 1])
    synthetic = make_images([20, 5, 205, 8], [0, 0, 1, 1])
    parents = np.array([[0, 1], [1, 1], [2, 3], [2, 3]])
    rows = {r.name: r for r in experiment.measure(known, held_out, synthetic, parents)}

    def pair(name):
        return rows[name].synthetic, rows[name].real

    # To the nearest of the class: 0, 5, 5, 192 against 10, 20, 10, 80.
    assert pair("pixel distance") == pytest.approx((5 / 127.5, 15 / 127.5))
    assert pair("feature distance") == pytest.approx((0.5, 1.5))
    for space in ("pixel", "feature"):
        assert pair(f"{space} distance, ratio") == pytest.approx((1 / 3, 1))
        assert pair(f"{space} copies, %") == (75, 1)
        # Nearest of all: 1, 0, 2 and 0. Of them 1 and 2 are parents, the last 0 of another
        # class.
        assert pair(f"{space} nearest is a parent, %") == (50, None)
        assert pair(f"{space} nearest is of the class, %") == (75, 100)
        # 15 / 10 in class 0, 197 / 70 in class 1.
        expected = (15 / 10 + 197 / 70) / 2
        assert pair(f"{space} diversity") == pytest.approx((expected, 1))
    assert pair("seen as their class, %") == (75, 100)
    assert pair("the worst class of these, %") == (50, 100)


def test_unfinished_runs_are_refused(run, tmp_path, monkeypatch):
    workdir, (train_set, _) = run
    config = experiment.read_config(workdir)
    with pytest.raises(
        UserError, match="give the --workdir of a finished run"
    ) as error:
        experiment.read_config(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="baseline-1"):
        experiment.run(config, workdir, 1, 2)
    other = train_set, create_dataset(30, seed=2, split="test")
    monkeypatch.setattr(data, "load", lambda fields, seed=0: other)
    with pytest.raises(UserError, match="other test images"):
        experiment.run(config, workdir, 0, 2)


def test_config_is_read_as_it_was_written(tmp_path):
    config = create_config(**{"sample.t_values": (0.2, 0.3)})
    directory.create(config, tmp_path)
    assert experiment.read_config(tmp_path).to_dict() == config.to_dict()
    (tmp_path / "config.json").write_text('{"no.such": 1}')
    with pytest.raises(UserError, match="cannot be used"):
        experiment.read_config(tmp_path)
