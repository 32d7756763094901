"""Tests of cglo_jax/class_folders.py: layouts of folders, by empty files."""

import os
from pathlib import Path

import pytest

from cglo_jax import class_folders
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
        class_folders.find(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("files", "train", "test", "unused", "loose"),
    [
        (["dog/1", "cat/1"], {"cat": "cat", "dog": "dog"}, None, [], []),
        (["b/", "a/", "C/"], {"C": "C", "a": "a", "b": "b"}, None, [], []),
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
    layout = class_folders.find(str(put(tmp_path, *files)))
    assert layout.root == tmp_path
    assert below(tmp_path, layout.train) == train
    assert list(layout.train) == sorted(train)
    assert (layout.test and below(tmp_path, layout.test)) == test
    assert layout.unused == unused
    assert [p.relative_to(tmp_path).as_posix() for p in layout.loose] == loose


def test_home_and_links(tmp_path, monkeypatch):
    put(tmp_path, "images/cat/1", "elsewhere/1")
    (tmp_path / "images/dog").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    layout = class_folders.find("~/images")
    assert layout.root == tmp_path / "images"
    assert list(layout.train) == ["cat", "dog"]


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
            ["images/cat/1.png", "images/dog/1.png"],
            ".",
            (
                "@ has one class folder, 'images', and at least two are needed: "
                "add another, or set --config.dataset.path=@/images"
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
                "@/test has no class folders: give it one per class, or remove it to test "
                "on a part of the training images"
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
    files = [p.relative_to(tmp_path).as_posix() for p in class_folders.walk(tmp_path)]
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
    walked = [*class_folders.walk(tmp_path / "root/cat")]
    assert walked == [tmp_path / "root/cat/1.png"]
    assert [*class_folders.walk(tmp_path / "root/owl")] == [tmp_path / "root/owl/3.png"]


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_walk_refuses_a_class_that_holds_all_classes(tmp_path, target):
    (tmp_path / "cat").symlink_to(target)
    with pytest.raises(UserError, match="cat is a link to a folder that it lies in"):
        next(class_folders.walk(tmp_path / "cat"))


def test_walk_follows_links_once(tmp_path):
    put(tmp_path, "cat/1", "cat/sub/2", "elsewhere/3")
    (tmp_path / "cat/sub/up").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "cat/there")
    (tmp_path / "cat/twice").symlink_to(tmp_path / "elsewhere")
    files = [p.relative_to(tmp_path) for p in class_folders.walk(tmp_path / "cat")]
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
        list(class_folders.walk(tmp_path / "cat"))
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
