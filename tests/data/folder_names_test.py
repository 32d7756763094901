"""Tests of cglo_jax/data/folder_names.py: names that are in people's folders."""

import pytest

from cglo_jax.data import folder_names


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("train", "train", ""),
        ("Training", "train", ""),
        ("TRAIN_SET", "train", ""),
        ("train-images", "train", ""),
        ("train2017", "train", ""),
        ("seg_train", "train", "seg"),
        ("ILSVRC2012_img_val", "validation", "ilsvrc2012_img"),
        ("valid", "validation", ""),
        ("test_data", "test", ""),
        ("test1", "test", ""),
    ],
)
def test_split(name, kind, family):
    assert folder_names.read_split(name) == (kind, family)


@pytest.mark.parametrize(
    "name",
    ["trainer", "strain", "trains", "contest", "valley", "trainA", "cat", "2023"],
)
def test_no_split(name):
    assert folder_names.read_split(name) is None


@pytest.mark.parametrize(
    "name",
    ["2023", "2023-05", "fold1", "part_2", "batch1", "split-3", "set2", "masks", "old"],
)
def test_part(name):
    assert folder_names.is_part(name)


@pytest.mark.parametrize(
    "name", ["cat", "bus", "train station", "101", "partridge", "A"]
)
def test_no_part(name):
    assert not folder_names.is_part(name)


@pytest.mark.parametrize(
    "name",
    [
        ".git",
        "._1.jpg",
        "Thumbs.db",
        "__MACOSX",
        "lost+found",
        "$RECYCLE.BIN",
        "@eaDir",
        "System Volume Information",
        "__pycache__",
        ".Trash-1000",
        "node_modules",
        "desktop.ini",
    ],
)
def test_system(name):
    assert folder_names.is_system(name)


def test_names_that_are_spelt_alike():
    assert folder_names.fold("Hot_Dog ") == folder_names.fold("hot-dog")
    assert folder_names.fold("Cafe\u0301") == folder_names.fold("caf\u00e9")
    assert folder_names.fold("cat") != folder_names.fold("cats")
