"""Tests of cglo_jax/data/layout.py: layouts of folders, by empty files."""

import os
import subprocess
from pathlib import Path

import pytest

from cglo_jax.data import layout
from cglo_jax.errors import UserError


def put(root: Path, *files: str) -> Path:
    """Creates empty files, and folders where a name ends with a slash."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def below(root: Path, folders: dict[str, Path]) -> dict[str, str]:
    return {name: path.relative_to(root).as_posix() for name, path in folders.items()}


def error_of(path: Path | str) -> str:
    with pytest.raises(UserError) as error:
        layout.find_layout(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("files", "train", "test", "unused", "loose"),
    [
        (["dog/1", "cat/1"], {"cat": "cat", "dog": "dog"}, None, [], []),
        (["b/1", "a/1", "C/1"], {"C": "C", "a": "a", "b": "b"}, None, [], []),
        (["10/1", "9/1"], {"10": "10", "9": "9"}, None, [], []),
        (
            ["cat/1", "dog/1", "labels.csv", ".DS_Store", ".git/x", "__MACOSX/cat/1"],
            {"cat": "cat", "dog": "dog"},
            None,
            [],
            ["labels.csv"],
        ),
        (
            ["train/cat/1", "train/dog/1", "test/cat/2"],
            {"cat": "train/cat", "dog": "train/dog"},
            {"cat": "test/cat"},
            [],
            [],
        ),
        (
            ["train/cat/1", "train/dog/1"],
            {"cat": "train/cat", "dog": "train/dog"},
            None,
            [],
            [],
        ),
        (
            ["Training/cat/1", "Training/dog/1", "VAL/dog/1", "masks/1", "a", "VAL/b"],
            {"cat": "Training/cat", "dog": "Training/dog"},
            {"dog": "VAL/dog"},
            ["masks"],
            ["a", "VAL/b"],
        ),
        (
            ["train/cat/1", "train/dog/1", "train/x", "val/cat/1", "test/dog/1"],
            {"cat": "train/cat", "dog": "train/dog"},
            {"dog": "test/dog"},
            ["val"],
            ["train/x"],
        ),
        (
            ["train/cat/1", "train/dog/1", "validation/cat/1", "train/thumbs.db"],
            {"cat": "train/cat", "dog": "train/dog"},
            {"cat": "validation/cat"},
            [],
            [],
        ),
        # vehicles
        (
            ["train/1", "bus/1", "car/1"],
            {"bus": "bus", "car": "car", "train": "train"},
            None,
            [],
            [],
        ),
        # what people do
        (["test/1", "rest/1"], {"rest": "rest", "test": "test"}, None, [], []),
    ],
)
def test_layout(tmp_path, files, train, test, unused, loose):
    found = layout.find_layout(str(put(tmp_path, *files)))
    assert found.root == tmp_path
    assert below(tmp_path, found.train) == train
    assert list(found.train) == sorted(train)
    assert (found.test and below(tmp_path, found.test)) == test
    assert found.unused == unused
    assert [p.relative_to(tmp_path).as_posix() for p in found.loose] == loose


def test_home_and_links(tmp_path, monkeypatch):
    put(tmp_path, "images/cat/1", "elsewhere/1")
    (tmp_path / "images/dog").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = layout.find_layout("~/images")
    assert found.root == tmp_path / "images"
    assert list(found.train) == ["cat", "dog"]


HOW = "name the folder that has one sub-folder of images per class"
EACH = "put the images of each class into a folder of its own, such as"


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "", f"config.dataset.path is empty: {HOW}, --config.dataset.path=DIR"),
        ([], "no", f"config.dataset.path: @/no does not exist: {HOW}"),
        (["x.png"], "x.png", f"config.dataset.path: @/x.png is not a folder: {HOW}"),
        ([], ".", f"@ has no class folders: {EACH} @/cat and @/dog"),
        ([".git/"], ".", f"@ has no class folders: {EACH} @/cat and @/dog"),
        (
            ["1.png", "2.png"],
            ".",
            f"@ has no class folders (files directly in it: 2): {EACH} @/cat and @/dog",
        ),
        (
            ["train/1.png", "test/2.png"],
            ".",
            (
                "@/train has no class folders (files directly in it: 1): "
                f"{EACH} @/train/cat and @/train/dog"
            ),
        ),
        (
            ["cat/1.png"],
            ".",
            "@ has one class folder, 'cat', and at least two are needed: add another",
        ),
        (
            ["flowers/cat/1.png", "flowers/dog/1.png"],
            ".",
            (
                "@ has one class folder, 'flowers', and at least two are needed: "
                "add another, or set --config.dataset.path=@/flowers"
            ),
        ),
        (
            ["test/cat/1", "test/dog/1"],
            ".",
            "@ has test/ but no train/: move the classes to train on into a folder train",
        ),
        (
            ["cat/1", "dog/1", "Val/dog/1"],
            ".",
            "@ has Val/ but no train/: move the classes to train on into a folder train",
        ),
        (
            ["train/cat/1", "train/dog/1", "test/1.png"],
            ".",
            (
                "@/test has no class folders: give it one per class, or move it away to "
                "test on a part of the training images"
            ),
        ),
        (
            ["train/cat/1", "train/dog/1", "test/dogs/1.png"],
            ".",
            (
                "class 'dogs' in @/test is not in @/train: rename or remove it, or add "
                "@/train/dogs"
            ),
        ),
    ],
)
def test_error(tmp_path, files, path, message):
    put(tmp_path, *files)
    error = error_of(tmp_path / path if path else "")
    assert error == message.replace("@", str(tmp_path))


def test_walk(tmp_path):
    put(
        tmp_path,
        *["b.png", "B.jpg", "more/a.png", "more/deep/c.png", "x.png/d.txt", "empty/"],
        *[".hidden", ".cache/e.png", "Thumbs.db", "more/.DS_Store", "more/Desktop.ini"],
    )
    (tmp_path / "lost.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    files = [p.relative_to(tmp_path).as_posix() for p in layout.walk(tmp_path)]
    assert files == [
        *["B.jpg", "b.png", "lost.png", "pipe"],
        *["more/a.png", "more/deep/c.png", "x.png/d.txt"],
    ]


def test_walk_does_not_leave_for_other_classes(tmp_path):
    for name in ("root/cat/1.png", "root/dog/2.png", "away/3.png", "above.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "root/cat/root").symlink_to(tmp_path / "root")
    (tmp_path / "root/cat/top").symlink_to(tmp_path)
    (tmp_path / "root/owl").symlink_to(tmp_path / "away")
    (tmp_path / "away/up").symlink_to(tmp_path)
    (tmp_path / "away/root").symlink_to(tmp_path / "root")
    walked = [*layout.walk(tmp_path / "root/cat")]
    assert walked == [tmp_path / "root/cat/1.png"]
    assert [*layout.walk(tmp_path / "root/owl")] == [tmp_path / "root/owl/3.png"]


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_walk_refuses_a_class_that_holds_all_classes(tmp_path, target):
    (tmp_path / "cat").symlink_to(target)
    with pytest.raises(UserError, match="cat is a link to a folder that it lies in"):
        next(layout.walk(tmp_path / "cat"))


def test_walk_follows_links_once(tmp_path):
    put(tmp_path, "cat/1", "cat/sub/2", "elsewhere/3")
    (tmp_path / "cat/sub/up").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "cat/there")
    (tmp_path / "cat/twice").symlink_to(tmp_path / "elsewhere")
    files = [p.relative_to(tmp_path) for p in layout.walk(tmp_path / "cat")]
    assert list(map(str, files)) == ["cat/1", "cat/sub/2", "cat/there/3"]


def test_folder_without_permission(tmp_path, monkeypatch):
    put(tmp_path, "cat/sub/1", "dog/1")
    listing = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError) as error:
        list(layout.walk(tmp_path / "cat"))
    assert str(error.value) == (
        f"{tmp_path}/cat/sub cannot be listed (Permission denied): "
        "allow it, or move it away"
    )


def test_root_without_permission(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert error_of(tmp_path) == (
        f"{tmp_path} cannot be listed (Permission denied): allow it, or move it away"
    )


# What people's folders look like


def pets(below: str) -> list[str]:
    return [f"{below}cat/1.jpg", f"{below}cat/2.jpg", f"{below}dog/1.jpg"]


OTHERS = ["README.dataset.txt", "labels.csv", "export.pkl"]
LAYOUTS = {
    "wrapped in itself": (pets("images/images/"), "images/images", None),
    "wrapped, of any name": (pets("pets/pets/"), "pets/pets", None),
    "several wrappers": (
        pets("archive/data/images/") + OTHERS,
        "archive/data/images",
        None,
    ),
    "intel": (
        pets("seg_train/seg_train/")
        + pets("seg_test/seg_test/")
        + ["seg_pred/seg_pred/1.jpg"],
        "seg_train/seg_train",
        "seg_test/seg_test",
    ),
    "chest_xray": (
        [p for s in ("train", "val", "test") for p in pets(f"chest_xray/{s}/")]
        + [p for s in ("train", "test") for p in pets(f"chest_xray/chest_xray/{s}/")]
        + ["__MACOSX/chest_xray/._train"],
        "chest_xray/train",
        "chest_xray/test",
    ),
    "training_set": (
        pets("training_set/training_set/") + pets("test_set/test_set/"),
        "training_set/training_set",
        "test_set/test_set",
    ),
    "roboflow": (pets("train/") + pets("valid/") + OTHERS, "train", "valid"),
    "keras": (
        pets("cats/train/") + pets("cats/validation/"),
        "cats/train",
        "cats/validation",
    ),
    "Training, Testing": (pets("Training/") + pets("Testing/"), "Training", "Testing"),
    "train_data": (pets("train_data/") + pets("test_data/"), "train_data", "test_data"),
    "dataset/train": ([*pets("dataset/train/"), "README.md"], "dataset/train", None),
    "fastai": (pets("train/") + pets("valid/") + ["models/1.pth"], "train", "valid"),
    "imagenet": (
        pets("ILSVRC_img_train/") + pets("ILSVRC_img_val/"),
        "ILSVRC_img_train",
        "ILSVRC_img_val",
    ),
    "test without classes": (
        pets("train/") + pets("val/") + ["test/1.jpg"],
        "train",
        "val",
    ),
    "test of one folder": (
        pets("train/") + pets("val/") + ["test/images/1.jpg"],
        "train",
        "val",
    ),
    "a licence": (
        pets("fruits/Training/") + pets("fruits/Test/") + ["fruits/LICENSE"],
        "fruits/Training",
        "fruits/Test",
    ),
    "train beside what is no class": (
        [*pets("train/"), "unlabelled/1.jpg"],
        "train",
        None,
    ),
    "labels beside images": ([*pets("images/"), "labels/cat/1.txt"], "images", None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_people(tmp_path, name):
    files, train, test = LAYOUTS[name]
    found = layout.find_layout(str(put(tmp_path, *files)))
    assert below(tmp_path, found.train) == {c: f"{train}/{c}" for c in ("cat", "dog")}
    expected = test and {c: f"{test}/{c}" for c in ("cat", "dog")}
    assert (found.test and below(tmp_path, found.test)) == expected
    notes = "\n".join(found.notes)
    if test:
        assert f"understood: {train} is to train on, {test} to test on" in notes
    else:
        assert train in notes
    named = {name.split(" ")[0] for name in [*found.unused, *found.left_out]}
    named |= {path.name for path in [*found.loose, *found.hidden]}
    used = {*train.split("/"), *(test or "").split("/")}
    for top in {path.split("/")[0] for path in files}:
        assert top in used | named  # nothing is dropped without being named


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (
            ["bus/day/1", "bus/night/1", "car/day/1", "train/day/1", "train/night/1"],
            "understood: train is a class, as bus, car are: there is no test, val, valid or validation beside it",
        ),
        (
            ["exam/a/1", "quiz/a/1", "test/a/1"],
            "folders inside a class folder count for that class: exam (a), quiz (a), test (a)",
        ),
        (
            ["Cat/1", "cat/1", "dog/1"],
            "'Cat' and 'cat' are different classes: check that they should be",
        ),
        (
            pets("color/") + pets("grey/"),
            (
                "folders inside a class folder count for that class: color (cat, dog), grey (cat, "
                "dog); if cat, dog are the classes, set --config.dataset.path=@/color"
            ),
        ),
    ],
)
def test_sub_folders_are_classes(tmp_path, files, note):
    found = layout.find_layout(str(put(tmp_path, *files)))
    assert list(found.train) == sorted({file.split("/")[0] for file in files})
    assert found.test is None and not found.unused
    assert note.replace("@", str(tmp_path)) in found.notes


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            pets("2023/") + pets("2024/"),
            (
                "@ has 2023, 2024, each with cat, dog in it: if cat, dog are the classes, bring all "
                "their images together in @/cat and so on, or use one part, "
                "--config.dataset.path=@/2023; if 2023, 2024 are the classes, rename them, such as "
                "class-2023"
            ),
        ),
        (pets("fold1/") + pets("fold2/"), "--config.dataset.path=@/fold1"),
        (pets("batch1/") + pets("batch_2/"), "--config.dataset.path=@/batch1"),
        (pets("images/") + pets("masks/"), "--config.dataset.path=@/images"),
        (pets("train/") + pets("holdout/"), "--config.dataset.path=@/holdout"),
        ([*pets("labeled/"), "unlabeled/1"], "--config.dataset.path=@/labeled"),
        (
            pets("data/train/") + pets("data/val/") + ["docs/1"],
            "--config.dataset.path=@/data",
        ),
        (pets("a/b/c/"), "--config.dataset.path=@/a/b/c"),
        (
            ["trainA/1", "trainB/1", "testA/1", "testB/1"],
            "@/train/CLASS and @/test/CLASS",
        ),
        (
            ["cat/train/1", "cat/test/1", "dog/train/1", "dog/test/1"],
            (
                "each class of @ has splits of its own, such as cat/test: put the splits outside, "
                "such as @/test/cat"
            ),
        ),
        (
            [
                "train/images/1.jpg",
                "train/labels/1.txt",
                "valid/images/2.jpg",
                "data.yaml",
            ],
            (
                "@/train has no class folders, but one of files, 'images' (left out: train/labels: no "
                "image in it): put the images of each class into a folder of its own"
            ),
        ),
        (["a/1", "todo/"], "needed (left out: todo: empty): add another"),
        (["train.zip"], "unpack train.zip, or put"),
        (
            ["train/", "test/cat/1", "test/dog/1"],
            "@ has test/ but no train/ (left out: train: empty)",
        ),
        (
            [*pets("train/"), "test/images/1.jpg"],
            "@/test has no class folders: give it",
        ),
    ],
)
def test_folder_that_is_asked_back(tmp_path, files, message):
    assert message.replace("@", str(tmp_path)) in error_of(put(tmp_path, *files))


def test_folders_that_are_no_classes_are_left_out(tmp_path):
    system = [
        "lost+found/",
        "$RECYCLE.BIN/x",
        "System Volume Information/",
        "@eaDir/1.jpg",
    ]
    system += [
        "__pycache__/x.pyc",
        ".ipynb_checkpoints/1.jpg",
        ".Trash-1000/1.jpg",
        "Thumbs.db",
    ]
    put(
        tmp_path,
        "a/1.jpg",
        "b/1.jpg",
        "todo/",
        "more/empty/",
        "annotations/1.xml",
        *system,
    )
    found = layout.find_layout(str(tmp_path))
    assert list(found.train) == ["a", "b"]
    assert found.left_out == {
        "annotations": "no image in it",
        "more": "empty",
        "todo": "empty",
    }
    assert {path.name for path in found.hidden} == {
        name.split("/")[0] for name in system
    }
    put(tmp_path, "annotations/mask.png")
    assert list(layout.find_layout(str(tmp_path)).train) == ["a", "annotations", "b"]


def test_class_names_that_are_spelt_otherwise_in_test(tmp_path):
    files = ["train/hot_dog/1", "train/Cat/1", "test/Hot-Dog/2", "test/cat/2"]
    found = layout.find_layout(str(put(tmp_path, *files)))
    assert below(tmp_path, found.test) == {
        "Cat": "test/cat",
        "hot_dog": "test/Hot-Dog",
    }
    assert (
        "class names of test that are spelt otherwise in train: Hot-Dog as hot_dog, cat as Cat"
        in found.notes
    )
    put(tmp_path, "train/cat/1")  # and now it is plain that they are two classes
    assert below(tmp_path, layout.find_layout(str(tmp_path)).test)["cat"] == "test/cat"


def test_the_training_folder_alone_names_the_other(tmp_path):
    put(tmp_path, *pets("train/"), *pets("valid/"))
    found = layout.find_layout(str(tmp_path / "train"))
    assert found.notes == (
        f"valid beside {tmp_path}/train is not used: name the folder that both are in to test on it",
    )


def test_deeply_nested_folders(tmp_path):
    """More than Python's functions can be nested; and deeper than a path may be long."""
    top = os.getcwd()
    try:
        os.chdir(put(tmp_path, "cat/1", "dog/1") / "cat")
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        open("2", "w").close()
    finally:
        os.chdir(top)
    try:
        _check_deep(tmp_path)
    finally:  # pytest could not remove them
        subprocess.run(["rm", "-rf", tmp_path / "cat", tmp_path / "dog"], check=True)


def _check_deep(tmp_path):
    top = os.getcwd()
    assert [p.name for p in layout.walk(tmp_path / "cat")] == ["1", "2"]
    assert list(layout.find_layout(str(tmp_path)).train) == ["cat", "dog"]
    try:
        os.chdir(tmp_path / "dog")
        for _ in range(20):
            os.mkdir("e" * 250)
            os.chdir("e" * 250)
    finally:
        os.chdir(top)
    with pytest.raises(UserError) as error:
        list(layout.walk(tmp_path / "dog"))
    assert str(error.value).endswith(
        "cannot be listed (File name too long): allow it, or move it away"
    )
    assert len(str(error.value)) < 600


# Names of folders


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
def test_names_of_splits(name, kind, family):
    assert layout._read_split(name) == (kind, family)


@pytest.mark.parametrize(
    "name",
    ["trainer", "strain", "trains", "contest", "valley", "trainA", "cat", "2023"],
)
def test_names_of_no_split(name):
    assert layout._read_split(name) is None


@pytest.mark.parametrize(
    "name",
    ["2023", "2023-05", "fold1", "part_2", "batch1", "split-3", "set2", "masks", "old"],
)
def test_names_of_parts(name):
    assert layout._is_part(name)


@pytest.mark.parametrize(
    "name", ["cat", "bus", "train station", "101", "partridge", "A"]
)
def test_names_of_no_part(name):
    assert not layout._is_part(name)


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
def test_names_of_the_system(name):
    assert layout._is_system(name)


def test_names_that_are_spelt_alike():
    assert layout._fold("Hot_Dog ") == layout._fold("hot-dog")
    assert layout._fold("Cafe\u0301") == layout._fold("caf\u00e9")
    assert layout._fold("cat") != layout._fold("cats")
