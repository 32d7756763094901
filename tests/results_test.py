"""Tests of cglo_jax/results.py; tests/classify_test.py reads what a run writes."""

import re
import subprocess

import jax
import numpy as np
from conftest import create_config, create_dataset

from cglo_jax import results


def test_data_are_described_with_the_images_of_each_class():
    train_set = create_dataset(11, classes=4, unlabelled=1)
    test_set = create_dataset(3, classes=4, split="held out")
    config = create_config(**{"dataset.path": "/some/where/birds/"})
    described = results.describe_data(config, train_set, test_set)
    assert described["name"] == "birds"
    assert described["train_counts"] == [3, 3, 2, 2]
    assert described["test_counts"] == [1, 1, 1, 0]
    assert (described["n_labelled"], described["n_unlabelled"]) == (10, 1)
    assert described["test_split"] == "held out"
    assert (
        results.describe_data(create_config(), train_set, test_set)["name"] == "digits"
    )


def test_environment_tells_versions_and_devices(monkeypatch):
    environment = results.environment(jax.local_devices()[:2])
    assert environment["devices"] == 2
    assert environment["backend"] == "cpu"
    assert environment["jax"] == jax.__version__
    assert environment["numpy"] == np.__version__
    assert re.fullmatch(r"3\.\d+\.\d+", environment["python"])
    assert environment.keys() >= {"jaxlib", "flax", "optax", "device"}
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?|unknown", environment["commit"])

    def no_git(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_git)
    assert results.environment(jax.local_devices())["commit"] == "unknown"
