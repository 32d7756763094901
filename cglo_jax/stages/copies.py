"""Are the synthetic images copies? Their distances to the nearest training images, in pixels.

Held-out real images, which nothing was trained on, show which distance is small: an image that is
as far away as they are is no copy. Their labels are not read.
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

_MOST = 2000  # at most so many synthetic images, and held-out ones, are compared
# At most so many multiplications: up to half a minute on two cores. With 1000 training images of
# 224 x 224 pixels it allows 913 images of each kind; small images do not reach it.
_PRODUCTS = 1 << 38
_SHOWN = 16  # at most so many classes are shown


def write(
    directory: pathlib.Path, train_set: Dataset, held_out: np.ndarray
) -> dict[str, Any]:
    """Writes nearest.json and nearest.png beside the manifest of synthetic images.

    Args:
      directory: holds manifest.jsonl and the PNGs that it names.
      train_set: copies of its labelled images, of any class, are looked for.
      held_out: uint8 [r, H, W, C], images not trained on; r may be 0.

    Returns:
      The content of nearest.json: numbers of "checked" synthetic and "held_out" images, evenly
      spread over all; "median_synthetic" and "median_held_out", distances to the nearest training
      image as root mean squares of differences of pixel values from 0 to 255; their "ratio", and
      "copies", see `quality.CopyCheck`; "parents", the percentage of synthetic images whose
      nearest training image is one of the two they lie between; "shown", which images nearest.png
      shows. None stands for a value that cannot be computed.
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
    measured = {
        "checked": len(records),
        "median_synthetic": float(np.median(distance)),
        **_compare(distance, quality.nearest(rows[1], known)[0]),
        "held_out": len(held_out),
        "parents": quality.parent_share(index, parents),
        "shown": "closest of each class",
    }
    storage.write_atomically(directory / "nearest.json", json.dumps(measured) + "\n")
    shown = _closest_of_classes([r["label"] for r in records], distance)
    nearest, names = index[shown], fonts.label_classes(train_set.class_names)
    pairs = zip(shown, train_set.labels[nearest], strict=True)
    texts = [_name(names, records[i]["label"], label) for i, label in pairs]
    grid = figures.nearest_grid(images[shown], train_set.images[nearest], texts)
    grid.save(directory / "nearest.png")
    return measured


def _find_parents(
    records: Sequence[sample_formats.Record], ids: Sequence[str]
) -> np.ndarray:
    """Returns the positions of source and partner of each image, int [m, 2]."""
    # The first of equal images, as `quality.nearest` finds it.
    position = {ids[i]: i for i in reversed(range(len(ids)))}
    return np.array([[position[r["source"]], position[r["partner"]]] for r in records])


def _compare(synthetic: np.ndarray, real: np.ndarray) -> dict[str, float | None]:
    """Compares with the distances of held-out images; None where these allow no comparison."""
    measured: dict[str, float | None] = dict.fromkeys(
        ("median_held_out", "ratio", "copies")
    )
    if not len(real):
        return measured
    try:
        check = quality.check_copies(synthetic, real)
    except UserError:
        return {**measured, "median_held_out": float(np.median(real))}
    return {"median_held_out": check.real, "ratio": check.ratio, "copies": check.copies}


def _closest_of_classes(labels: Sequence[int], distance: np.ndarray) -> list[int]:
    """Returns the image closest to a training image, for each of up to _SHOWN classes."""
    labels = np.asarray(labels)
    classes = np.unique(labels)
    members = [np.flatnonzero(labels == k) for k in classes]
    chosen = [members[i] for i in quality.spread(len(classes), _SHOWN)]
    return [int(of_class[distance[of_class].argmin()]) for of_class in chosen]


def _name(class_names: Sequence[str], label: int, nearest: int) -> str:
    """Names the class of a synthetic image, and that of the training image below it if different."""
    if label == nearest:
        return class_names[label]
    return f"{class_names[label]} above {class_names[nearest]}"
