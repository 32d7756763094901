"""Tests of experiments/tune.py."""

import argparse

import numpy as np
import pytest

from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from configs import digits
from experiments import tune
from experiments.harness import scales
from tests.helpers.tiny import create_config, create_dataset


def test_folds_are_disjoint_balanced_and_complete():
    dataset = create_dataset(22)  # 8, 7 and 7 images of three classes
    seen = []
    for fold in range(3):
        train_set, test_set = tune.cut_fold(dataset, fold, 3)
        assert not {*train_set.ids} & {*test_set.ids}
        assert {*train_set.ids} | {*test_set.ids} == {*dataset.ids}
        counts = np.bincount(test_set.labels, minlength=3)
        assert counts.max() - counts.min() <= 1
        for part in (train_set, test_set):
            for i, image, label in zip(part.ids, part.images, part.labels, strict=True):
                k = dataset.ids.index(i)
                np.testing.assert_array_equal(image, dataset.images[k])
                assert label == dataset.labels[k]
        seen += test_set.ids
    assert sorted(seen) == sorted(dataset.ids)


def test_unlabelled_images_are_in_no_fold():
    dataset = create_dataset(24, unlabelled=6)
    train_set, test_set = tune.cut_fold(dataset, 0, 3)
    assert {*train_set.ids} | {*test_set.ids} == {*dataset.ids[:18]}


def test_trials_begin_with_the_configuration_and_stay_in_range():
    config = digits.get_config()
    trials = tune.draw_trials(config, 40)
    c = config.classify
    assert trials[0] == {
        "lr": c.lr,
        "weight_decay": c.weight_decay,
        "batch_size": c.batch_size,
    }
    assert trials == tune.draw_trials(config, 40)
    assert trials[:8] == tune.draw_trials(config, 8)
    assert len({tuple(t.values()) for t in trials}) == 40
    lr, decay, batch = np.array([list(t.values()) for t in trials]).T
    assert 0.1 / 33 < lr.min() < 0.01
    assert 0.1 < lr.max() < 0.32
    assert 5e-4 / 3.5 < decay.min() < 1e-3
    assert 1e-2 < decay.max() < 0.051
    assert {*batch} == {12, 25, 50}


def test_a_dry_run_multiplies_what_a_setting_takes(monkeypatch, capsys):
    def seconds(settings, choice):
        assert choice[:2] == ("cpu", "digits")
        assert settings[0].config.dataset.shots == 7
        assert len({run.config.classify.lr for run in settings}) == 3
        return [60.0] * len(settings), 1

    monkeypatch.setattr(tune.estimate, "seconds", seconds)
    argv = ["tune", "--shots=7", "--trials=3", "--folds=4", "--draws=2", "--dry_run"]
    monkeypatch.setattr("sys.argv", argv)
    tune.main()
    assert capsys.readouterr().out == (
        "7 per class: 3 settings x 4 folds x 2 draws = 24 baselines, about 24.0 min; "
        "finished ones are not repeated (1 settings' speed is assumed)\n"
    )


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Digits, two per class, a few steps; results in tmp_path."""

    def create():
        config = create_config()
        config.dataset.name = "digits"
        return config

    setting = scales.Setting(create, {}, (0,), True, "")
    monkeypatch.setitem(scales.SETTINGS, ("cpu", "digits"), setting)
    monkeypatch.setattr(tune, "TUNED", tmp_path / "tuned.jsonl")
    monkeypatch.setattr(tune, "TRIALS", tmp_path / "tuning.jsonl")
    return argparse.Namespace(
        scale="cpu",
        data="digits",
        data_dir="",
        trials=2,
        folds=2,
        draws=2,
        workdir=tmp_path / "runs",
    )


def test_tunes_on_labelled_images_only(small, monkeypatch, capsys):
    read = []
    load = data.load

    def watched(fields):
        sets = load(fields)
        read.append((fields.split_seed, sets[0].digest))
        return sets

    monkeypatch.setattr(data, "load", watched)
    tune.tune(small, 2)
    assert [seed for seed, _ in read] == [0, 1]
    trials, (best,) = (
        storage.read_records(tune.TRIALS),
        storage.read_records(tune.TUNED),
    )
    assert len(trials) == 2
    assert best["accuracy"] == max(t["accuracy"] for t in trials)
    assert {k: best[k] for k in ("scale", "data", "shots", "trials")} == {
        "scale": "cpu",
        "data": "digits",
        "shots": 2,
        "trials": 2,
    }
    # 20 images in each of two draws: every score is a twentieth.
    for trial in trials:
        assert len(trial["draws"]) == 2
        for score in trial["draws"]:
            assert score / 5 == pytest.approx(round(score / 5))
        assert trial["accuracy"] == pytest.approx(np.mean(trial["draws"]))
    table = capsys.readouterr().out
    assert table.count("| taken |") == 1
    tune.tune(small, 2)  # nothing is trained or written as a trial twice
    assert storage.read_records(tune.TRIALS) == trials
    assert [r["lr"] for r in storage.read_records(tune.TUNED)] == [best["lr"]] * 2
    results = list(small.workdir.rglob("result.json"))
    assert len(results) == 2 * 2 * 2  # trials, draws, folds


def test_one_image_per_class_cannot_be_cut(small):
    with pytest.raises(UserError, match="one image per class cannot be cut into folds"):
        tune.tune(small, 1)
    assert [tune.count_folds(small, shots) for shots in (2, 3)] == [2, 2]
    small.folds = 5
    assert [tune.count_folds(small, shots) for shots in (3, 7)] == [3, 5]


def test_seeds_that_share_their_images_are_tuned_on_these_alone(small):
    small.draws = None
    assert tune.count_draws(small) == 2
    small.data, small.scale = "cifar100", "paper"
    assert tune.count_draws(small) == 1
    small.draws = 3
    assert tune.count_draws(small) == 3
