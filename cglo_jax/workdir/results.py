"""The result of a trained classifier, result.json: its path, its fields, reading it, its numbers."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import jax
import msgspec
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import printable
from cglo_jax.files import readback
from cglo_jax.files.readback import (
    Count,
    Fields,
    Name,
    Number,
    Percent,
    Positive,
    Seed,
    String,
)
from cglo_jax.process import numerics

_NEAR_COPIES = 200  # at most so many are listed in a result


def result_path(workdir: pathlib.Path, method: str, seed: int) -> pathlib.Path:
    """Returns the path of a classifier's result; its checkpoints/ are beside it."""
    return workdir / "classifiers" / f"{method}-{seed}" / "result.json"


_Row = Annotated[list[Count], msgspec.Meta(min_length=3, max_length=3)]


class Data(TypedDict):
    """The images in a result, with their numbers per class."""

    name: String
    num_classes: Positive
    n_labelled: Count
    n_unlabelled: Count
    transductive: bool
    test_split: String
    class_weights: bool
    class_names: list[String]
    train_counts: list[Count]
    test_counts: list[Count]
    near_copies: Count  # test images that nearly equal a training image
    near_copies_shown: Annotated[
        list[tuple[String, String]], msgspec.Meta(max_length=_NEAR_COPIES)
    ]


class Result(TypedDict):
    """The content of result.json, which `classify.run` writes.

    Accuracies are in percent; see `confusion` for the rows of "confusion".
    """

    method: Name
    seed: Seed
    top1: Percent
    top5: Percent
    n_test: Positive
    steps: Positive
    fingerprint: Fields
    dataset: Data
    classifier_weights: String
    perceptual_weights: String
    perceptual_digest: String
    codes_added_later: Count
    rates_times: dict[String, Number]
    environment: dict[String, String | Count]
    confusion: list[_Row]


def find_results(workdir: pathlib.Path) -> list[Result]:
    """Reads the results of all trained classifiers, in the order of their directories.

    Raises:
      UserError: see `read_result`.
    """
    found = []
    for name in readback.list_names(workdir / "classifiers"):
        with contextlib.suppress(FileNotFoundError):  # not trained yet
            found.append(read_result(workdir / "classifiers" / name / "result.json"))
    return found


def read_result(path: pathlib.Path) -> Result:
    """Reads classifiers/<method>-<seed>/result.json.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is damaged or belongs to another run.
    """
    advice = (
        "move this file away and run --stage=classify, which tests its classifier again"
    )

    def check(result: Result) -> None:
        if path.parent.name != f"{result['method']}-{result['seed']}":
            raise ValueError("it is of another method or seed than its directory")
        _check_numbers(result)

    return readback.read_json(path, Result, advice, check)


def _check_numbers(result: Result) -> None:
    """Raises ValueError unless the numbers of a result fit together."""
    data, n_test, top1 = result["dataset"], result["n_test"], result["top1"]
    if top1 > result["top5"]:
        raise ValueError("top1 must not be above top5")
    if "weights" not in result["fingerprint"]:
        raise ValueError("its fingerprint has no weights")
    lists = (data["class_names"], data["train_counts"], data["test_counts"])
    if {len(values) for values in lists} != {data["num_classes"]}:
        raise ValueError("names and counts must be of num_classes classes")
    if sum(data["test_counts"]) != n_test:
        raise ValueError("test_counts are not of n_test images")
    if abs(top1 * n_test / 100 - round(top1 * n_test / 100)) > 1e-6:
        raise ValueError("top1 is no share of n_test images")
    rows = result["confusion"]
    if any(max(row[:2]) >= data["num_classes"] or not row[2] for row in rows):
        raise ValueError("confusion must have classes and counts above 0")
    pairs = [tuple(row[:2]) for row in rows]
    if pairs != sorted(set(pairs)):
        raise ValueError("confusion must have each pair once, in order")
    tested, right = [0] * data["num_classes"], 0
    for label, predicted, count in rows:
        tested[label] += count
        right += count * (label == predicted)
    if tested != data["test_counts"] or abs(100 * right / n_test - top1) > 1e-6:
        raise ValueError("confusion is not of test_counts images, top1 of them right")


def name_data(config: ConfigDict) -> str:
    """Returns the name of the data set, or of the folder of images, for people to read."""
    if not config.dataset.path:
        return config.dataset.name
    path = pathlib.Path(os.path.expanduser(config.dataset.path)).absolute()
    return printable(path.name)


def count_labels(dataset: Dataset) -> list[int]:
    """Returns the number of labelled images of each class, K numbers."""
    labels = dataset.labels[dataset.labels >= 0]
    return np.bincount(labels, minlength=len(dataset.class_names)).tolist()


def describe_data(config: ConfigDict, train_set: Dataset, test_set: Dataset) -> Data:
    """Describes the images of a run for its results."""
    counts = [count_labels(dataset) for dataset in (train_set, test_set)]
    return {
        "name": name_data(config),
        "num_classes": len(train_set.class_names),
        "n_labelled": train_set.num_labelled,
        "n_unlabelled": len(train_set.ids) - train_set.num_labelled,
        "transductive": config.dataset.transductive,
        "test_split": test_set.split,
        "class_weights": config.dataset.class_weights,
        "class_names": list(train_set.class_names),
        "train_counts": counts[0],
        "test_counts": counts[1],
        "near_copies": len(test_set.near_copies),
        "near_copies_shown": list(map(list, test_set.near_copies[:_NEAR_COPIES])),
    }


def environment(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Describes what computes the results: versions, devices, commit (-dirty if changed)."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    here = str(pathlib.Path(__file__).parent)
    git = ["git", "-C", here, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        run_git = subprocess.run(git, capture_output=True, text=True, check=True)
        commit = run_git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "commit": commit,
        **({"flags": flags} if (flags := numerics.describe_flags()) else {}),
    }


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the percentage of images whose label is among the k largest logits.

    Of equal logits the label's counts as the smallest.

    Args:
      logits: float [n, K]. labels: int [n].
    """
    of_label = np.take_along_axis(logits, labels[:, None], 1)
    rank = (logits >= of_label).sum(1)  # the label's own logit counts: rank >= 1
    return 100 * float(((rank >= 1) & (rank <= k)).mean())


def confusion(logits: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Counts images by label and predicted class, consistently with `top_k_accuracy`.

    The predicted class is that of the largest logit. Of equal logits the label's counts as the
    smallest here too: the image is then counted for the first other class with that logit.

    Args:
      logits: float [n, K], finite. labels: int [n].

    Returns:
      Rows [label, predicted, count > 0], sorted by label, then by predicted class.
    """
    at_label = labels[:, None]
    of_label = np.take_along_axis(logits, at_label, 1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, at_label, -np.inf, 1)
    predicted = np.where(of_label > others.max(1), labels, others.argmax(1))
    pairs, counts = np.unique(
        np.stack([labels, predicted], 1), axis=0, return_counts=True
    )
    return np.column_stack([pairs, counts]).tolist()
