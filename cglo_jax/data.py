"""Images in: embedded digits or any prepared TFDS data set -> small-sample `Dataset`s.

Nothing here imports TensorFlow. Which images are taken depends on (split_seed, image content)
alone, so the same call takes the same images on every machine.
"""

import dataclasses
import difflib
import hashlib
import io
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax import prepare
from cglo_jax.errors import UserError

_DIGITS_TEST = 797  # of the 1797 digits; the other 1000 are to train on


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


@dataclasses.dataclass(frozen=True)
class _Source:
    """A split of a data set before any image is chosen: everything but the pixels."""

    ids: list[str]
    labels: np.ndarray
    read: Callable[[Sequence[int]], np.ndarray]  # positions -> uint8 [n, H, W, C]


def load(fields: ConfigDict) -> tuple[Dataset, Dataset]:
    """Reads the training and the test images that `config.dataset` names.

    Training images are the labelled ones first, then the unlabelled pool, then, if
    `transductive`, the test images; the labels of the last two are -1.

    Returns:
      (train, test).

    Raises:
      UserError: the data set is unknown, not prepared, or has too few images of a class.
    """
    names, pool, test = _digits(fields) if fields.name == "digits" else _tfds(fields)
    chosen = choose_shots(pool.ids, pool.labels, names, fields.shots, fields.split_seed)
    rest = np.setdiff1d(np.arange(len(pool.ids)), chosen)
    rest = rest[_ranked([pool.ids[i] for i in rest], fields.split_seed, "unlabelled")]
    needed = fields.unlabelled + fields.holdout
    if needed > len(rest):
        raise UserError(
            f"config.dataset.unlabelled + holdout = {needed}, but only {len(rest)} training images are "
            f"left beside the {len(chosen)} labelled ones"
        )
    unlabelled, held_out = rest[: fields.unlabelled], rest[fields.unlabelled : needed]

    if fields.holdout:
        test_set = _take(pool, np.sort(held_out), names, "held out of train")
    else:
        test_set = _take(test, np.arange(len(test.ids)), names, "test")
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
    return (
        f"data: {n} labelled{extra} training images of {len(train.class_names)} classes, "
        f"{len(test.ids)} test images ({test.split}), {side}x{side} px"
    )


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
        order = _ranked([ids[i] for i in members], seed, "labelled")
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


def _ranked(ids: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    digests = [hashlib.sha256(f"{seed}/{purpose}/{i}".encode()).digest() for i in ids]
    return np.array(sorted(range(len(ids)), key=digests.__getitem__), np.int64)


def _take(
    source: _Source, positions: np.ndarray, names: tuple[str, ...], split: str
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


def _unique(hashes: Iterable[str]) -> list[str]:
    """Tells identical images apart by a suffix, so that ids are unique within a split."""
    seen: dict[str, int] = {}
    ids = []
    for h in hashes:
        seen[h] = seen.get(h, 0) + 1
        ids.append(h if seen[h] == 1 else f"{h}-{seen[h]}")
    return ids


def _hash_pixels(image: np.ndarray) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Brings the short side to `size` and cuts the middle square; 0 leaves the image as it is."""
    if not size or image.size == (size, size):
        return image
    scale = size / min(image.size)
    image = image.resize(
        [max(size, round(s * scale)) for s in image.size], Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _stack(images: Sequence[Image.Image], size: int) -> np.ndarray:
    """-> uint8 [n, H, W, C]"""
    fitted = [_fit(image, size) for image in images]
    odd = next(
        (i.size for i in fitted if i.size != fitted[0].size or i.width != i.height),
        None,
    )
    if odd:
        raise UserError(
            f"images are not all squares of one size (one is {odd[0]}x{odd[1]}): "
            "set --config.dataset.size to the side you want"
        )
    arrays = (
        np.stack([np.asarray(i) for i in fitted])
        if fitted
        else np.zeros((0, 0, 0), np.uint8)
    )
    return arrays[..., None] if arrays.ndim == 3 else arrays


# Embedded data


def _digits(fields: ConfigDict) -> tuple[tuple[str, ...], _Source, _Source]:
    """scikit-learn's 1797 hand-written digits, 8x8 grey; which are test images never changes."""
    from sklearn.datasets import load_digits  # a second to import

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(
        np.uint8
    )  # [n, 8, 8], from 0..16
    ids = _unique(map(_hash_pixels, pixels))

    def source(positions: np.ndarray) -> _Source:
        def read(chosen: Sequence[int]) -> np.ndarray:
            return _stack(
                [Image.fromarray(pixels[positions[i]]) for i in chosen], fields.size
            )

        return _Source([ids[i] for i in positions], bunch.target[positions], read)

    order = _ranked(ids, 0, "digits")
    names = tuple(str(n) for n in bunch.target_names)
    return (
        names,
        source(np.sort(order[_DIGITS_TEST:])),
        source(np.sort(order[:_DIGITS_TEST])),
    )


# TFDS, without TensorFlow


def _tfds(fields: ConfigDict) -> tuple[tuple[str, ...], _Source, _Source]:
    """Any TFDS data set with `image` and `label` features, prepared as array_record."""
    builder = _tfds_builder(fields.name, fields.data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(
            f"data set {fields.name!r} has no image and label features: it is not for image classification"
        )
    splits = builder.info.splits
    test = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or test is None:
        raise UserError(
            f"data set {fields.name!r} has the splits {', '.join(splits)}: train and test are needed"
        )
    names = tuple(features["label"].names)
    return (
        names,
        _tfds_source(builder, "train", fields.size),
        _tfds_source(builder, test, fields.size),
    )


def _tfds_builder(name: str, data_dir: str):
    import tensorflow_datasets as tfds  # a second to import

    logging.set_verbosity(logging.ERROR)  # "OpenCV is not installed": Pillow decodes
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (
        tfds.core.registered.DatasetNotFoundError,
        AssertionError,  # no such version
        ImportError,  # described by TensorFlow
        ValueError,  # no such config, or no name at all
    ) as error:
        raise UserError(f"config.dataset.name: {_explain(name, error)}") from None
    if not (builder.data_path / "dataset_info.json").exists():
        command = prepare.prepare_command(name)
        if command and data_dir:
            command += f" --data_dir {shlex.quote(data_dir)}"
        how = (
            f"run `{command}` first"
            if command
            else "prepare it with TFDS's file_format='array_record' first"
        )
        raise UserError(
            f"data set {name!r} is not prepared in {pathlib.Path(builder.data_path)}: {how}"
        )
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"data set {name!r} in {pathlib.Path(builder.data_path)} is stored as {builder.info.file_format.value}, which "
            "only TensorFlow reads: prepare it again with file_format='array_record' in another data_dir"
        )
    return builder


def _explain(name: str, error: Exception) -> str:
    """Why there is no data set `name`, in one line."""
    import tensorflow_datasets as tfds

    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    if re.match(r"\w*", name)[0] in known:
        reason = re.sub(r'Failed to construct dataset .*?}": ', "", str(error).strip())
        reason = re.split(r"\n|\. Here are|\.$", reason)[0]
        return f"TFDS cannot open {name!r}: {reason}"
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else "use 'digits' or the name of a TFDS data set"
    )
    return f"no data set is called {name!r}: {hint}"


def _tfds_source(builder, split: str, size: int) -> _Source:
    import tensorflow_datasets as tfds

    features = builder.info.features
    skip = {
        k: tfds.decode.SkipDecoding()
        for k, f in features.items()
        if isinstance(f, tfds.features.Image)
    }
    records = builder.as_data_source(split=split, decoders=skip)
    mode = "L" if features["image"].shape[-1] == 1 else "RGB"

    hashes, labels = [], []
    for start in range(0, len(records), 1024):
        for record in records.__getitems__(
            range(start, min(start + 1024, len(records)))
        ):
            hashes.append(_hash_encoded(record["image"], mode))
            labels.append(record["label"])

    def read(positions: Sequence[int]) -> np.ndarray:
        chosen = (
            records.__getitems__([int(i) for i in positions]) if len(positions) else []
        )
        return _stack([_decode(record["image"], mode) for record in chosen], size)

    return _Source(_unique(hashes), np.array(labels, np.int32), read)


def _decode(encoded: bytes, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
        return image.convert(mode)


def _hash_encoded(encoded: bytes, mode: str) -> str:
    """The pixels of a PNG, which anyone may have encoded; the bytes of a JPEG, whose pixels
    depend on the decoder."""
    if encoded.startswith(b"\x89PNG"):
        return _hash_pixels(np.asarray(_decode(encoded, mode)))
    return hashlib.sha256(encoded).hexdigest()[:32]
