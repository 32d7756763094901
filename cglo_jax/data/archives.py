"""Prepares a data set's official archive for TFDS, without TensorFlow; `cglo_jax.prepare` is the command.

The stock TFDS builder prepares, in array_record form, so version, features, keys and
record order are its own. Its `_split_generators` is replaced and images are handed over
as encoded bytes, because TFDS untars, opens files and encodes arrays by TensorFlow. An
archive is checked against its pinned sha256 and read member by member, never extracted.
"""

import contextlib
import io
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import numpy as np
from PIL import Image

from cglo_jax.errors import UserError, shorten
from cglo_jax.files import readback
from cglo_jax.files.download import MIB, Archive, download, read_members, verify
from cglo_jax.files.working_folder import WorkingFolder

# In the order that each data set's reader takes them.
ARCHIVES = {
    "cifar10": [
        Archive(
            "--archive",
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    ],
    "cifar100": [
        Archive(
            "--archive",
            "cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )
    ],
    "caltech_birds2011": [
        Archive(
            "--archive",
            "CUB_200_2011.tgz",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            1150585339,
            "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        ),
        Archive(
            "--segmentations",
            "segmentations.tgz",
            "https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz?download=1",
            39272883,
            "dc77f6cffea0cbe2e41d4201115c8f29a6320ecb04fffd2444f51b8066e4b84f",
        ),
    ],
}
SPLITS = ("train", "test")
# What TFDS writes, finished or not.
_WRITTEN = re.compile(
    r"bucket_.*\.tmp|.*array_record.*|(dataset_info|features)\.json.*|.*\.labels\.txt.*"
)


class _Split(TypedDict):
    name: readback.String
    shardLengths: list[Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}\Z")]]


class _Info(TypedDict):
    """What is read of TFDS's dataset_info.json."""

    splits: list[_Split]
    fileFormat: NotRequired[readback.Name]


def prepare_command(name: str) -> str | None:
    """Returns the shell command that prepares data set `name`, None if none does."""
    return f"python -m cglo_jax.prepare {name}" if name in ARCHIVES else None


# One reader per data set: archives -> {split: (key, example) pairs}


def _read_cifar10(builder: Any, archive: Path) -> dict[str, Iterator]:
    """Reads cifar-10-binary.tar.gz, and gives `builder` its class names."""
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    files = {"train": batches, "test": ["test_batch.bin"]}
    labels = {"label": "batches.meta.txt"}
    return _read_cifar(builder, archive, "cifar-10-batches-bin", labels, files)


def _read_cifar100(builder: Any, archive: Path) -> dict[str, Iterator]:
    """Reads cifar-100-binary.tar.gz, and gives `builder` its class names."""
    labels = {
        "coarse_label": "coarse_label_names.txt",
        "label": "fine_label_names.txt",
    }
    files = {split: [f"{split}.bin"] for split in SPLITS}
    return _read_cifar(builder, archive, "cifar-100-binary", labels, files)


def _read_cifar(
    builder: Any,
    archive: Path,
    folder: str,
    labels: Mapping[str, str],
    files: Mapping[str, Sequence[str]],
) -> dict[str, Iterator]:
    """Reads a CIFAR in its binary form, and gives `builder` its class names.

    Args:
        folder: of all its members.
        labels: {feature: file of its names}, in the order of a record's labels.
        files: {split: files of its records, in order}.
    """
    names = [*labels.values(), *(name for of in files.values() for name in of)]
    wanted = {name: f"{folder}/{name}" for name in names}
    found = dict(read_members(archive, wanted.values(), limit=256 * MIB))
    for feature, name in labels.items():
        known = found[wanted[name]].decode().split()
        builder.info.features[feature].names = known
    return {
        split: cifar_examples(split, [found[wanted[name]] for name in of], [*labels])
        for split, of in files.items()
    }


def cifar_examples(
    split: str, files: Sequence[bytes], labels: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    """Yields one split from its files of records: a byte for each of `labels`, then [3, 32, 32]."""
    width = len(labels) + 3 * 32 * 32
    parts = [np.frombuffer(data, np.uint8).reshape(-1, width) for data in files]
    for index, record in enumerate(itertools.chain.from_iterable(parts)):
        image = record[len(labels) :].reshape(3, 32, 32).transpose(1, 2, 0)
        example = {"id": f"{split}_{index:05d}", "image": _png_bytes(image)}
        yield index, example | dict(zip(labels, record.tolist(), strict=False))


def _read_cub(builder: Any, archive: Path, segmentations: Path) -> dict[str, Iterator]:
    """Reads the tables of CUB_200_2011.tgz and all of segmentations.tgz (40 MB)."""
    del builder  # in TFDS the class names are each example's 'label_name', only
    tables = ("images", "train_test_split", "bounding_boxes")
    wanted = [f"CUB_200_2011/{table}.txt" for table in tables]
    found = dict(read_members(archive, wanted, limit=16 * MIB))
    images, in_train, boxes = (
        dict(row.split(maxsplit=1) for row in found[name].decode().splitlines())
        for name in wanted
    )
    mask_names = {i: f"segmentations/{images[i][: -len('.jpg')]}.png" for i in images}
    masks = dict(read_members(segmentations, mask_names.values(), limit=16 * MIB))
    rows = {split: {} for split in SPLITS}
    for i, path in images.items():
        box = [float(value) for value in boxes[i].split()]
        split = "train" if int(in_train[i]) else "test"
        rows[split][f"CUB_200_2011/images/{path}"] = masks[mask_names[i]], box
    return {split: _cub_examples(archive, rows[split]) for split in SPLITS}


def _cub_examples(archive: Path, rows: dict) -> Iterator[tuple[str, dict]]:
    """Yields one split: images as their files' own bytes, boxes as fractions.

    Args:
        archive: CUB_200_2011.tgz.
        rows: {member name of an image: (its mask as PNG, [x, y, width, height])}.
    """
    import tensorflow_datasets as tfds

    for name, image in read_members(archive, rows, limit=64 * MIB):
        number, label_name = name.split("/")[-2].split(".", 1)
        mask_png, (x, y, box_width, box_height) = rows[name]
        mask = np.asarray(Image.open(io.BytesIO(mask_png)).convert("L"))  # [H, W]
        height, width = mask.shape
        corners = (
            y / height,
            x / width,
            (y + box_height) / height,
            (x + box_width) / width,
        )
        example = {
            "image": image,
            "image/filename": name,
            "label": int(number) - 1,
            "label_name": label_name.lower(),
            "segmentation_mask": _png_bytes(mask),
            "bbox": tfds.features.BBox(*(min(c, 1.0) for c in corners)),
        }
        yield name, example


def _png_bytes(image: np.ndarray) -> bytes:
    """Encodes a uint8 image, [H, W, 3] or [H, W], as PNG."""
    return readback.encode_png(Image.fromarray(image))


READERS = {
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
    "caltech_birds2011": _read_cub,
}


# The prepared directory


def prepared_sizes(path: Path) -> dict[str, int] | None:
    """Returns {split: examples} of a prepared directory, None if there is none.

    Raises:
        UserError: something is there that `tfds.data_source` could not read.
    """
    if not path.exists():
        return None
    try:
        info = readback.read_json((path / "dataset_info.json").resolve(), _Info)
        kind = info.get("fileFormat", "tfrecord")
        shards = {split["name"]: split["shardLengths"] for split in info["splits"]}
    except (FileNotFoundError, readback.Unusable):
        kind, shards = "array_record", dict.fromkeys(SPLITS, ())
    if kind != "array_record":
        raise UserError(
            f"{path} was prepared as {kind}, which only TensorFlow reads: "
            "pass another --data_dir"
        )
    files = [len(list(path.glob(f"*-{s}.array_record-*"))) for s in SPLITS]
    if 0 in files or files != [len(shards.get(s, ())) for s in SPLITS]:
        away = shlex.quote(f"{path}.incomplete")
        move = f"mv {shlex.quote(str(path))} {away}"
        raise UserError(f"{path} is incomplete: move it away ({move}), run this again")
    return {split: sum(map(int, shards[split])) for split in SPLITS}


def prepare(name: str, data_dir: Path, copies: dict[str, Path | None]) -> Path:
    """Makes `tfds.data_source(name, data_dir=data_dir)` work, if it does not yet.

    Args:
        name: a key of ARCHIVES.
        data_dir: directory of prepared data sets.
        copies: {option: a person's own copy of that archive, None to download it}.

    Returns:
        The prepared directory, `<data_dir>/<name>/<version>`.

    Raises:
        UserError: an archive cannot be had or is not the official one, or what is
            there already is unreadable.
        OSError: the disk is full or not writable.
    """
    import tensorflow_datasets as tfds

    target = data_dir / name / str(tfds.builder_cls(name).VERSION)
    if prepared_sizes(target):
        print(f"Nothing to do: {name} was prepared before.")
        return target
    data_dir.mkdir(parents=True, exist_ok=True)
    with _locked(data_dir):
        if not prepared_sizes(target):  # by the process that we waited for
            _build(name, target, copies)
    return target


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for other preparations in `folder`; the lock ends with the process."""
    import fcntl  # not on Windows, where the rest of the package does without

    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network disk may have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(name: str, target: Path, copies: dict[str, Path | None]) -> None:
    """Prepares in `<data_dir>/incomplete.cglo_jax_<name>`, then moves to `target`.

    The move is one rename, so nobody ever reads half a data set. In the working folder only what is
    ours is removed.
    """
    import tensorflow_datasets as tfds

    staging = WorkingFolder(target.parents[1] / f"incomplete.cglo_jax_{name}")
    try:
        staging.remove_folders(_WRITTEN)  # of a run that was killed
        archives = [
            verify(archive, copy, f"{archive.option} {copy}")
            if (copy := copies.get(archive.option))
            else _download(archive, staging)
            for archive in ARCHIVES[name]
        ]
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        work = staging.make_folder("prepared-")
        builder = tfds.builder_cls(name)(data_dir=work, file_format="array_record")
        splits = READERS[name](builder, *archives)
        builder._split_generators = lambda dl_manager, **_: splits
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
            builder.download_and_prepare()
        target.parent.mkdir(exist_ok=True)
        Path(builder.data_path).rename(target)
        staging.remove_folders(_WRITTEN)
        staging.remove()
    except UserError:
        raise
    except (ValueError, LookupError, AssertionError) as error:  # of what they hold
        why = f"cannot be read as {name}: {shorten(str(error))}"
        raise UserError(f"{' and '.join(map(str, archives))} {why}") from error
    finally:
        with contextlib.suppress(OSError):
            staging.remove_folders(_WRITTEN)
        staging.leave()  # unless there are downloads, to go on with


def _download(archive: Archive, staging: WorkingFolder) -> Path:
    for name in (archive.filename, f"{archive.filename}.part"):
        staging.claim(name)
    return download(archive, staging.path)
