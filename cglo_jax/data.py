"""Images in: embedded digits or any prepared TFDS data set -> small-sample `Dataset`s.

Which images are taken depends on (split_seed, image content) alone, so the same call takes the
same images on every machine.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from cglo_jax import sources
from cglo_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images that fit in memory.

    Attributes:
      images: uint8 [n, H, W, C].
      labels: int32 [n], -1 = unlabelled.
      class_names: K names, indexed by label.
      ids: n hexadecimal content hashes; the same image has the same id everywhere.
      split: what these are, for people ("train", "test", "held out of train").
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    split: str

    @property
    def num_labelled(self) -> int:
        """Number of images with a label."""
        return int((self.labels >= 0).sum())

    @property
    def digest(self) -> str:
        """Hash of which images these are, in which order, with which labels."""
        text = repr((self.ids, self.labels.tolist(), self.class_names))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def load(fields: ConfigDict) -> tuple[Dataset, Dataset]:
    """Reads the training and the test images that `config.dataset` names.

    Training images are the labelled ones first, then the unlabelled pool, then, if
    `transductive`, the test images; the labels of the last two are -1.

    Returns:
      (train, test).

    Raises:
      UserError: the data set is unknown, not prepared, has too few images of a class, or
        test images without labels.
    """
    names, pool, test = sources.read(fields)
    chosen = choose_shots(pool.ids, pool.labels, names, fields.shots, fields.split_seed)
    rest = np.setdiff1d(np.arange(len(pool.ids)), chosen)
    ids = [pool.ids[i] for i in rest]
    rest = rest[sources.rank_ids(ids, fields.split_seed, "unlabelled")]
    needed = fields.unlabelled + fields.holdout
    if needed > len(rest):
        raise UserError(
            f"config.dataset.unlabelled + holdout = {needed}, but only {len(rest)} "
            f"training images are left beside the {len(chosen)} labelled ones"
        )
    unlabelled, held_out = rest[: fields.unlabelled], rest[fields.unlabelled : needed]

    if fields.holdout:
        test_set = _take(pool, np.sort(held_out), names, "held out of train")
    else:
        test_set = _take(test, np.arange(len(test.ids)), names, "test")
        if (test_set.labels < 0).any():
            raise UserError(
                f"data set {fields.name!r} keeps the labels of its test images to itself: "
                "test on N unused training images, --config.dataset.holdout=N"
            )
    parts = [
        _take(pool, chosen, names, "train"),
        _hide_labels(_take(pool, unlabelled, names, "train")),
    ]
    if fields.transductive:
        parts.append(_hide_labels(test_set))
    return _concatenate(parts), test_set


def describe(train: Dataset, test: Dataset) -> str:
    """Returns one line for people: how many images of what."""
    n, side = train.num_labelled, train.images.shape[1]
    unlabelled = len(train.ids) - n
    extra = f" and {unlabelled} unlabelled" if unlabelled else ""
    text = (
        f"data: {n} labelled{extra} training images of {len(train.class_names)} classes, "
        f"{len(test.ids)} test images ({test.split}), {side}x{side} px"
    )
    if alone := int((np.bincount(train.labels[train.labels >= 0]) == 1).sum()):
        text += (
            f"; {alone} class(es) with one image each, whose new images are that image's "
            "reconstruction: there is no other to go towards"
        )
    return text


def choose_shots(
    ids: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    shots: int,
    seed: int,
) -> np.ndarray:
    """Chooses `shots` images of each class by the rank of sha256("seed/labelled/id").

    Stable across machines, library versions and the order of the input; fewer shots of the same
    seed are a subset of more.

    Args:
      ids: n content hashes. labels: int [n]. class_names: K names. shots: images per class.

    Returns:
      int [K * shots], positions ordered by class, then rank.

    Raises:
      UserError: a class has no image, or fewer than `shots`.
    """
    chosen = []
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if not len(members):
            raise UserError(
                f"class {name!r} (label {label}) has no training image: every class needs at least one"
            )
        if len(members) < shots:
            raise UserError(
                f"config.dataset.shots is {shots}, but class {name!r} has only {len(members)} training images: "
                f"use {len(members)} or fewer"
            )
        order = sources.rank_ids([ids[i] for i in members], seed, "labelled")
        chosen.append(members[order[:shots]])
    return np.concatenate(chosen)


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 [...] in [0, 255] -> float32 [...] in [-1, 1]. Works on JAX arrays too."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float [...] in [-1, 1] -> uint8 [...] in [0, 255], rounded; the inverse of `to_float`."""
    return np.clip(
        np.round((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255
    ).astype(np.uint8)


def _take(
    source: sources.Source, positions: np.ndarray, names: tuple[str, ...], split: str
) -> Dataset:
    return Dataset(
        images=source.read(positions),
        labels=source.labels[positions].astype(np.int32),
        class_names=names,
        ids=tuple(source.ids[i] for i in positions),
        split=split,
    )


def _hide_labels(dataset: Dataset) -> Dataset:
    return dataclasses.replace(dataset, labels=np.full_like(dataset.labels, -1))


def _concatenate(parts: Sequence[Dataset]) -> Dataset:
    parts = [p for p in parts if len(p.ids)]
    return dataclasses.replace(
        parts[0],
        images=np.concatenate([p.images for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        ids=sum((p.ids for p in parts), ()),
    )
