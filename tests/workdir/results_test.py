"""Tests of cglo_jax/workdir/results.py; tests/stages/classify_test.py reads what a run writes."""

import json
import re
import subprocess

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from cglo_jax.errors import UserError
from cglo_jax.workdir import results
from tests.helpers.report_workdir import make_config, make_result, put_result
from tests.helpers.tiny import create_config, create_dataset


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


def test_environment_has_versions_and_devices(monkeypatch):
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


def test_confusion_by_hand():
    logits = np.array(
        [
            [9.0, 1.0, 2.0],  # right
            [1.0, 2.0, 9.0],  # taken for 2
            [1.0, 2.0, 9.0],  # taken for 2
            [5.0, 5.0, 1.0],  # ties with 0
            [
                5.0,
                5.0,
                1.0,
            ],  # ties with 1: not the first of the largest, which is right
            [7.0, 7.0, 7.0],  # ties with both others
        ]
    )
    labels = np.array([0, 1, 1, 1, 0, 0])
    expected = [[0, 0, 1], [0, 1, 2], [1, 0, 1], [1, 2, 2]]
    before = logits.copy()
    assert results.confusion(logits, labels) == expected
    np.testing.assert_array_equal(logits, before)
    assert results.confusion(np.zeros((2, 1)), np.array([0, 0])) == [[0, 0, 2]]


def test_confusion_equals_scikit_learn():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((300, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 300).astype(np.int32)
    dense = np.zeros((7, 7), int)
    for label, predicted, count in results.confusion(logits, labels):
        dense[label, predicted] = count
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(7))
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize("levels", [2, 3, 50])
def test_the_diagonal_of_a_confusion_is_top_1_also_with_ties(levels):
    rng = np.random.default_rng(levels)
    logits = rng.integers(0, levels, (500, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 500)
    rows = results.confusion(logits, labels)
    right = sum(n for label, predicted, n in rows if label == predicted)
    assert sum(n for *_, n in rows) == 500
    assert 100 * right / 500 == pytest.approx(
        results.top_k_accuracy(logits, labels, 1), rel=1e-12
    )
    assert rows == sorted(rows)
    assert json.loads(json.dumps(rows)) == rows


RIGHT = [[0, 0, 200], [0, 3, 80], [1, 1, 120]]  # 80 % of 400 right


def read_with(tmp_path, **changes):
    result = make_result(make_config(), "cglo", 0, 80.0) | changes
    result["dataset"]["test_counts"] = [280, 120, 0, 0, 0, 0]
    put_result(tmp_path, result)
    return results.read_result(results.result_path(tmp_path, "cglo", 0))


def test_a_confusion_is_read_as_it_was_written(tmp_path):
    assert read_with(tmp_path, confusion=RIGHT)["confusion"] == RIGHT


@pytest.mark.parametrize(
    "confusion",
    [
        [],
        None,
        3,
        [3],
        [[0, 0, 400, 1]],
        [[0, 0, 200], [0, 3, 79], [1, 1, 120]],  # 399 images
        [[0, 0, 200], [0, 3, 79], [1, 1, 121]],  # another accuracy
        [[0, 0, 200], [0, 6, 80], [1, 1, 120]],  # there are six classes
        [[-1, 3, 80], [0, 0, 200], [1, 1, 120]],
        [[0, 0, 200], [0, 2, 80], [0, 3, 0], [1, 1, 120]],
        [[0, 0, 200], [0, 3, 80.0], [1, 1, 120]],
        [[0, 0, 200], [0, "3", 80], [1, 1, 120]],
        [[0, 0, 200], [1, 1, 120], [0, 3, 80]],  # out of order
        [[0, 0, 200], [0, 3, 40], [0, 3, 40], [1, 1, 120]],  # twice
        [
            [0, 0, 200],
            [0, 3, 79],
            [1, 1, 120],
            [2, 3, 1],
        ],  # of other images of each class
    ],
)
def test_an_impossible_confusion_is_named(tmp_path, confusion):
    with pytest.raises(UserError, match=r"cglo-0.result\.json cannot be used"):
        read_with(tmp_path, confusion=confusion)


def test_a_folder_is_named_so_that_a_report_can_be_written():
    images = create_dataset()
    config = create_config(**{"dataset.path": "/photos/a\nb\udcff"})
    name = results.describe_data(config, images, images)["name"]
    assert name == "a\\nb\\udcff"
