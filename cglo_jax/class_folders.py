"""Where a folder keeps its classes: one sub-folder each, in train/ and test/ or in itself."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from cglo_jax.errors import UserError

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "validation", "valid", "val")  # the first there is
_HIDDEN = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # and .names


class Layout(NamedTuple):
    """What lies where below `root`.

    Attributes:
      train: class name -> folder, two or more, sorted by name.
      test: the same for the test folder, of classes that `train` has; None = there is none.
      unused: names of folders beside train and test.
      loose: files outside the class folders.
    """

    root: Path
    train: dict[str, Path]
    test: dict[str, Path] | None
    unused: list[str]
    loose: list[Path]


def find(path: str) -> Layout:
    """Finds the class folders below `path`, without looking into them.

    A folder `train` (or `training`, in any case) that has sub-folders, or nothing but a test
    folder beside it, holds the classes to train on, and `test`, `testing`, `validation`, `valid`
    or `val` those to test on. Otherwise each sub-folder of `path` is a class.

    Raises:
      UserError: there is no such folder, it has fewer than two classes, or test classes
        that are not to be trained on.
    """
    root = _find_root(path)
    folders, loose = _list(root)
    known = {name.casefold(): folder for name, folder in folders.items()}
    train = next((known[name] for name in _TRAIN if name in known), None)
    test = next((known[name] for name in _TEST if name in known), None)
    only_splits = bool(known) and known.keys() <= {*_TRAIN, *_TEST}
    if train is None and test is not None:
        nested = _list(test)[0].keys()
        if only_splits or (nested and nested <= folders.keys()):
            raise UserError(
                f"{root} has {test.name}/ but no train/: "
                "move the classes to train on into a folder train"
            )
    # A folder `train` that is full of images, beside `bus` and `car`, is a class.
    if train is None or not (only_splits or _list(train)[0]):
        return Layout(root, _find_classes(root), None, [], loose)
    unused = [name for name, f in folders.items() if f not in (train, test)]
    classes, loose = _find_classes(train), loose + _list(train)[1]
    if test is None:
        return Layout(root, classes, None, unused, loose)
    test_classes, more = _list(test)
    _check_test(test, test_classes, train, classes)
    return Layout(root, classes, test_classes, unused, loose + more)


def walk(folder: Path) -> Iterator[Path]:
    """Yields the visible files of a class folder, at any depth, in an order of their names.

    Links to folders are followed, but no folder is entered twice, nor one that this folder lies
    in: its other folders are other classes. What is yielded is not a
    folder, but may be anything else: a link to nothing, a pipe, a device.

    Raises:
      UserError: a folder cannot be listed, or the class folder is a link to one it lies in.
    """
    own, home = folder.resolve(), folder.parent.resolve()
    if home.is_relative_to(own):
        raise UserError(f"{folder} is a link to a folder that it lies in: remove it")
    seen, above = set(), {str(home), *map(str, [*own.parents, *home.parents])}
    for root, folders, names in os.walk(
        folder, onerror=_refuse_folder, followlinks=True
    ):
        real = os.path.realpath(root)
        if real in seen or real in above:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(_is_visible, folders))
        yield from (Path(root, name) for name in sorted(filter(_is_visible, names)))


def _find_root(path: str) -> Path:
    if not path:
        raise UserError(
            "config.dataset.path is empty: name the folder that has one sub-folder of "
            "images per class, --config.dataset.path=DIR"
        )
    root = Path(os.path.expanduser(path))
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(
            f"config.dataset.path: {root} {what}: name the folder that has one "
            "sub-folder of images per class"
        )
    return root


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in _HIDDEN


def _refuse_folder(error: OSError) -> NoReturn:
    raise UserError(
        f"{error.filename} cannot be listed ({error.strerror}): allow it, or move it away"
    )


def _list(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """-> visible sub-folders by name, and other visible entries, both sorted."""
    try:
        entries = sorted(e for e in folder.iterdir() if _is_visible(e.name))
    except OSError as error:
        _refuse_folder(error)
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    return folders, [entry for entry in entries if entry.name not in folders]


def _find_classes(folder: Path) -> dict[str, Path]:
    classes, loose = _list(folder)
    if not classes:
        found = f" (files directly in it: {len(loose)})" if loose else ""
        raise UserError(
            f"{folder} has no class folders{found}: put the images of each class into "
            f"a folder of its own, such as {folder / 'cat'} and {folder / 'dog'}"
        )
    if len(classes) == 1:
        (only,) = classes.values()
        hint = f", or set --config.dataset.path={only}" if _list(only)[0] else ""
        raise UserError(
            f"{folder} has one class folder, {only.name!r}, and at least two are "
            f"needed: add another{hint}"
        )
    return classes


def _check_test(
    test: Path, test_classes: dict[str, Path], train: Path, classes: dict[str, Path]
) -> None:
    if not test_classes:
        raise UserError(
            f"{test} has no class folders: give it one per class, or remove it to test "
            "on a part of the training images"
        )
    if strange := [name for name in test_classes if name not in classes]:
        raise UserError(
            f"class {strange[0]!r} in {test} is not in {train}: rename or remove it, or "
            f"add {train / strange[0]}"
        )
