"""Tests of cglo_jax/training/run_log.py: what it documents is what is written."""

import re

import jax
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, code_fit
from cglo_jax.classifier import mixmatch
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.stages import classify, fit_codes, train
from cglo_jax.training import run_log
from tests.helpers import tiny
from tests.helpers.tiny import create_config, create_dataset
from tests.training.loop_test import Trainer

DEVICES = tuple(jax.local_devices()[:1])
METRICS, TIMINGS = (
    [re.split("  +", line.strip()) for line in table.splitlines()]
    for table in re.findall(r"(?<=meaning\n)(?:    .*\n)+", run_log.__doc__)
)
TRACES = {
    "labelled": ("train", {}),
    "cosine": ("train", {"weak_classifier.loss": "cosine"}),
    "unlabelled": ("train", {}),
    "codes": ("codes", {}),
    "baseline": ("classify", {}),
    "mixmatch": ("classify", {}),
}


def fields_of(table: list[list[str]], stage: str) -> set[str]:
    """The fields that are documented for a stage."""
    return {row[0] for row in table if stage in row[2].split(", ")}


def trace(name: str) -> set[str]:
    """The metrics that the real step of this name gives."""
    stage, changes = TRACES[name]
    config, dataset = create_config(**changes), create_dataset()
    key, spec = jax.random.key(0), algorithm.create_spec(config, dataset)
    state = jax.eval_shape(lambda: algorithm.init_state(key, spec=spec, n=24, dim=8))
    shared = algorithm.create_shared(key, dataset, {}, 0, spec=spec)
    batch = np.zeros((1, 8), np.int32)
    if stage == "train":
        step = train.compiled_step(spec, name != "unlabelled", DEVICES)
    elif stage == "codes":
        shared = code_fit.Frozen(shared, state.params, state.batch_stats)
        state = code_fit.FitState(state.step, state.codes)
        step = fit_codes.compiled_step(spec, True, DEVICES)
    else:
        model, _ = train.split_state(state)
        sampler = tiny.create_sampler(
            {**model, "z": np.zeros((24, 8), np.float32)}, dataset
        )
        weights = dataset.class_weights
        shared = classifier.Shared(key, dataset.images, None, weights, sampler)
        spec = classifier.create_spec(
            config, *dataset.side_and_channels, dataset.num_classes, METHODS[name]
        )
        state = jax.eval_shape(lambda: classifier.init_state(key, spec=spec))
        constants = None
        if name == "mixmatch":
            batch = np.zeros((1, 8, 2), np.int32)
            constants = mixmatch.MixMatch.create(config)
        step = classify.compiled_step(spec, DEVICES, constants)
    return set(jax.eval_shape(step._once, state, shared, batch)[1])


@pytest.fixture(scope="module")
def given() -> dict[str, set[str]]:
    """The metrics of all steps."""
    return {name: trace(name) for name in TRACES}


def test_every_metric_of_a_real_step_is_documented_and_nothing_else(given):
    tags = {"stage", "seed", "step", "epoch"}
    for stage in ("train", "codes", "classify"):
        names = [name for name in TRACES if TRACES[name][0] == stage]
        written = tags.union(*(given[name] for name in names))
        written |= {"method"} if stage == "classify" else set()
        if stage == "codes":
            written.add("cosine_loss")  # as in training
        assert written == fields_of(METRICS, stage)


def test_every_field_of_the_loops_lines_is_documented(tmp_path):
    trainer = Trainer(tmp_path, total=1)
    trainer.run()
    (line,), (timing,) = trainer.records(), trainer.records("timings")
    assert line.keys() <= fields_of(METRICS, "train")
    assert timing.keys() == fields_of(TIMINGS, "train") == fields_of(TIMINGS, "codes")
    assert timing.keys() | {"method"} == fields_of(TIMINGS, "classify")


def test_all_rows_have_a_unit_and_stages():
    assert len(METRICS) == 13 and len(TIMINGS) == 8
    stages = {"train", "codes", "classify", "sample"}
    for row in METRICS + TIMINGS:
        assert row[1] in {
            "text",
            "-",
            "steps",
            "epochs",
            "nats",
            "%",
            "s",
            "1/s",
            "images",
        }
        assert set(row[2].split(", ")) <= stages
