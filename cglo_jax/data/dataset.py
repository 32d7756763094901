"""Digits, own folders or any data set that TFDS has prepared -> small-sample `Dataset`s.

Which images are taken depends only on (split_seed, image content), and with `split_per_seed` on the
run's seed, so the same call takes the same images on every machine.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.data import folder, pixels, sources, tfds
from cglo_jax.data.colours import DEFAULT, Conversion
from cglo_jax.data.layout import name_some
from cglo_jax.errors import UserError

_PIXELS = 1 << 21  # of a batch that is computed without gradients


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images that fit in memory.

    Attributes:
      images: uint8 [n, H, W, C], H = W: the middle square of each image.
      labels: int32 [n], -1 = unlabelled.
      class_names: K names, indexed by label.
      ids: n hexadecimal content hashes, the same on every machine, see `sources.Source`.
      split: which images these are, in words ("train", "test", "held out of train").
      canvas: with `config.dataset.crop` the labelled images, which come first, as whole images to
        take random crops from; else None.
      balanced: whether `class_weights` differ with the number of images.
      notes: lines to print before training.
      skipped: "file: why" for each file that is not used.
      conversion: how image files became these images.
      near_copies: (file, training file) of each test image that nearly equals a training image.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    split: str
    canvas: pixels.Canvas | None = None
    balanced: bool = False
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    conversion: Conversion = DEFAULT
    near_copies: tuple[tuple[str, str], ...] = ()

    @property
    def num_labelled(self) -> int:
        """Number of images with a label."""
        return int((self.labels >= 0).sum())

    @property
    def num_unlabelled(self) -> int:
        """Number of images without a label."""
        return len(self.labels) - self.num_labelled

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def side_and_channels(self) -> tuple[int, int]:
        """(H, C) of the images, which are squares.

        Raises:
          UserError: they are none.
        """
        _, height, width, channels = self.images.shape
        if height != width:
            raise UserError(
                f"images are {width}x{height} pixels: set --config.dataset.size to make them square"
            )
        return height, channels

    @property
    def class_weights(self) -> np.ndarray:
        """Weights of the classes' cross-entropies, float32 [K], 1 on average over images.

        If balanced they are proportional to 1 / (labelled images of the class), else all 1.
        """
        num_classes = len(self.class_names)
        if not self.balanced:
            return np.ones(num_classes, np.float32)
        counts = np.bincount(self.labels[self.labels >= 0], minlength=num_classes)
        return (counts.sum() / (num_classes * counts)).astype(np.float32)

    @property
    def digest(self) -> str:
        """A hash, 32 hexadecimal digits, of which images these are, in which order, with which labels."""
        text = repr((self.ids, self.labels.tolist(), self.class_names))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def split_seed_of(fields: ConfigDict, seed: int) -> int:
    """Returns the seed that chooses the training images of a run's seed."""
    return fields.split_seed + (seed if fields.split_per_seed else 0)


def load(fields: ConfigDict, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Reads the training and the test images that `config.dataset` names.

    Training images are the labelled images first, then the unlabelled pool, then, if
    `transductive`, the test images; the labels of the last two are -1.

    Args:
      seed: of the run, on which the training images depend with `split_per_seed`.

    Returns:
      (train, test).

    Raises:
      UserError: the data set is unknown, not prepared, has too few images of a class, or
        test images without labels.
    """
    return Images(fields).of(seed)


class Images:
    """The images of a run, seed by seed; all seeds have the same ones unless `split_per_seed`.

    The data set is opened once, its test images, which are the same for all seeds, are read once, and
    the newest seed's training images are kept.
    """

    def __init__(self, fields: ConfigDict) -> None:
        """Opens the data set; raises UserError as `load`."""
        self._fields = fields
        self._splits = _choose_classes(read(fields), fields.classes)
        self._test_set: Dataset | None = None
        self._newest: dict[int, tuple[Dataset, Dataset]] = {}

    def of(self, seed: int) -> tuple[Dataset, Dataset]:
        """Returns (training images, test images) of a seed; raises UserError, see `load`."""
        split_seed = split_seed_of(self._fields, seed)
        if split_seed not in self._newest:
            self._newest.clear()  # they can be large
            self._newest[split_seed] = self._read(split_seed)
        return self._newest[split_seed]

    def _read(self, split_seed: int) -> tuple[Dataset, Dataset]:
        fields, splits = self._fields, self._splits
        names, pool = splits.class_names, splits.train
        labelled, unlabelled, held_out = _choose(pool, names, fields, split_seed)
        take = functools.partial(_take, names=names, fields=fields)
        if self._test_set is None:
            self._test_set = self._read_test_set(held_out)
        test_set = self._test_set
        parts = [
            take(pool, labelled, "train", whole=bool(fields.crop)),
            _hide_labels(take(pool, unlabelled, "train")),
        ]
        if fields.transductive:
            parts.append(_hide_labels(test_set))
        counts = np.bincount(parts[0].labels)
        train_set = dataclasses.replace(
            _concatenate(parts),
            balanced=fields.class_weights,
            notes=(*splits.notes, *_name_short(counts, fields.shots)),
            skipped=splits.skipped,
            conversion=splits.conversion,
        )
        near = _name_near_copies(train_set, test_set, splits.near)
        return train_set, dataclasses.replace(test_set, near_copies=near)

    def _read_test_set(self, held_out: np.ndarray) -> Dataset:
        """Reads the images to test on: `held_out`, positions in the pool, if the run holds any out."""
        fields, splits = self._fields, self._splits
        take = functools.partial(_take, names=splits.class_names, fields=fields)
        if fields.holdout:
            return take(splits.train, held_out, "held out of train")
        everything = np.arange(len(splits.test.ids))
        test_set = take(splits.test, everything, splits.test_name)
        if (test_set.labels < 0).any():
            raise UserError(
                f"data set {fields.name!r} keeps the labels of its test images to itself: "
                "test on N unused training images, --config.dataset.holdout=N"
            )
        return test_set


def _name_short(counts: np.ndarray, shots: int) -> Iterator[str]:
    """Yields a line if some classes, with `counts` images [K], have fewer than `shots`."""
    if short := int((counts < shots).sum()):
        yield (
            f"{short} of {len(counts)} classes have fewer than {shots} training images "
            f"({counts.min()} or more): all of theirs are used"
        )


def _name_near_copies(
    train: Dataset, test: Dataset, near: Mapping[str, tuple[int, str]]
) -> tuple[tuple[str, str], ...]:
    """Returns (test file, training file) for each test image that is a near copy of a training image."""
    tested = [i for i in test.ids if i in near]
    trained = [i for i in train.ids if i in near and i not in set(tested)]
    files = {near[i][0]: near[i][1] for i in reversed(trained)}
    found = [near[i] for i in tested if near[i][0] in files]
    return tuple(sorted((name, files[group]) for group, name in found))


def _choose_classes(splits: sources.Splits, count: int) -> sources.Splits:
    """Keeps `count` classes, evenly spread over the list of all; 0 = all."""
    names = splits.class_names
    if not count:
        return splits
    if not 2 <= count <= len(names):
        raise UserError(
            f"config.dataset.classes is {count}, but there are {len(names)} classes: use 2 to "
            f"{len(names)}, or 0 for all"
        )
    kept = np.linspace(0, len(names) - 1, count).round().astype(int)
    return splits._replace(
        train=sources.keep_classes(splits.train, kept),
        test=sources.keep_classes(splits.test, kept),
        class_names=tuple(names[i] for i in kept),
    )


def _choose(
    pool: sources.Source, names: Sequence[str], fields: ConfigDict, split_seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns positions in the pool, int [n] each: labelled, unlabelled, held out to test on."""
    everything = np.arange(len(pool.ids))
    may = everything if pool.eligible is None else np.flatnonzero(pool.eligible)
    ids = [pool.ids[i] for i in may]
    chosen = choose_shots(
        ids,
        pool.labels[may],
        names,
        fields.shots,
        split_seed,
        fields.shortfall,
    )
    labelled = may[chosen]
    rest = np.setdiff1d(everything, labelled)
    ids = [pool.ids[i] for i in rest]
    rest = rest[sources.rank_ids(ids, split_seed, "unlabelled")]
    needed = fields.unlabelled + fields.holdout
    if needed > len(rest):
        raise UserError(
            f"config.dataset.unlabelled + holdout = {needed}, but only {len(rest)} "
            f"training images are left beside the {len(labelled)} labelled ones"
        )
    # From the end, so that it does not depend on how many are unlabelled.
    held_out = rest[len(rest) - fields.holdout :]
    return labelled, rest[: fields.unlabelled], np.sort(held_out)


def read(fields: ConfigDict) -> sources.Splits:
    """Opens the data set that `config.dataset` names.

    Raises:
      UserError: it is unknown, not prepared or not for image classification.
    """
    readers = {"digits": sources.read_digits, "folder": folder.read}
    reader = readers.get(fields.name, tfds.read)
    for field, name in (
        ("path", "folder"),
        ("strict", "folder"),
        ("split_file", "caltech_birds2011"),
        ("bits", "folder"),
    ):
        if fields[field] and fields.name != name:
            raise UserError(
                f"config.dataset.{field} is for config.dataset.name={name}, "
                f"not {fields.name}"
            )
    return reader(fields)


def describe(train: Dataset, test: Dataset) -> str:
    """Returns lines that say how many images of what there are, and what to know about them."""
    n, side = train.num_labelled, train.images.shape[1]
    unlabelled = len(train.ids) - n
    extra = f" and {unlabelled} unlabelled" if unlabelled else ""
    text = (
        f"data: {n} labelled{extra} training images of {len(train.class_names)} classes, "
        f"{len(test.ids)} test images ({test.split}), {side}x{side} px"
    )
    if train.canvas:
        text += (
            f", to classifiers as random crops of images whose short side is "
            f"{train.canvas.pixels.shape[1]} px"
        )
    if alone := int((np.bincount(train.labels[train.labels >= 0]) == 1).sum()):
        text += (
            f"; {alone} class(es) have only one image each: their synthetic images are "
            "reconstructions of it, as there is no second image to interpolate with"
        )
    lines = [*train.notes, text]
    if test.near_copies:
        names = [f"{name} (as {trained})" for name, trained in test.near_copies]
        lines.append(
            f"{len(names)} of {len(test.ids)} test images are near copies of training images (saved "
            f"again, resized, cropped or brightened), which flatters the accuracy: "
            f"{name_some(names)}; remove them from one side"
        )
    return "\n".join(lines)


def choose_shots(
    ids: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    shots: int,
    seed: int,
    shortfall: int = 0,
) -> np.ndarray:
    """Chooses `shots` images of each class by the rank of sha256("seed/labelled/id").

    The choice does not depend on the machine, the libraries' versions or the order of the input; fewer
    shots of the same seed are a subset of more.

    Args:
      ids: n content hashes. labels: int [n]. class_names: K names.
      shots: images per class, 0 = all of each.
      shortfall: how many fewer a class may have, whose images are then all chosen.

    Returns:
      int [n], positions ordered by class, then rank; n = K * shots if no class has fewer.

    Raises:
      UserError: a class has no image or fewer than `shots - shortfall`, or every class has fewer
        than `shots`.
    """
    chosen = []
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if not len(members):
            raise UserError(
                f"class {name!r} (label {label}) has no training image: every class needs at least one"
            )
        if len(members) < shots - shortfall:
            also = f" (dataset.shortfall is {shortfall})" if shortfall else ""
            raise UserError(
                f"config.dataset.shots is {shots}, but class {name!r} has only {len(members)} training images: "
                f"use {len(members) + shortfall} or fewer{also}"
            )
        order = sources.rank_ids([ids[i] for i in members], seed, "labelled")
        chosen.append(members[order[: shots or None]])
    most = max(range(len(chosen)), key=lambda label: len(chosen[label]))
    if (n := len(chosen[most])) < shots:
        raise UserError(
            f"config.dataset.shots is {shots}, but no class has as many training images: class "
            f"{class_names[most]!r} has {n}, use {n} or fewer"
        )
    return np.concatenate(chosen)


def to_float(images: np.ndarray) -> np.ndarray:
    """Converts uint8 [...] in [0, 255] to float32 [...] in [-1, 1]; NumPy or JAX arrays."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Converts float [...] in [-1, 1] to uint8 [...] in [0, 255], rounded; NumPy or JAX arrays.

    It is the inverse of `to_float`.
    """
    levels = ((images.astype(np.float32) + 1.0) * 127.5).round()
    return levels.clip(0, 255).astype(np.uint8)


def batch_that_fits(side: int) -> int:
    """Returns how many images of `side` x `side` pixels, 16 to 256, to compute at a time without gradients."""
    return max(16, min(256, _PIXELS // side**2))


def _take(
    source: sources.Source,
    positions: np.ndarray,
    split: str,
    names: tuple[str, ...],
    fields: ConfigDict,
    whole: bool = False,
) -> Dataset:
    """Reads images, each decoded once: the squares and, if `whole`, the canvas."""

    def fit(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        image = pixels.scale(image, fields.size)
        square = pixels.cut_square(image, fields.crop or fields.size)
        return square, pixels.cut_whole(image) if whole else None

    fitted = source.read(positions, fit)
    return Dataset(
        images=pixels.stack_squares([square for square, _ in fitted]),
        labels=source.labels[positions].astype(np.int32),
        class_names=names,
        ids=tuple(source.ids[i] for i in positions),
        split=split,
        canvas=pixels.stack_canvas([w for _, w in fitted]) if whole else None,
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
