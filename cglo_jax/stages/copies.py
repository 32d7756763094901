"""Are the synthetic images copies? Each one beside the training image nearest to it, in pixels.

What is near is told by real images that nothing was trained on: as near as they are, an image is
no copy. Their labels are not read.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cglo_jax.cglo import quality
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.report import figures, fonts
from cglo_jax.stages import sample_formats

_MOST = 2000  # synthetic images, and held-out ones, that are compared
# Multiplications of all comparisons: up to half a minute on two cores. With 1000 training images of
# 224 x 224 pixels it allows 913 of each kind; small images are not held back by it.
_PRODUCTS = 1 << 38
_SHOWN = 16  # classes


def write(
    directory: pathlib.Path, train_set: Dataset, held_out: np.ndarray
) -> dict[str, Any]:
    """Writes nearest.json and nearest.png beside the manifest of synthetic images.

    Args:
      directory: holds manifest.jsonl and the PNGs that it names.
      train_set: the labelled images, of any class, are those that copies would be of.
      held_out: uint8 [r, H, W, C], images not trained on; r may be 0.

    Returns:
      What nearest.json holds: "checked" synthetic and "held_out" images, evenly spread over all
      of them; "median_synthetic" and "median_held_out", distances to the nearest training image
      as root mean squares of differences of pixel values from 0 to 255; "ratio" of the two and
      "copies", see `quality.CopyCheck`; "parents", the percentage of synthetic images whose
      nearest is one of the two they lie between; "shown", which images nearest.png shows. None
      stands for what cannot be said.
    """
    n = train_set.num_labelled
    known = train_set.images[:n].reshape(n, -1)
    most = min(_MOST, max(1, _PRODUCTS // (2 * known.size)))
    records = sample_formats.read_manifest(directory)
    records = [records[i] for i in quality.spread(len(records), most)]
    images = sample_formats.read_images(directory, records)
    held_out = held_out[quality.spread(len(held_out), most)]
    rows = [some.reshape(len(some), known.shape[1]) for some in (images, held_out)]
    distance, index = quality.nearest(rows[0], known)
    parents = _find_parents(records, train_set.ids)
    told = {
        "checked": len(records),
        "median_synthetic": float(np.median(distance)),
        **_compare(distance, quality.nearest(rows[1], known)[0]),
        "held_out": len(held_out),
        "parents": quality.parent_share(index, parents),
        "shown": "closest of each class",
    }
    storage.write_atomically(directory / "nearest.json", json.dumps(told) + "\n")
    shown = _closest_of_classes([r["label"] for r in records], distance)
    nearest, names = index[shown], fonts.label_classes(train_set.class_names)
    pairs = zip(shown, train_set.labels[nearest], strict=True)
    texts = [_name(names, records[i]["label"], label) for i, label in pairs]
    grid = figures.nearest_grid(images[shown], train_set.images[nearest], texts)
    grid.save(directory / "nearest.png")
    return told


def _find_parents(
    records: Sequence[sample_formats.Record], ids: Sequence[str]
) -> np.ndarray:
    """Positions of source and partner of each image, int [m, 2]."""
    # Of equal images the first, as of equally near ones.
    position = {ids[i]: i for i in reversed(range(len(ids)))}
    return np.array([[position[r["source"]], position[r["partner"]]] for r in records])


def _compare(synthetic: np.ndarray, real: np.ndarray) -> dict[str, float | None]:
    """What the distances of held-out images say, as far as there are any that are no copies."""
    told: dict[str, float | None] = dict.fromkeys(
        ("median_held_out", "ratio", "copies")
    )
    if not len(real):
        return told
    try:
        check = quality.check_copies(synthetic, real)
    except UserError:
        return {**told, "median_held_out": float(np.median(real))}
    return {"median_held_out": check.real, "ratio": check.ratio, "copies": check.copies}


def _closest_of_classes(labels: Sequence[int], distance: np.ndarray) -> list[int]:
    """The image nearest to a training image, of each of up to _SHOWN classes."""
    labels = np.asarray(labels)
    classes = np.unique(labels)
    members = [np.flatnonzero(labels == k) for k in classes]
    chosen = [members[i] for i in quality.spread(len(classes), _SHOWN)]
    return [int(of_class[distance[of_class].argmin()]) for of_class in chosen]


def _name(class_names: Sequence[str], label: int, nearest: int) -> str:
    """The class of a synthetic image, and that of the training image below it if another."""
    if label == nearest:
        return class_names[label]
    return f"{class_names[label]} above {class_names[nearest]}"
