"""Where images come from: embedded digits, or any data set that TFDS has prepared.

A source knows the ids and labels of a whole split and reads only the images asked for. Nothing
here imports TensorFlow.
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
class Source:
    """A split of a data set before any image is chosen: everything but the pixels."""

    ids: list[str]
    labels: np.ndarray
    read: Callable[[Sequence[int]], np.ndarray]  # positions -> uint8 [n, H, W, C]


def rank_ids(ids: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """Orders ids by sha256("seed/purpose/id"): int [n], positions, the same everywhere."""
    digests = [hashlib.sha256(f"{seed}/{purpose}/{i}".encode()).digest() for i in ids]
    return np.array(sorted(range(len(ids)), key=digests.__getitem__), np.int64)


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


def read(fields: ConfigDict) -> tuple[tuple[str, ...], Source, Source]:
    """Opens the data set that `config.dataset` names.

    Returns:
      (class names, what to train on, what to test on).

    Raises:
      UserError: it is unknown, not prepared or not for image classification.
    """
    return _read_digits(fields) if fields.name == "digits" else _read_tfds(fields)


# Embedded data


def _read_digits(fields: ConfigDict) -> tuple[tuple[str, ...], Source, Source]:
    """scikit-learn's 1797 hand-written digits, 8x8 grey; which are test images never changes."""
    from sklearn.datasets import load_digits  # a second to import

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(
        np.uint8
    )  # [n, 8, 8], from 0..16
    ids = _unique(map(_hash_pixels, pixels))

    def source(positions: np.ndarray) -> Source:
        def read(chosen: Sequence[int]) -> np.ndarray:
            return _stack(
                [Image.fromarray(pixels[positions[i]]) for i in chosen], fields.size
            )

        return Source([ids[i] for i in positions], bunch.target[positions], read)

    order = rank_ids(ids, 0, "digits")
    names = tuple(str(n) for n in bunch.target_names)
    return (
        names,
        source(np.sort(order[_DIGITS_TEST:])),
        source(np.sort(order[:_DIGITS_TEST])),
    )


# TFDS, without TensorFlow


def _read_tfds(fields: ConfigDict) -> tuple[tuple[str, ...], Source, Source]:
    """Any TFDS data set with `image` and `label` features, prepared as array_record."""
    import tensorflow_datasets as tfds

    builder = _tfds_builder(fields.name, fields.data_dir)
    features = builder.info.features
    label = dict(features).get("label")
    if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(
            f"data set {fields.name!r} has no image and label features: it is not for image classification"
        )
    splits = builder.info.splits
    test = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or test is None:
        raise UserError(
            f"data set {fields.name!r} has the splits {', '.join(splits)}: train and test are needed"
        )
    names = tuple(label.names)
    try:
        pool, held_out = (
            _tfds_source(builder, split, fields.size) for split in ("train", test)
        )
    except RuntimeError as error:  # of array_record: a file is absent or damaged
        reason = " ".join(str(error).split())
        raise UserError(
            f"data set {fields.name!r} cannot be read ({reason}): prepare it again"
        ) from None
    return names, pool, held_out


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


def _tfds_source(builder, split: str, size: int) -> Source:
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

    return Source(_unique(hashes), np.array(labels, np.int32), read)


def _decode(encoded: bytes, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
        return image.convert(mode)


def _hash_encoded(encoded: bytes, mode: str) -> str:
    """The pixels of a PNG, which anyone may have encoded; the bytes of a JPEG, whose pixels
    depend on the decoder."""
    if encoded.startswith(b"\x89PNG"):
        return _hash_pixels(np.asarray(_decode(encoded, mode)))
    return hashlib.sha256(encoded).hexdigest()[:32]
