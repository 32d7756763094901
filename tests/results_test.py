"""Tests of cglo_jax/results.py; tests/classify_test.py reads what a run writes."""

import re
import subprocess

import jax
import numpy as np
import pytest
from conftest import create_config, create_dataset
from sklearn.metrics import top_k_accuracy_score

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


def test_top_k_by_hand():
    logits = np.array(
        [
            [9.0, 1.0, 2.0, 3.0],  # label first
            [9.0, 1.0, 2.0, 3.0],  # label last
            [9.0, 1.0, 2.0, 3.0],  # label second
            [5.0, 5.0, 1.0, 0.0],  # label ties with one other for the first place
        ]
    )
    labels = np.array([0, 1, 3, 1])
    accuracies = [results.top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 4, 5)]
    assert accuracies == [25.0, 75.0, 75.0, 100.0, 100.0]
    equal = np.zeros((6, 4))  # a classifier that knows nothing gets nothing for it
    labels = np.array([0, 1, 2, 3, 0, 1])
    assert results.top_k_accuracy(equal, labels, 1) == 0
    assert results.top_k_accuracy(equal, labels, 5) == 100
    assert results.top_k_accuracy(np.full((6, 4), np.nan), labels, 5) == 0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_scikit_learn(k):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((200, 10)).astype(np.float32)
    labels = rng.integers(0, 10, 200)
    expected = 100 * top_k_accuracy_score(labels, logits, k=k, labels=range(10))
    ours = results.top_k_accuracy(logits, labels, k)
    assert ours == pytest.approx(expected, rel=1e-12)
    assert 0 < ours < 100


def test_a_folder_is_named_so_that_a_report_can_be_written():
    images = create_dataset()
    config = create_config(**{"dataset.path": "/photos/a\nb\udcff"})
    name = results.describe_data(config, images, images)["name"]
    assert name == "a\\nb\\udcff"
