"""Any image classification data set that TFDS has prepared, read without TensorFlow."""

import dataclasses
import difflib
import hashlib
import io
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError

from cglo_jax.data import archives, decode
from cglo_jax.data.sources import Source, Splits, T, hash_pixels, make_unique
from cglo_jax.errors import UserError

_CHUNK = 1024  # records read at a time, not decoded


def read(fields: ConfigDict) -> Splits:
    """Opens a TFDS data set with `image` and `label` features, prepared as array_record.

    Raises:
      UserError: it is unknown, not prepared, not for image classification, or
        `split_file` is not for it.
    """
    import tensorflow_datasets as tfds

    builder = _open_builder(fields.name, fields.data_dir)
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
    try:
        pool, held_out = (_open_split(builder, split) for split in ("train", test))
    except RuntimeError as error:  # of array_record: a file is absent or damaged
        reason = " ".join(str(error).split())
        raise UserError(
            f"data set {fields.name!r} cannot be read ({reason}): prepare it again"
        ) from None
    names = {**pool.label_names, **held_out.label_names}
    train = pool.source
    if fields.split_file:
        listed = read_split_file(pathlib.Path(os.path.expanduser(fields.split_file)))
        train = dataclasses.replace(train, eligible=_eligible(listed, pool, held_out))
    return Splits(
        tuple(names.get(k, name) for k, name in enumerate(label.names)),
        train,
        held_out.source,
        test_name=test,
    )


def _open_builder(name: str, data_dir: str):
    import tensorflow_datasets as tfds  # a second to import

    logging.set_verbosity(logging.ERROR)  # "OpenCV is not installed": Pillow decodes
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (
        tfds.core.registered.DatasetNotFoundError,
        AssertionError,  # another version
        ImportError,  # described by TensorFlow
        ValueError,  # another config, or no name at all
    ) as error:
        raise UserError(f"config.dataset.name: {_explain(name, error)}") from None
    if not (builder.data_path / "dataset_info.json").exists():
        command = archives.prepare_command(name)
        if command and data_dir:
            command += f" --data_dir {shlex.quote(data_dir)}"
        how = (
            f"run `{command}` first"
            if command
            else "prepare it with TFDS's file_format='array_record' first"
        )
        raise UserError(
            f"data set {name!r} is not prepared in {pathlib.Path(builder.data_path)}: {how}, or "
            "say where it is (dataset.data_dir or TFDS_DATA_DIR)"
        )
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"data set {name!r} in {pathlib.Path(builder.data_path)} is stored as {builder.info.file_format.value}, which "
            "only TensorFlow reads: prepare it again with file_format='array_record' in another data_dir"
        )
    return builder


def _explain(name: str, error: Exception) -> str:
    """Returns why there is no data set `name`, in one line."""
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


class _Split(NamedTuple):
    source: Source
    label_names: dict[int, str]  # if the records hold them instead of the features
    filenames: list[str]  # empty if the records have no file names


def _open_split(builder, split: str) -> _Split:
    import tensorflow_datasets as tfds

    features = builder.info.features
    skip = {
        k: tfds.decode.SkipDecoding()
        for k, f in features.items()
        if isinstance(f, tfds.features.Image)
    }
    records = builder.as_data_source(split=split, decoders=skip)
    mode = "L" if features["image"].shape[-1] == 1 else "RGB"

    def name(position: int) -> str:
        return f"data set {builder.info.name!r}, split {split!r}, record {position}"

    hashes, labels, label_names, filenames = [], [], {}, []
    for chunk in _read_chunks(records, range(len(records))):
        for position, record in chunk:
            hashes.append(_hash_encoded(record["image"], mode, name(position)))
            labels.append(record["label"])
            if "label_name" in record:  # of CUB-200
                label_names[record["label"]] = record["label_name"].decode()
            if "image/filename" in record:
                filenames.append(record["image/filename"].decode())

    def read(positions: Sequence[int], use: Callable[[Image.Image], T]) -> list[T]:
        def decode_one(numbered: tuple[int, dict[str, Any]]) -> T:
            position, record = numbered
            return use(_decode(record["image"], mode, name(position)))

        # Pillow decodes without Python's lock.
        with ThreadPoolExecutor(decode.THREADS) as pool:
            chunks = _read_chunks(records, positions)
            return [one for chunk in chunks for one in pool.map(decode_one, chunk)]

    source = Source(make_unique(hashes), np.array(labels, np.int32), read)
    return _Split(source, label_names, filenames)


def _read_chunks(
    records, positions: Sequence[int]
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yields lists of (position, record), up to 1024 at a time."""
    for start in range(0, len(positions), _CHUNK):
        chunk = [int(i) for i in positions[start : start + _CHUNK]]
        yield list(zip(chunk, records.__getitems__(chunk), strict=True))


def _decode(encoded: bytes, mode: str, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
            return image.convert(mode)
    except UnidentifiedImageError:
        reason = "not a PNG or JPEG image"
    except Exception as error:  # noqa: BLE001 - decoders raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{name} cannot be decoded ({reason:.80}): prepare it again")


def _hash_encoded(encoded: bytes, mode: str, name: str) -> str:
    """Hashes the pixels of a PNG, which anyone may have encoded, or the bytes of a JPEG, whose pixels depend
    on the decoder, to 32 hexadecimal digits."""
    if encoded.startswith(b"\x89PNG"):
        return hash_pixels(np.asarray(_decode(encoded, mode, name)))
    return hashlib.sha256(encoded).hexdigest()[:32]


# CUB-200's subsets, in the form that Barz & Denzler (2020) publish


def read_split_file(path: pathlib.Path) -> set[str]:
    """Reads which images of CUB-200 a subset is made of.

    Args:
      path: lines "image_id is_train", as CUB-200's train_test_split.txt; images.txt of
        CUB_200_2011.tgz, with lines "image_id path", lies beside it.

    Returns:
      The paths of the images with is_train = 1, such as "001.Albatross/one.jpg".

    Raises:
      UserError: one of the two files is absent or has another format.
    """
    in_train = _read_table(path, "image_id is_train")
    paths = _read_table(path.with_name("images.txt"), "image_id path")
    other = next((v for v in in_train.values() if v not in ("0", "1")), None)
    if other:
        raise UserError(f"{path}: is_train is {other!r} in a line, it must be 0 or 1")
    unknown = next((i for i in in_train if i not in paths), None)
    if unknown:
        raise UserError(f"{path} has image_id {unknown}, which is not in images.txt")
    return {paths[i] for i, flag in in_train.items() if flag == "1"}


def _read_table(path: pathlib.Path, columns: str) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', error)}): config.dataset.split_file needs lines "
            "'image_id is_train', and images.txt of CUB_200_2011.tgz beside it"
        ) from None
    table = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = line.split()
        if len(cells) != 2 or not cells[0].isdecimal() or cells[0] in table:
            raise UserError(f"{path}, line {number}: {line!r} is not '{columns}'")
        table[cells[0]] = cells[1]
    return table


def _eligible(listed: set[str], pool: _Split, held_out: _Split) -> np.ndarray:
    """Returns which training images are listed: bool [n]."""
    if not pool.filenames:
        raise UserError(
            "config.dataset.split_file is for data sets with file names only"
        )
    paths = ["/".join(name.split("/")[-2:]) for name in pool.filenames]
    tested = {"/".join(name.split("/")[-2:]) for name in held_out.filenames}
    if leaked := sorted(listed & tested):
        raise UserError(
            f"config.dataset.split_file trains on {len(leaked)} test images, such as "
            f"{leaked[0]}: it must list training images only"
        )
    if missing := sorted(listed - set(paths)):
        raise UserError(
            f"config.dataset.split_file lists {len(missing)} images that are not "
            f"in the data set, such as {missing[0]}"
        )
    return np.array([path in listed for path in paths])
