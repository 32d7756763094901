"""Tests of cglo_jax/train.py: whole runs of Algorithm 1, cut off and resumed."""

import functools
import json

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, create_config, create_dataset, differ

from cglo_jax import cglo, checkpoints, train
from cglo_jax.errors import UserError
from cglo_jax.order import Schedule


def interrupt_at(monkeypatch, step: int):
    """Makes the schedule raise KeyboardInterrupt at a step, as if by Ctrl-C."""
    call = Schedule.__call__

    def wrapped(self, s):
        if s == step:
            raise KeyboardInterrupt
        return call(self, s)

    monkeypatch.setattr(Schedule, "__call__", wrapped)


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch):
    dataset = create_dataset(20, unlabelled=8)  # epochs of 3 + 1 steps
    config = create_config()
    whole = train.run(config, tmp_path, dataset, 0)
    cut = tmp_path / "cut"
    cut.mkdir()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)  # the checkpoint is at step 4
        with pytest.raises(KeyboardInterrupt):
            train.run(config, cut, dataset, 0)
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 6
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tra')  # what a killed process leaves
    resumed = train.run(config, cut, dataset, 0)
    assert int(resumed.step) == 8
    assert_trees_equal(whole, resumed)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    assert metrics == (cut / "metrics.jsonl").read_bytes()
    records = [json.loads(line) for line in metrics.splitlines()]
    assert [r["step"] for r in records] == list(range(1, 9))
    assert ["cross_entropy" in r for r in records] == [True, True, True, False] * 2


def test_another_seed_is_another_run(tmp_path):
    config, dataset = create_config(), create_dataset()
    runs = [train.run(config, tmp_path, dataset, seed) for seed in (0, 1)]
    assert differ(*(r.params for r in runs))
    assert differ(*(r.codes.z for r in runs))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    config = create_config(**{"train.weak_lr": 1e30})
    with pytest.raises(UserError, match=r"train seed 0: cross_entropy is nan at step"):
        train.run(config, tmp_path, create_dataset(), 0)
    directory = train.checkpoint_dir(tmp_path, 0)
    with checkpoints.Checkpoints(directory, read_only=True) as saved:
        assert saved.latest_step() is None
    records = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(r)["loss"]) for r in records)


def test_a_work_directory_of_another_config_or_other_images_is_refused(tmp_path):
    dataset = create_dataset()
    config = create_config()
    train.run(config, tmp_path, dataset, 0)
    other = create_config(**{"train.code_lr": 0.25})
    calls = [functools.partial(train.run, c, tmp_path) for c in (config, other)]
    with pytest.raises(UserError, match=r"train\.code_lr=0\.001, .* 0\.25: use"):
        calls[1](dataset, 0)
    with pytest.raises(UserError, match=r"train\.code_lr=0\.001, .* 0\.25: use"):
        train.restore_model(other, tmp_path, dataset, 0)
    changed = create_dataset(seed=1)
    with pytest.raises(UserError, match="made with other images than this call reads"):
        calls[0](changed, 0)
    with pytest.raises(UserError, match="made with other images than this call reads"):
        train.restore_model(config, tmp_path, changed, 0)
    calls[0](dataset, 0)  # and the right one is not


def test_restore_model_returns_generator_and_codes(tmp_path):
    config, dataset = create_config(), create_dataset()
    state = train.run(config, tmp_path, dataset, 0)
    model, step = train.restore_model(config, tmp_path, dataset, 0)
    assert step == 6
    expected, rest = train.split_state(state)
    assert_trees_equal(model, jax.device_get(expected))
    assert_trees_equal(train.merge_state(expected, rest), state)
    with pytest.raises(UserError, match=r"seed-1.*--stage=train"):
        train.restore_model(config, tmp_path, dataset, 1)


def test_random_vgg_is_refused_unless_asked_for():
    config = create_config(**{"reconstruction.loss": "perceptual"})
    spec = cglo.create_spec(config, create_dataset(size=16))
    with pytest.raises(UserError, match="weights") as error:
        train.create_vgg_params(config, spec)
    with pytest.raises(UserError, match="weights"):
        train.check_weights(config)
    train.check_weights(create_config(**{"reconstruction.loss": "laplacian"}))
    assert "--config.reconstruction.loss=laplacian" in str(error.value)
    assert "--config.reconstruction.random_weights=True" in str(error.value)
