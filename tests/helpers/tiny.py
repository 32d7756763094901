"""Data and configurations of a second's work, and what compares their results."""

import hashlib
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cglo_jax.cglo import sampling
from cglo_jax.cglo.sampling import Sampler
from cglo_jax.config import defaults
from cglo_jax.data import dataset as data
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError


def create_dataset(
    n: int = 24,
    *,
    classes: int = 3,
    unlabelled: int = 0,
    size: int = 8,
    channels: int = 1,
    seed: int = 0,
    split: str = "train",
) -> Dataset:
    """Makes smooth images whose brightness depends on the class, labelled in turn 0, 1, 2, 0, ...

    Args:
      n: images, the last `unlabelled` of them without a label.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 128, (n, size // 4, size // 4, channels))
    images = (
        coarse.repeat(4, 1).repeat(4, 2)
        + 40 * (np.arange(n) % classes)[:, None, None, None]
    )
    labels = np.arange(n, dtype=np.int32) % classes
    labels[n - unlabelled :] = -1
    return Dataset(
        images=images.astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class {c}" for c in range(classes)),
        ids=tuple(f"{seed:02x}{i:030x}" for i in range(n)),
        split=split,
    )


def fields(**changes: object) -> ConfigDict:
    """Returns `config.dataset` of the defaults with `changes`."""
    dataset = defaults.get_config().dataset
    dataset.update(changes)
    return dataset


def error_of(dataset: ConfigDict) -> str:
    """Returns the one line with which loading `dataset` is refused."""
    with pytest.raises(UserError) as error:
        data.load(dataset)
    assert "\n" not in str(error.value)
    return str(error.value)


def hash_pixels(image: np.ndarray) -> str:
    """Returns the id that an image of these pixels should have."""
    text = repr(image.shape).encode() + image.tobytes()
    return hashlib.sha256(text).hexdigest()[:32]


def create_config(**changes: object) -> ConfigDict:
    """Returns the defaults shrunk to a second's work, with `changes` by dotted names."""
    config = defaults.get_config()
    tiny = {
        "seeds": (0,),
        "devices": 1,
        "latent.dim": 8,
        "latent.noise_dim": 4,
        "generator.width": 4,
        "generator.max_width": 8,
        "weak_classifier.width": 4,
        "weak_classifier.gamma": 0.5,
        "reconstruction.loss": "laplacian",
        "train.epochs": 2,
        "train.steps_per_epoch": 3,
        "train.batch_size": 8,
        "train.checkpoint_every_epochs": 1,
        "train.log_every_steps": 1,
        "train.lr_drop_epochs": (),  # equal constants share a compiled step
        "sample.per_class": 2,
        "sample.projection": "pca",
        "classify.depth": 10,
        "classify.width": 1,
        "classify.dropout": 0.0,
        "classify.epochs": 2,
        "classify.steps_per_epoch": 3,
        "classify.batch_size": 8,
        "classify.pad": 1,
        "classify.checkpoint_every_epochs": 1,
        "classify.log_every_steps": 1,
        "classify.lr_drop_epochs": (),
    }
    config.update_from_flattened_dict({**tiny, **changes})
    return config


def create_sampler(model, dataset: Dataset) -> Sampler:
    """Puts networks and codes of a dict (params, batch_stats, z) and the labels together."""
    variables = {name: model[name] for name in ("params", "batch_stats")}
    z, labels = model["z"], dataset.labels
    return sampling.create_sampler(variables, z, labels, dataset.num_classes)


def assert_trees_equal(one, other) -> None:
    """Fails unless two trees have one structure and equal leaves."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def differ(one, other) -> bool:
    """Whether two trees of one structure have an unequal leaf."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(np.any(a != b) for a, b in pairs)


class Run(NamedTuple):
    """A finished `train.run` of seed 0."""

    config: ConfigDict
    dataset: Dataset
    workdir: pathlib.Path
