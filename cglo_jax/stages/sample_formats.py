"""The images of `--stage=sample` in other formats: one NumPy file, a TFDS data set.

Both are made from the PNGs and the manifest in `samples/`, in the order of manifest.jsonl.
`source` and `partner` are the ids of the two training images between whose codes an image lies, `t`
its position between them. To read what config.sample.export=("npz", "tfds") wrote:

    samples = np.load("samples/samples.npz")
    samples["images"], samples["labels"]  # uint8 [n, H, W, C], int32 [n]
    samples["class_names"]  # str [K], indexed by label
    samples["source"], samples["partner"], samples["t"]  # str [n], str [n], float32 [n]

    train = tfds.data_source("cglo_digits", split="train", data_dir="samples/tfds")
    train[0]  # a dict of image, label, source, partner (bytes) and t
    builder = tfds.builder_from_directory("samples/tfds/cglo_digits/1.0.0")
    builder.info.features["label"].names  # K class names

Neither writing nor reading a TFDS data set this way needs TensorFlow.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from cglo_jax.errors import UserError
from cglo_jax.files import readback
from cglo_jax.files.readback import Count, Share, String

_VERSION = "1.0.0"  # of the TFDS data set
_SHARD_IMAGES = 10_000  # per file of the TFDS data set


class Record(TypedDict):
    """What is read from a line of manifest.jsonl, which describes an image."""

    file: String
    label: Count
    source: String
    partner: String
    t: Share


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Returns one safe and distinct folder name per class.

    Class names that are not valid file names everywhere, or differ in case only, have their
    special characters replaced and their label in front.
    """
    safe = [re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") for name in class_names]
    lower = [name.lower() for name in safe]
    return [
        name
        if name == raw
        and lower.count(name.lower()) == 1
        and not re.match(r"\d{3,}_", name)  # looks like a name with a label in front
        and not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name)  # Windows
        else f"{label:03d}_{name}"
        for label, (raw, name) in enumerate(zip(class_names, safe, strict=True))
    ]


def write(
    directory: Path, formats: Sequence[str], class_names: Sequence[str], name: str
) -> None:
    """Writes the images of a samples directory into it in other formats.

    Args:
      directory: holds manifest.jsonl and the PNGs, all of one size, that it names.
      formats: "npz" writes samples.npz, "tfds" writes tfds/<tfds_name(name)>/1.0.0.
      class_names: K names, indexed by label.
      name: `config.dataset.name`.
    """
    records = read_manifest(directory)
    if "npz" in formats:
        _write_npz(directory, records, class_names)
    if "tfds" in formats:
        _write_tfds(directory, records, class_names, name)


def read_manifest(directory: Path) -> list[Record]:
    """Reads manifest.jsonl, one line per image.

    Raises:
      UserError: a line is damaged, or there is none.
    """
    path = directory / "manifest.jsonl"
    if not (records := list(readback.read_records(path, Record))):
        raise UserError(f"{path} names no image: run --stage=sample first")
    return records


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image, uint8 [H, W, 1 or 3], as PNG."""
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    return readback.encode_png(Image.fromarray(pixels))


def read_images(directory: Path, records: Sequence[Record]) -> np.ndarray:
    """Reads the PNGs that lines of a manifest name.

    Args:
      records: n > 0 lines.

    Returns:
      uint8 [n, H, W, C].

    Raises:
      UserError: one is damaged or has another size than the first.
    """
    images = np.empty((len(records), *_shape(directory, records)), np.uint8)
    for image, record in zip(images, records, strict=True):
        path, png = _read(directory, record)
        pixels = np.asarray(png)
        if pixels.size != image.size or pixels.shape[:2] != image.shape[:2]:
            raise readback.Unusable(path, "it is of another size", "move it away")
        image[...] = pixels.reshape(image.shape)
    return images


def tfds_name(name: str) -> str:
    """Returns the name of the TFDS data set of images made from data set `name`: cglo_<name>."""
    return "cglo_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _write_npz(
    directory: Path, records: Sequence[Record], class_names: Sequence[str]
) -> None:
    """Writes samples.npz; nothing in it is pickled."""
    np.savez(
        directory / "samples.npz",
        images=read_images(directory, records),
        labels=np.array([r["label"] for r in records], np.int32),
        class_names=np.array(class_names, str),
        source=np.array([r["source"] for r in records], str),
        partner=np.array([r["partner"] for r in records], str),
        t=np.array([r["t"] for r in records], np.float32),
    )


def _write_tfds(
    directory: Path,
    records: Sequence[Record],
    class_names: Sequence[str],
    name: str,
) -> None:
    """Writes tfds/<tfds_name(name)>/1.0.0 with the one split "train"."""
    import tensorflow_datasets as tfds  # a second to import

    target = directory / "tfds" / tfds_name(name) / _VERSION
    target.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=tfds_name(name),
        version=tfds.core.Version(_VERSION),
        data_dir=str(target),
        module_name=__name__,
    )
    shape = _shape(directory, records)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=_label_names(class_names)),
            "source": tfds.features.Text(),
            "partner": tfds.features.Text(),
            "t": tfds.features.Scalar(np.float32),
        }
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=f"Synthetic images that cGLO made from {name}.",
        features=features,
        disable_shuffling=True,
    )
    # Not a GeneratorBasedBuilder: that keeps all records in memory, to shuffle them.
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=_SHARD_IMAGES, file_format="array_record"
    )
    writer.initialize_splits(["train"])
    writer.add_examples({"train": _examples(directory, records)})
    writer.close_all()


def _examples(directory: Path, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yields records for TFDS, which keeps the bytes of an image's file as they are."""
    for record in records:
        rest = {key: record[key] for key in ("label", "source", "partner", "t")}
        yield {"image": readback.inside(directory, record["file"]), **rest}


def _label_names(class_names: Sequence[str]) -> list[str]:
    """Returns class names for TFDS, which stores stripped lines; a name that would change is JSON."""
    return [
        name
        if name and name.isprintable() and name == name.strip()
        else json.dumps(name)
        for name in class_names
    ]


def _shape(directory: Path, records: Sequence[Record]) -> tuple[int, int, int]:
    """Returns [H, W, C] of the first image, the same for all."""
    _, png = _read(directory, records[0])
    return png.height, png.width, len(png.getbands())


def _read(directory: Path, record: Record) -> tuple[Path, Image.Image]:
    path = readback.inside(directory, record["file"])
    try:
        return path, readback.read_png(path)
    except FileNotFoundError:
        advice = "run --stage=sample again"
        raise readback.Unusable(path, "it is missing", advice) from None
