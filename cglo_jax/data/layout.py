"""Where a folder keeps its classes: one sub-folder each, in train/ and test/ or in itself.

People's folders come from Kaggle, Roboflow, Keras, fastai, torchvision, file managers and archives:
wrapped in themselves, split by names of many kinds, with a system's folders beside the classes.
`Layout.notes` describes how a folder was understood. A folder that can be understood in two ways is
refused, with the names to choose from.
"""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from cglo_jax.errors import UserError, printable, shorten

_DEEPEST = 20  # folders around the one that holds the classes
_LISTED = 12  # names in a printed line
# fmt: off
# Files that are no images; any other file might be one.
_NO_IMAGES = {
    ".xml", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".md", ".rst",
    ".html", ".htm", ".py", ".pyc", ".pyo", ".ipynb", ".m", ".r", ".sh", ".bat", ".js",
    ".log", ".db", ".ini", ".cfg", ".toml", ".lock", ".pkl", ".pickle", ".pt", ".pth",
    ".ckpt", ".h5", ".hdf5", ".keras", ".onnx", ".pb", ".tflite", ".safetensors", ".npy",
    ".npz", ".mat", ".parquet", ".arrow", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt",
    ".pptx", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".names", ".data",
    ".cache", ".lst", ".rec", ".idx",
}
_NO_IMAGE_NAMES = {
    "license",
    "licence",
    "readme",
    "copying",
    "notice",
    "changelog",
    "makefile",
}
_IMAGES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".heic", ".heif", ".avif", ".mpo",
}
# fmt: on
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
_TRAIN, _TEST, _VALIDATION = "train", "test", "validation"

# Made by operating systems, network drives, viewers and programming tools, beside .names and ._names.
_SYSTEM = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found"),
    *("$recycle.bin", "recycler", "system volume information"),
    *("found.000", "@eadir", "@tmp", "#recycle", "#snapshot"),
    *("__pycache__", "node_modules", "site-packages"),
}
# Names of folders that, beside train/, are not a second class, even if they have images.
_BESIDE_TRAIN = re.compile(
    r"(models?|checkpoints?|runs|samples?|sample_(images|submission)|masks?|annotations?|labels?"
    r"|segmentations?|ground_?truth|(seg_)?pred(ict(ions?)?)?|submissions?|extra|unsup(ervised)?"
    r"|un-?label?led)s?"
)
# Names of folders that only hold the folder below.
_WRAPPER = re.compile(
    r"(the_?)?(train(ing)?_?|test(ing)?_?|val(id(ation)?)?_?|raw_?|all_?|my_?)?"
    r"((jpe?g|png)?[_]?images?|imgs?|imagery|jpe?gs?|pngs?|pics?|pictures?|photos?|photographs?|fotos?|bilder"
    r"|data|datasets?|data_sets?|archive|download|input|raw|content|classes|class|categories|files)"
    r"(_?\d+)?"
)
# Names of one of several parts of a data set, each with all classes in it.
_PART = re.compile(
    r"((19|20)\d\d([_-]?\d\d)?([_-]?\d\d)?)"
    r"|((cv|k?fold|part(ition)?|batch|split|(sub)?set|chunk|shard|session|run|round|volume|vol|disc"
    r"|disk|archive|data(set)?|download|dump|version|v|trial|take)s?[_-]?([0-9]+|[a-e]))"
    r"|(un)?label?led|unsup|hold_?out|dev|pool|source|target|query|gallery|probe|original|augment(ed|ation)|raw"
    r"|processed|old|new|other"
)
_OF_SPLITS = {
    _TRAIN: r"train(?:ing)?",
    _TEST: r"test(?:ing)?",
    _VALIDATION: r"val(?:id(?:ate|ation)?)?|eval(?:uation)?",
}
_KINDS = "|".join(f"(?P<{kind}>{names})" for kind, names in _OF_SPLITS.items())
_SPLIT = re.compile(
    rf"(?:(?P<before>.+?)_)?(?:{_KINDS})"
    r"(?P<after>_?(?:set|data|dataset|images?|imgs?|img)|_?(?:19|20)\d\d|_?\d)?"
)
_STARTS = re.compile(
    r"(?P<split>train(?:ing)?|test(?:ing)?|val(?:id(?:ate|ation)?)?)(?P<rest>.*)"
)


class Layout(NamedTuple):
    """Where the classes and other files lie below `root`.

    Attributes:
      train: class name -> folder, two or more, sorted by name, each with a file that may be an image.
      test: the same for the test folder, of classes that `train` has; None = there is none.
      unused: names of folders beside train and test that are not read.
      loose: files outside the class folders.
      left_out: folders that are not a class, and why, by their name below `root`.
      hidden: files and folders that are hidden or an operating system's.
      notes: lines to print: how the folder was understood.
    """

    root: Path
    train: dict[str, Path]
    test: dict[str, Path] | None
    unused: list[str]
    loose: list[Path]
    left_out: dict[str, str]
    hidden: list[Path]
    notes: tuple[str, ...]


def find_layout(path: str) -> Layout:
    """Finds the class folders below `path`.

    A folder that only holds a folder of its own name, or one called "images" or the like, is passed
    through. A folder called train (or training, train_set, seg_train, ... in any case) is trained on
    and the one called test is tested on, or else val, valid or validation, if these are side by
    side or train has nothing beside it but what is no class. Otherwise each sub-folder is a
    class, also one called train. Empty folders, folders without any file that may be an image and
    an operating system's folders are no classes.

    Raises:
      UserError: the folder does not exist, it has fewer than two classes, test classes that are not
        to be trained on, or classes that would be called after splits or other parts.
    """
    root = _find_root(path)
    search = _Search(root)
    folder = search.unwrap(root)
    if folder != root:
        search.notes.append(f"understood: the images are in {search.name(folder)}")
    folders = search.enter(folder)
    train, tests = search.find_splits(folder, folders)
    if train is None:
        search.check(folder, folders)
        search.note_train(folder, folders)
        return search.finish(folders, None)
    train_at = search.unwrap(train)
    classes = search.enter(train_at)
    search.check(train_at, classes)
    test, test_at, test_classes = search.open_first(tests)
    rest = {name: f for name, f in folders.items() if f not in (train, test)}
    search.unused = [
        f"{name} (no class folders)" if f in tests and not _list(f).folders else name
        for name, f in rest.items()
    ]
    if test is None:
        search.notes.append(f"understood: {search.name(train_at)} is to train on")
        return search.finish(classes, None)
    search.notes.append(
        f"understood: {search.name(train_at)} is to train on, {search.name(test_at)} to test on"
    )
    return search.finish(
        classes, search.match(test_at, test_classes, train_at, classes)
    )


def walk(folder: Path, hidden: list[Path] | None = None) -> Iterator[Path]:
    """Yields the visible files of a class folder, at any depth, ordered by name.

    Links to folders are followed, but no folder is entered twice, nor one that this folder lies
    in: its other folders are other classes. What is yielded is no folder, but may be anything else: a
    link to nothing, a pipe, a device.

    Args:
      hidden: files and folders that are hidden or the system's are added to this list.

    Raises:
      UserError: a folder cannot be listed, or the class folder is a link to a folder that it lies in.
    """
    own, home = folder.resolve(), folder.parent.resolve()
    if home.is_relative_to(own):
        raise UserError(f"{folder} is a link to a folder that it lies in: remove it")
    seen = {_identify(p) for p in (home, *own.parents, *home.parents)}
    # No recursion: folders may be nested as deep as names can be long.
    stack = [str(folder)]
    while stack:
        at = stack.pop()
        try:
            identity = _identify(at)
            with os.scandir(at) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            _refuse_folder(error)
        if identity in seen:
            continue
        seen.add(identity)
        folders = []
        for entry in entries:
            if _is_system(entry.name):
                if hidden is not None:
                    hidden.append(Path(entry.path))
            elif entry.is_dir(follow_symlinks=False) or (
                entry.is_symlink() and os.path.isdir(entry)
            ):
                folders.append(entry.path)
            else:
                yield Path(entry.path)
        stack.extend(reversed(folders))


def name_some(names: Sequence[str]) -> str:
    """Returns the names joined by commas; after twelve, how many more there are."""
    more = [f"{len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])


class _Listing(NamedTuple):
    folders: dict[str, Path]
    loose: list[Path]
    hidden: list[Path]


class _Search:
    """The way down to the classes, with all that is found beside it."""

    def __init__(self, root: Path):
        self.root = root
        self.unused: list[str] = []
        self.notes: list[str] = []
        self._loose: dict[Path, list[Path]] = {}
        self._hidden: dict[Path, list[Path]] = {}
        self._left_out: dict[str, str] = {}

    def name(self, folder: Path) -> str:
        return printable(folder.relative_to(self.root).as_posix())

    def enter(self, folder: Path) -> dict[str, Path]:
        """Returns the sub-folders that may hold images, sorted by name."""
        listing = _list(folder)
        self._loose[folder], self._hidden[folder] = listing.loose, listing.hidden
        folders = {}
        for name, sub in listing.folders.items():
            if why := _why_no_class(sub):
                self._left_out[self.name(sub)] = why
            else:
                folders[name] = sub
        return folders

    def unwrap(self, folder: Path) -> Path:
        """Goes down as long as a folder holds nothing but a folder that only wraps others."""
        for _ in range(_DEEPEST):
            folders = self.enter(folder)
            if len(folders) != 1:
                break
            (only,) = folders.values()
            listing = _list(only)
            holds_images = any(p.suffix.lower() in _IMAGES for p in listing.loose)
            if holds_images or not _is_wrapping(folder, only, listing.folders):
                break
            folder = only
        return folder

    def find_splits(
        self, folder: Path, folders: Mapping[str, Path]
    ) -> tuple[Path | None, list[Path]]:
        """Returns the folder to train on, None if all are classes, and the folders that may be to test on."""
        families = _families(folders)
        plain = families.get("", {})
        pairs = {
            f: kinds
            for f, kinds in families.items()
            if _TRAIN in kinds and len(kinds) > 1
        }
        known = sum(
            len(names) for kinds in families.values() for names in kinds.values()
        )
        only_splits = known == len(folders) > 0
        if len(pairs) > 1 and "" not in pairs:
            names = [
                n
                for kinds in pairs.values()
                for of_kind in kinds.values()
                for n in of_kind
            ]
            raise _joined(folder, sorted(names))
        if pairs:
            kinds = pairs[""] if "" in pairs else next(iter(pairs.values()))
            train = folders[_plainest(kinds[_TRAIN])]
            # A folder `train` that is full of images, beside `bus`, `car` and `test`, is a class.
            if not (only_splits or _list(train).folders):
                self._check_no_test(folder, folders, plain)
                return None, []
            tests = [kinds[kind] for kind in (_TEST, _VALIDATION) if kind in kinds]
            plainest = [_plainest(names) for names in tests]
            return train, [folders[name] for name in plainest]
        others = [name for name in folders if _read_split(name) is None]
        of_any = (
            [f[_TRAIN] for f in families.values() if _TRAIN in f] if only_splits else []
        )
        alone = plain.get(_TRAIN) or next(iter(of_any), [])
        if alone:
            train = folders[_plainest(alone)]
            no_class = all(map(_is_beside_train, others))
            is_train = no_class and (not others or _list(train).folders)
            return (train if is_train else None), []
        self._check_no_test(folder, folders, plain, only_splits)
        return None, []

    def _check_no_test(
        self,
        folder: Path,
        folders: Mapping[str, Path],
        plain: Mapping[str, Sequence[str]],
        only_splits: bool = False,
    ) -> None:
        """Raises UserError if a folder beside class folders has test images of the same classes."""
        for kind in (_TEST, _VALIDATION):
            if kind in plain:
                test = folders[_plainest(plain[kind])]
                nested = set(_list(test).folders)
                if only_splits or (nested and nested <= folders.keys()):
                    has = (
                        "no folder of classes to train on"
                        if _TRAIN in plain
                        else "no train/"
                    )
                    raise UserError(
                        f"{folder} has {test.name}/ but {has}{_describe_left_out(self._left_out)}: "
                        "move the classes to train on into a folder train"
                    )

    def open_first(
        self, tests: Sequence[Path]
    ) -> tuple[Path | None, Path | None, dict[str, Path]]:
        """Returns the first test folder that has classes, the folder that they lie in, and the classes."""
        for test in tests:
            at = self.unwrap(test)
            classes = self.enter(at)
            if classes and not _holds_files(at, classes):
                return test, at, classes
            self._loose.pop(at)  # the test folder is named as a whole
        if tests:
            raise UserError(
                f"{tests[0]} has no class folders: give it one per class, or move it away "
                "to test on a part of the training images"
            )
        return None, None, {}

    def check(self, folder: Path, classes: Mapping[str, Path]) -> None:
        """Raises UserError unless there are two folders or more that can be meant as classes."""
        _check_count(folder, classes, self._left_out)
        nested = {name: list(_list(sub).folders) for name, sub in classes.items()}
        _check_parts(folder, nested)
        inner = [
            f"{printable(n)} ({_join(subs)})" for n, subs in nested.items() if subs
        ]
        if inner:
            text = f"folders inside a class folder count for that class: {name_some(inner)}"
            subs = next(iter(nested.values()))
            if len(subs) > 1 and all(other == subs for other in nested.values()):
                one = next(iter(classes.values()))
                text += f"; if {_join(subs)} are the classes, set --config.dataset.path={one}"
            self.notes.append(text)
        groups = itertools.groupby(sorted(classes, key=_fold), _fold)
        for same in (list(names) for _, names in groups):
            if len(same) > 1:
                text = " and ".join(repr(printable(name)) for name in same)
                self.notes.append(
                    f"{text} are different classes: check that they should be"
                )

    def note_train(self, folder: Path, classes: Mapping[str, Path]) -> None:
        """Notes a class that is called train, and a root called train beside which others are not used."""
        for name, sub in classes.items():
            if _read_split(name) == (_TRAIN, "") and _list(sub).folders:
                others = name_some(
                    [printable(other) for other in classes if other != name]
                )
                self.notes.append(
                    f"understood: {printable(name)} is a class, as {others} are: there "
                    "is no test, val, valid or validation beside it"
                )
        own = _read_split(folder.resolve().name)
        if folder == self.root and own and own.kind == _TRAIN:
            beside = os.listdir(folder.resolve().parent)
            kinds = _families(beside).get(own.family, {})
            if others := [
                n for kind in (_TEST, _VALIDATION) for n in kinds.get(kind, [])
            ]:
                self.notes.append(
                    f"{name_some(others)} beside {folder} is not used: name the folder that both "
                    "are in to test on it"
                )

    def match(
        self, test: Path, found: dict[str, Path], train: Path, classes: dict[str, Path]
    ) -> dict[str, Path]:
        """Returns the test classes under the names that they have in train."""
        by_fold: dict[str, list[str]] = {}
        for name in classes:
            by_fold.setdefault(_fold(name), []).append(name)
        matched, changed = {}, []
        for name, folder in found.items():
            alike = [name] if name in classes else by_fold.get(_fold(name), [])
            if len(alike) != 1 or alike[0] in matched:
                raise UserError(
                    f"class {name!r} in {test} is not in {train}: rename or remove it, or "
                    f"add {train / name}"
                )
            matched[alike[0]] = folder
            if alike[0] != name:
                changed.append(f"{printable(name)} as {printable(alike[0])}")
        if changed:
            text = f"class names of {self.name(test)} that are spelt otherwise in {self.name(train)}"
            self.notes.append(f"{text}: {name_some(changed)}")
        return {name: matched[name] for name in classes if name in matched}

    def finish(self, train: dict[str, Path], test: dict[str, Path] | None) -> Layout:
        loose = list(itertools.chain(*self._loose.values()))
        hidden = list(itertools.chain(*self._hidden.values()))
        parts = (self.unused, loose, self._left_out, hidden, tuple(self.notes))
        return Layout(self.root, train, test, *parts)


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


def _refuse_folder(error: OSError) -> NoReturn:
    raise UserError(
        f"{shorten(error.filename)} cannot be listed ({error.strerror}): allow it, or move it away"
    )


def _identify(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _list(folder: Path) -> _Listing:
    """Returns visible sub-folders by name and other visible entries, both sorted, and hidden entries."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        _refuse_folder(error)
    hidden = [e for e in entries if _is_system(e.name)]
    visible = [e for e in entries if not _is_system(e.name)]
    folders = {entry.name: entry for entry in visible if os.path.isdir(entry)}
    loose = [entry for entry in visible if entry.name not in folders]
    return _Listing(folders, loose, hidden)


def _is_no_image(path: Path) -> bool:
    return path.suffix.lower() in _NO_IMAGES or path.name.casefold() in _NO_IMAGE_NAMES


def _why_no_class(folder: Path) -> str:
    """Returns "" if a folder has a file that may be an image, else what it is instead."""
    why = "empty"
    for path in walk(folder):
        if not _is_no_image(path):
            return ""
        why = "no image in it"
    return why


def _is_wrapping(folder: Path, only: Path, inside: Mapping[str, Path]) -> bool:
    """Whether `only`, the one folder in `folder`, is no class but only holds the folders `inside`."""
    if not inside:
        return False
    own = _fold(only.name)
    split, outer = map(_read_split, (only.name, folder.name))
    return (
        _fold(folder.name) == own
        or _is_wrapper(only.name)
        or [_fold(name) for name in inside] == [own]
        or (split is not None and split == outer and not split.family)
        or _has_splits(inside)
    )


def _holds_files(folder: Path, classes: Mapping[str, Path]) -> bool:
    """Whether the only "class" is a wrapper around files, as in test/images/1.jpg."""
    if len(classes) > 1:
        return False
    ((name, only),) = classes.items()
    wraps = _is_wrapper(name) or _fold(name) == _fold(folder.name)
    return wraps and not _list(only).folders


def _families(names: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Returns family of splits ("" or what the names share, such as "seg") -> kind of split -> names."""
    families: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if split := _read_split(name):
            families.setdefault(split.family, {}).setdefault(split.kind, []).append(
                name
            )
    return families


def _has_splits(names: Iterable[str]) -> bool:
    return any(_TRAIN in f and len(f) > 1 for f in _families(names).values())


def _plainest(names: Sequence[str]) -> str:
    """Returns the shortest name: train rather than train_data."""
    return min(names, key=lambda name: (len(name), name))


def _check_count(
    folder: Path, classes: Mapping[str, Path], left_out: Mapping[str, str]
) -> None:
    skipped = _describe_left_out(left_out)
    if not classes:
        loose = _list(folder).loose
        packed = [path.name for path in loose if path.suffix.lower() in _ARCHIVES]
        found = f" (files directly in it: {len(loose)})" if loose else ""
        unpack = f"unpack {packed[0]}, or " if packed else ""
        raise UserError(
            f"{folder} has no class folders{found}{skipped}: {unpack}put the images of each class "
            f"into a folder of its own, such as {folder / 'cat'} and {folder / 'dog'}"
        )
    if len(classes) > 1:
        return
    (only,) = classes.values()
    if _holds_files(folder, classes):
        raise UserError(
            f"{folder} has no class folders, but one of files, {only.name!r}{skipped}: put the "
            f"images of each class into a folder of its own, such as {folder / 'cat'} and "
            f"{folder / 'dog'} (Roboflow: export as Folder Structure)"
        )
    inner = only
    for _ in range(_DEEPEST):
        inside = _list(inner).folders
        if len(inside) != 1:
            break
        (inner,) = inside.values()
    hint = f", or set --config.dataset.path={inner}" if _list(inner).folders else ""
    raise UserError(
        f"{folder} has one class folder, {only.name!r}, and at least two are "
        f"needed{skipped}: add another{hint}"
    )


def _describe_left_out(left_out: Mapping[str, str]) -> str:
    others = [f"{name}: {why}" for name, why in left_out.items()]
    return f" (left out: {name_some(others)})" if others else ""


def _check_parts(folder: Path, nested: Mapping[str, Sequence[str]]) -> None:
    """Refuses classes that are called after parts of a data set.

    Args:
      nested: name of a possible class -> its sub-folders.
    """
    split = [name for name, subs in nested.items() if _has_splits(subs)]
    if len(split) == len(nested):
        sub = next(s for s in nested[split[0]] if _read_split(s))
        kind = _read_split(sub).kind
        raise UserError(
            f"each class of {folder} has splits of its own, such as {split[0]}/{sub}: put the "
            f"splits outside, such as {folder / kind / split[0]}"
        )
    if split:
        raise UserError(
            f"{folder / split[0]} has folders to train and to test on: set "
            f"--config.dataset.path={folder / split[0]}, or rename them if {split[0]} is a class"
        )
    joined: dict[str, set[str]] = {}
    for name in nested:
        if found := _read_class_of_split(name):
            joined.setdefault(found[1], set()).add(found[0])
    if any("tr" in kinds and len(kinds) > 1 for kinds in joined.values()):
        raise _joined(folder, list(nested))
    parts = [name for name, subs in nested.items() if len(subs) > 1]
    shared = (
        set.intersection(*(set(nested[n]) for n in parts)) if len(parts) > 1 else set()
    )
    unlabelled = [name for name in nested if "unlabel" in _fold(name)]
    if parts and unlabelled and set(parts).isdisjoint(unlabelled):
        raise UserError(
            f"{folder} has {_join(unlabelled)} beside {_join(parts)}, which has "
            f"{_join(nested[parts[0]])} in it: if these are the classes, set "
            f"--config.dataset.path={folder / parts[0]}"
        )
    if shared and all(map(_is_part, nested)):
        names, inside = sorted(parts), sorted(shared)
        raise UserError(
            f"{folder} has {_join(names)}, each with {_join(inside)} in it: if {_join(inside)} are "
            f"the classes, bring all their images together in {folder / inside[0]} and so on, or "
            f"use one part, --config.dataset.path={folder / names[0]}; if {_join(names)} are "
            f"the classes, rename them, such as class-{names[0]}"
        )


def _joined(folder: Path, names: Sequence[str]) -> UserError:
    return UserError(
        f"the folder names {_join(names)} in {folder} combine a split (train or test) with a class: "
        f"move the images into folders such as {folder / 'train' / 'CLASS'} and "
        f"{folder / 'test' / 'CLASS'}"
    )


def _join(names: Sequence[str]) -> str:
    shown = list(map(printable, names[:3]))
    return ", ".join([*shown, *(["..."] if len(names) > 3 else [])])


# Names of folders, whatever is in them


class _Split(NamedTuple):
    """A split that a folder is called after; `family` is what the names of all its splits share."""

    kind: str
    family: str


def _is_system(name: str) -> bool:
    """Whether a file or folder is hidden or the system's, not a person's data."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def _read_split(name: str) -> _Split | None:
    """Returns which split a folder is called after: "train", "seg_train", "Test_images" ..."""
    found = _SPLIT.fullmatch(_plain(name))
    if not found:
        return None
    kind = next(k for k in _OF_SPLITS if found[k])
    return _Split(kind, found["before"] or "")


def _read_class_of_split(name: str) -> tuple[str, str] | None:
    """Returns (split, class) of a name that joins the two, such as trainA or test_cat."""
    found = _STARTS.fullmatch(_plain(name))
    if found and (rest := found["rest"].strip("_")):
        return found["split"][:2], rest
    return None


def _is_wrapper(name: str) -> bool:
    """Whether a folder's name is one for a folder of all images ("images", "data")."""
    return bool(_WRAPPER.fullmatch(_plain(name)))


def _is_beside_train(name: str) -> bool:
    """Whether a folder's name is one that lies beside train/ but is no class."""
    return bool(_BESIDE_TRAIN.fullmatch(_plain(name)))


def _is_part(name: str) -> bool:
    """Whether a folder's name is one of several parts: a year, fold, batch, split."""
    plain = _plain(name)
    return bool(_PART.fullmatch(plain) or _read_split(name) or _is_wrapper(name)) or (
        plain.startswith("seg_") or _is_beside_train(name)
    )


def _fold(name: str) -> str:
    """Returns a class's name with case, the encoding of accents and separators made equal."""
    return re.sub(
        r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()
    ).strip()


def _plain(name: str) -> str:
    return _fold(name).replace(" ", "_")
