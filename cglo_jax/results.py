"""What is written of a trained classifier, result.json: where it is, what it holds, reading it."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax import numerics
from cglo_jax.data import Dataset
from cglo_jax.errors import UserError, printable

_NEAR_COPIES = 200  # that a result lists


def result_path(workdir: pathlib.Path, method: str, seed: int) -> pathlib.Path:
    """Returns where the result of a classifier is, its checkpoints/ beside it."""
    return workdir / "classifiers" / f"{method}-{seed}" / "result.json"


def find_results(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the results of all trained classifiers, in the order of their directories.

    Raises:
      UserError: see `read_result`.
    """
    return [read_result(p) for p in sorted(workdir.glob("classifiers/*/result.json"))]


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads classifiers/<method>-<seed>/result.json, what `classify.run` writes.

    Returns:
      What is in it; "confusion" is empty in one that was written before there was any.

    Raises:
      UserError: it is damaged or another run's.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name != f"{result['method']}-{int(result['seed'])}":
            raise ValueError("it is of another method or seed than its directory")
        if not 0 <= float(result["top1"]) <= float(result["top5"]) <= 100:
            raise ValueError("top1 and top5 are no percentages")
        if not (result["n_test"] > 0 and result["steps"] > 0):
            raise ValueError("n_test and steps must be greater than 0")
        for name in ("fingerprint", "environment", "dataset"):
            dict(result[name])
        for name in ("classifier", "perceptual"):
            str(result[f"{name}_weights"])
        str(result["perceptual_digest"]), int(result["codes_added_later"])
        [float(rate) for rate in dict(result["rates_times"]).values()]
        if result.setdefault("confusion", []) != []:
            _check_confusion(result)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be used ({type(error).__name__}: {error}): "
            "remove it and run --stage=classify again"
        ) from error
    return result


def _check_confusion(result: dict[str, Any]) -> None:
    """Raises ValueError unless "confusion" is one, of as many images and as many right ones."""
    rows = [tuple(row) for row in result["confusion"]]
    num_classes, n_test = len(result["dataset"]["class_names"]), result["n_test"]
    for label, predicted, count in rows:
        if {type(label), type(predicted), type(count)} != {int} or not (
            0 <= label < num_classes and 0 <= predicted < num_classes and count > 0
        ):
            raise ValueError("confusion must have classes and counts")
    pairs = [row[:2] for row in rows]
    if pairs != sorted(set(pairs)):
        raise ValueError("confusion must have each pair once, in order")
    right = sum(count for label, predicted, count in rows if label == predicted)
    total = sum(count for _, _, count in rows)
    if (total, right) != (n_test, round(result["top1"] * n_test / 100)):
        raise ValueError("confusion is not of n_test images, top1 of them right")


def name_data(config: ConfigDict) -> str:
    """Returns what people call the images: the name of their data set, or of their folder."""
    if not config.dataset.path:
        return config.dataset.name
    path = pathlib.Path(os.path.expanduser(config.dataset.path)).absolute()
    return printable(path.name)


def count_labels(dataset: Dataset) -> list[int]:
    """Returns the number of labelled images of each class."""
    labels = dataset.labels[dataset.labels >= 0]
    return np.bincount(labels, minlength=len(dataset.class_names)).tolist()


def describe_data(
    config: ConfigDict, train_set: Dataset, test_set: Dataset
) -> dict[str, Any]:
    """Returns what a result tells of the images."""
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
    """Returns what a number was computed with: versions, devices, commit (-dirty if changed)."""
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

    Exact over all images; of equal logits the label's counts as the smallest.

    Args:
      logits: float [n, K]. labels: int [n].
    """
    of_label = np.take_along_axis(logits, labels[:, None], 1)
    rank = (logits >= of_label).sum(1)  # the label's own logit counts: rank >= 1
    return 100 * float(((rank >= 1) & (rank <= k)).mean())


def confusion(logits: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Counts which class images of each class are taken for, as exact as `top_k_accuracy`.

    The predicted class is that of the largest logit. Of equal ones the label's counts as the
    smallest here too: such an image is counted for the first of the other classes that have it.

    Args:
      logits: float [n, K], finite. labels: int [n].

    Returns:
      [label, predicted, count > 0] in the order of labels, then of predicted classes.
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
