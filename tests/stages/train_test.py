"""Tests of cglo_jax/stages/train.py: whole runs of Algorithm 1, cut off and resumed."""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, code_init
from cglo_jax.cglo.algorithm import Schedule
from cglo_jax.errors import UserError
from cglo_jax.models import resnet
from cglo_jax.pretrained import networks
from cglo_jax.stages import fit_codes, previews, sample, train
from cglo_jax.stages.previews import draw  # conftest.py replaces it for other tests
from cglo_jax.training import checkpoints, memory, parallel
from cglo_jax.workdir import trained
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset, differ


def interrupt_at(monkeypatch, step: int):
    """Makes the schedule raise KeyboardInterrupt at a step, as if by Ctrl-C."""
    call = Schedule.__call__

    def wrapped(self, s):
        if s == step:
            raise KeyboardInterrupt
        return call(self, s)

    monkeypatch.setattr(Schedule, "__call__", wrapped)


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch):
    dataset = create_dataset(20, unlabelled=8)  # epochs of 1 + 3 steps
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
    cards = [d / "checkpoints" / "seed-0" / "README.md" for d in (tmp_path, cut)]
    assert cards[0].read_bytes() == cards[1].read_bytes()
    records = [json.loads(line) for line in metrics.splitlines()]
    assert [r["step"] for r in records] == list(range(1, 9))
    assert ["cross_entropy" in r for r in records] == [False, True, True, True] * 2


@pytest.mark.parametrize("last", ["labelled", "unlabelled"])
def test_running_averages_are_those_of_the_images_that_an_epoch_ends_on(tmp_path, last):
    dataset = create_dataset(16, unlabelled=8)
    still = {f"train.{name}": 1e-12 for name in ("generator_lr", "code_lr")}
    steps = {"train.steps_per_epoch": 60, "train.unlabelled_steps": 60}
    config = create_config(
        **still, **steps, **{"train.epochs": 1, "train.epoch_ends_on": last}
    )
    config.latent.noise = "none"
    config.train.batch_size = 8  # all of either kind
    state = train.run(config, tmp_path, dataset, 0)
    z = state.codes.z[:8] if last == "labelled" else state.codes.z[8:]
    generator = algorithm.create_generator(config, 8, 1, axis_name=None)
    variables = {
        "params": state.params["generator"],
        "batch_stats": state.batch_stats["generator"],
    }
    _, after = generator.apply(variables, z, None, train=True, mutable="batch_stats")
    # One more batch of these images leaves the averages as they are.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=5e-3, atol=5e-4),
        after["batch_stats"],
        variables["batch_stats"],
    )


@pytest.mark.parametrize("per_call", [1, 2])
def test_memory_is_checked_for_a_step_of_each_kind(tmp_path, monkeypatch, per_call):
    dataset = create_dataset(24, unlabelled=20)  # batches of 4 labelled, 8 unlabelled
    config = create_config(steps_per_call=per_call, **{"train.log_every_steps": 10})
    checked = []

    def check(step_fn, state, shared, batch, *, section, several):
        checked.append((step_fn, batch.shape, several))
        if len(checked) == 2:
            raise UserError("too little")

    monkeypatch.setattr(memory, "check", check)
    with pytest.raises(UserError, match="too little"):
        train.run(config, tmp_path, dataset, 0)
    spec = algorithm.create_spec(config, dataset)
    devices = tuple(parallel.choose_devices(config.devices))
    for (step_fn, shape, several), labelled, images in zip(
        checked, (True, False), (4, 8), strict=True
    ):
        assert step_fn is train.compiled_step(spec, labelled, devices)
        steps = [2] if per_call > 1 else []
        assert shape == (len(devices), *steps, images // len(devices))
        assert several == (per_call > 1)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_steps_in_one_call_are_the_steps_one_by_one(tmp_path, monkeypatch, devices):
    dataset = create_dataset(20, unlabelled=8)  # epochs of 1 + 3 steps
    changes = {"train.log_every_steps": 4, "devices": devices}
    calls, several = [], parallel.MappedStep.several

    def spied(self, state, shared, batches):
        calls.append(batches.shape[:2])
        return several(self, state, shared, batches)

    monkeypatch.setattr(parallel.MappedStep, "several", spied)
    states = {}
    for per_call, name in ((1, "one"), (3, "whole"), (3, "cut")):
        workdir = tmp_path / name
        workdir.mkdir()
        config = create_config(steps_per_call=per_call, **changes)
        with monkeypatch.context() as patch:
            if name == "cut":
                interrupt_at(patch, 6)
                with pytest.raises(KeyboardInterrupt):
                    train.run(config, workdir, dataset, 0)
        states[name] = train.run(config, workdir, dataset, 0)
    assert calls == [(devices, 3)] * 4  # of whole, and of cut before and after
    assert_trees_equal(states["whole"], states["cut"])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, states["one"], states["whole"])


def test_another_seed_is_another_run(tmp_path):
    config, dataset = create_config(), create_dataset()
    runs = [train.run(config, tmp_path, dataset, seed) for seed in (0, 1)]
    assert differ(*(r.params for r in runs))
    assert differ(*(r.codes.z for r in runs))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    config = create_config(**{"train.weak_lr": 1e30})
    with pytest.raises(
        UserError, match=r"train seed 0: cross_entropy is not finite since step 2;"
    ):
        train.run(config, tmp_path, create_dataset(), 0)
    directory = trained.checkpoint_dir(tmp_path, 0)
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
        trained.restore(other, tmp_path, dataset, 0)
    changed = create_dataset(seed=1)
    with pytest.raises(UserError, match="made with other images than this call reads"):
        calls[0](changed, 0)
    match = r"made with other images than this call reads.* --config\.train\.only_codes=True$"
    with pytest.raises(UserError, match=match):
        trained.restore(config, tmp_path, changed, 0)
    calls[0](dataset, 0)  # and the right one is not


def test_weights_of_the_perceptual_network_and_their_origin(tmp_path, monkeypatch):
    perceptual = {"reconstruction.loss": "perceptual"}
    assert train.load_vgg(create_config()) == ({}, networks.NO_WEIGHTS)
    config = create_config(**perceptual, **{"reconstruction.weights": "random"})
    params, origin = train.load_vgg(config)
    assert (origin, origin.external) == (networks.RANDOM, False)
    assert params["conv5_2"]["kernel"].shape == (3, 3, 512, 512)
    missing = str(tmp_path / "none.safetensors")
    config = create_config(**perceptual, **{"reconstruction.weights": missing})
    with pytest.raises(UserError, match=r"none\.safetensors"):
        train.load_vgg(config)


def test_other_weights_of_the_perceptual_network_are_another_run(tmp_path, monkeypatch):
    config, dataset = create_config(), create_dataset()
    train.run(config, tmp_path, dataset, 0)
    other = networks.Origin("0123", "VGG-16 from b")
    monkeypatch.setattr(train, "load_vgg", lambda config: ({}, other))
    with pytest.raises(UserError, match="was made with other weights than this call"):
        train.run(config, tmp_path, dataset, 0)


def test_equal_weights_of_another_file_are_the_same_run_and_not_for_the_strict_mode(
    tmp_path, monkeypatch
):
    config, dataset = create_config(), create_dataset()
    for name in ("a", "b"):
        origin = networks.Origin("0123", f"VGG-16 from {name}")
        monkeypatch.setattr(train, "load_vgg", lambda config, o=origin: ({}, o))
        train.run(config, tmp_path, dataset, 0)
    meta = trained.restore(config, tmp_path, dataset, 0).meta
    assert meta["notes"]["weights"] == "VGG-16 from a"
    config.external_weights = False
    with pytest.raises(
        UserError, match=r"with VGG-16 from a, but config.external_weig"
    ):
        trained.restore(config, tmp_path, dataset, 0)


def test_other_images_are_named_before_what_follows_from_them(tmp_path):
    config = create_config(**{"train.batch_size": 32})
    train.run(config, tmp_path, create_dataset(10), 0)
    with pytest.raises(UserError, match="was made with other images than this call"):
        train.run(config, tmp_path, create_dataset(14), 0)


def test_external_weights_of_the_first_codes_are_told_and_not_for_the_strict_mode(
    tmp_path, monkeypatch
):
    config, dataset = create_config(), create_dataset()
    other = networks.Origin("34", "ResNet-50 from b")
    monkeypatch.setattr(code_init, "load_resnet", lambda config: (None, other))
    train.run(config, tmp_path, dataset, 0)
    meta = trained.restore(config, tmp_path, dataset, 0).meta
    assert meta["weights"] == "none+34"
    assert meta["notes"]["weights"] == "none; codes started from ResNet-50 from b"
    config.external_weights = False
    with pytest.raises(
        UserError, match=r"codes started from ResNet-50 from b, but conf"
    ):
        trained.restore(config, tmp_path, dataset, 0)
    config.external_weights = True
    changed = networks.Origin("56", "ResNet-50 from c")
    monkeypatch.setattr(code_init, "load_resnet", lambda config: (None, changed))
    with pytest.raises(UserError, match="was made with other weights than this call"):
        train.run(config, tmp_path, dataset, 0)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_pictures_for_tensorboard_change_nothing_and_cost_nothing_without_it(
    tmp_path, monkeypatch, compilations, devices
):
    pytest.importorskip("tensorboardX")
    from tests.helpers.event_files import read_shown

    monkeypatch.setattr(previews, "draw", draw)
    dataset = create_dataset(20, unlabelled=8)  # epochs of 1 + 3 steps
    config = create_config(devices=devices)
    states, metrics = [], []
    for name in ("none", "again", "shown", "cut"):
        workdir = tmp_path / name
        workdir.mkdir()
        with monkeypatch.context() as patch:
            if name in ("none", "again"):
                patch.setitem(sys.modules, "tensorboardX", None)
            if name == "cut":
                interrupt_at(patch, 6)
                with pytest.raises(KeyboardInterrupt):
                    train.run(config, workdir, dataset, 0)
                patch.undo()
            before = len(compilations)
            states.append(train.run(config, workdir, dataset, 0))
        if name == "again":
            assert len(compilations) == before
        metrics.append((workdir / "metrics.jsonl").read_bytes())
        model = trained.restore(config, workdir, dataset, 0)
        np.testing.assert_array_equal(model.z, states[0].codes.z)
    for state in states[1:]:
        assert_trees_equal(states[0], state)
    assert len(set(metrics)) == 1
    assert not (tmp_path / "none" / "tensorboard").exists()
    boards = [
        read_shown(tmp_path / name / "tensorboard" / "train-0")
        for name in ("shown", "cut")
    ]
    assert boards[0] == boards[1]
    lines = [json.loads(line) for line in metrics[0].splitlines()]
    for name in ("loss", "cross_entropy"):
        told = {r["step"]: pytest.approx(r[name]) for r in lines if name in r}
        assert boards[0].scalars[name] == told
    assert {n: list(p) for n, p in boards[0].pictures.items()} == {
        "reconstructions": [4, 8],
        "samples": [4, 8],
    }


VARIANTS = {
    "latent": {
        "latent.noise": "additive",
        "latent.init": "hypercube",
        "weak_classifier.input": "latent",
        "weak_classifier.loss": "cosine",
    },
    "image": {
        "latent.noise": "none",
        "latent.init": "resnet",
        "latent.init_weights": "random",
        "weak_classifier.loss": "double_softmax",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_resume_sample_and_take_added_images(
    variant, tmp_path, monkeypatch
):
    monkeypatch.setattr(resnet, "BLOCKS", (1, 1, 1, 1))
    config, dataset = create_config(**VARIANTS[variant]), create_dataset(unlabelled=8)
    loaded = code_init.load_resnet(config)
    monkeypatch.setattr(code_init, "load_resnet", lambda config: loaded)  # once
    whole = train.run(config, tmp_path, dataset, 0)
    key = jax.random.split(jax.random.key(0), 3)[0]
    first = code_init.draw(config, key, dataset, loaded[0])
    moved = np.arccos(np.clip((first * np.asarray(whole.codes.z)).sum(1), -1, 1))
    assert (0 < moved).all() and (moved < 0.1).all()  # some steps of 1e-3 away
    cut = tmp_path / "cut"
    cut.mkdir()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, cut, dataset, 0)
    assert_trees_equal(whole, train.run(config, cut, dataset, 0))
    last = json.loads((cut / "metrics.jsonl").read_text().splitlines()[-3])
    name = "cosine_loss" if variant == "latent" else "cross_entropy"
    assert {name, "weak_accuracy"} <= last.keys()
    monkeypatch.setattr(sample, "write_figures", lambda *_: None)  # seconds
    directory = sample.run(config, cut, (dataset, create_dataset(8, seed=1)), 0)
    assert len(list(directory.glob("images/*/*.png"))) == 6
    more = create_dataset(28, unlabelled=8)  # 4 more, and other labels are known
    more = dataclasses.replace(more, labels=np.arange(28, dtype=np.int32) % 3)
    fit_codes.run(config, cut, (more, create_dataset(8, seed=1)), 0)
    model = trained.restore(config, cut, more, 0, complete=True)
    np.testing.assert_array_equal(model.z[:24], whole.codes.z)
    np.testing.assert_allclose(np.linalg.norm(model.z[24:], axis=1), 1, rtol=1e-6)
    last = json.loads((cut / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["stage"] == "codes" and np.isfinite(last[name])
