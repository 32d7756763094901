"""Tests of stages/copies.py: distances by hand, on flat images, what cannot be said, what is shown."""

import json

import numpy as np
import pytest
from PIL import Image

from cglo_jax.data.dataset import Dataset
from cglo_jax.report import figures
from cglo_jax.stages import copies, sample_formats

TRAIN = [0, 100, 200, 250, 10]  # grey levels; the last one has no label
LABELS = [0, 0, 1, 1, -1]
# Grey level, class, source, partner: 10, 2, 40 and 1 from the nearest, of which 3 are parents.
SYNTHETIC = [(10, 0, 0, 1), (98, 0, 0, 1), (160, 1, 2, 3), (251, 1, 2, 2)]
HELD_OUT = [20, 130, 225]  # 20, 30 and 25 from the nearest


def flat(levels):
    levels = np.array(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(levels, (len(levels), 8, 8, 1))


def make_train_set(levels=TRAIN, labels=LABELS):
    return Dataset(
        images=flat(levels),
        labels=np.array(labels, np.int32),
        class_names=("ant", "bee"),
        ids=tuple(f"id{level}" for level in levels),
        split="train",
    )


def put_samples(directory, train_set, synthetic=SYNTHETIC):
    """Writes PNGs and a manifest as stage sample does."""
    lines = []
    for k, (level, label, i, j) in enumerate(synthetic):
        (directory / f"{k}.png").write_bytes(
            sample_formats.encode_png(flat([level])[0])
        )
        parents = {"source": train_set.ids[i], "partner": train_set.ids[j]}
        lines.append({"file": f"{k}.png", "label": label, "t": 0.5, **parents})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "manifest.jsonl").write_text(text)


def write(directory, held_out=HELD_OUT, train_set=None, **samples):
    train_set = train_set or make_train_set()
    put_samples(directory, train_set, **samples)
    return copies.write(directory, train_set, flat(held_out))


def test_distances_by_hand(tmp_path):
    measured = write(tmp_path)
    assert measured == {
        "checked": 4,
        "median_synthetic": 6.0,
        "median_held_out": 25.0,
        "ratio": 0.24,
        "held_out": 3,
        "copies": 75.0,  # nearer than 20.1
        "parents": 75.0,
        "shown": "closest of each class",
    }
    assert json.loads((tmp_path / "nearest.json").read_text()) == measured


def test_without_held_out_images_nothing_is_compared_with_them(tmp_path):
    measured = write(tmp_path, held_out=[])
    assert (measured["checked"], measured["median_synthetic"], measured["parents"]) == (
        4,
        6,
        75,
    )
    for name in ("median_held_out", "ratio", "copies"):
        assert measured[name] is None
    assert measured["held_out"] == 0
    assert '"ratio": null' in (tmp_path / "nearest.json").read_text()


def test_held_out_copies_are_no_measure(tmp_path):
    measured = write(tmp_path, held_out=[100, 200, 130])
    assert measured["median_held_out"] == 0
    assert measured["ratio"] is measured["copies"] is None
    assert measured["held_out"] == 3


def test_images_are_evenly_spread_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_MOST", 2)  # the first and the last
    measured = write(tmp_path, held_out=[20, 130, 225, 150])
    assert (measured["checked"], measured["held_out"]) == (2, 2)
    assert measured["median_synthetic"] == (10 + 1) / 2
    assert measured["median_held_out"] == (20 + 50) / 2
    assert measured["parents"] == 50


def test_large_images_are_fewer(tmp_path, monkeypatch):
    # 3 of each kind to 4 training images of 64 values
    monkeypatch.setattr(copies, "_PRODUCTS", 2 * 3 * 4 * 64)
    assert write(tmp_path, held_out=HELD_OUT * 9)["checked"] == 3
    monkeypatch.setattr(copies, "_PRODUCTS", 1)
    measured = write(tmp_path)
    assert (measured["checked"], measured["held_out"]) == (1, 1)


def test_of_equal_training_images_each_is_the_parent(tmp_path):
    twice = make_train_set([0, 100, 100, 250], [0, 0, 0, 1])
    measured = write(
        tmp_path, train_set=twice, synthetic=[(101, 0, 2, 2), (101, 0, 1, 1)]
    )
    assert measured["parents"] == 100


def test_the_closest_pair_of_each_class_is_shown(tmp_path, monkeypatch):
    shown, draw = [], figures.nearest_grid

    def record(*args):
        shown.extend(np.asarray(a)[:, 0, 0, 0].tolist() for a in args[:2])
        shown.append(args[2])
        return draw(*args)

    monkeypatch.setattr(figures, "nearest_grid", record)
    write(tmp_path, synthetic=[*SYNTHETIC, (99, 1, 2, 3), (198, 1, 2, 3)])
    # A bee is at 1 from a bee (251, 250) and, later, from an ant (99, 100).
    assert shown == [[98, 251], [100, 250], ["ant", "bee"]]
    with Image.open(tmp_path / "nearest.png") as picture:
        assert {98, 100, 251, 250} <= set(np.asarray(picture).ravel().tolist())


def test_a_neighbour_of_another_class_is_named(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(
        figures, "nearest_grid", lambda *a: names.extend(a[2]) or Image.new("L", (1, 1))
    )
    write(tmp_path, synthetic=[(99, 1, 2, 3), (3, 0, 0, 1)])
    assert names == ["ant", "bee above ant"]


@pytest.mark.parametrize(("classes", "shown"), [(3, 3), (40, 16)])
def test_sixteen_classes_are_shown(classes, shown):
    labels = np.arange(2 * classes) % classes
    rows = copies._closest_of_classes(labels, np.arange(2.0 * classes)[::-1])
    assert len(rows) == shown
    assert rows[0] == classes  # of 0 and `classes`, both of class 0, the nearer
    assert rows[-1] == 2 * classes - 1
