"""The work directory of a run: creating and checking it, and setting it aside for a fresh start."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten
from cglo_jax.config.fingerprint import (
    check_fingerprint,
    classify_fingerprint,
    train_fingerprint,
)
from cglo_jax.errors import UnusableFiles, UserError
from cglo_jax.files import lock, ownership, readback, storage

_NO_CLASSIFIERS = ("train", "sample")  # stages that read no classifiers
_OF_RUNS = (
    "config.json",
    "skipped.txt",
    "log.txt",
    "metrics.jsonl",
    "timings.jsonl",
)
_OF_REPORTS = ("report.md", "report.html")
# Files that each stage writes; the other stages write `_OF_RUNS`.
_FILES = {"all": (*_OF_RUNS, *_OF_REPORTS), "report": _OF_REPORTS, "export": ()}
_REPLACED = {"all": ("samples",), "sample": ("samples",), "export": ("exports",)}
_NO_FILES = ("digits", "folder")
_TFDS_DIR = "~/tensorflow_datasets"
# What each stage trains further if it was trained for fewer epochs.
_GROWING = {
    "all": ("train", "classify"),
    "train": ("train",),
    "classify": ("classify",),
}


def check(config: ConfigDict, workdir: pathlib.Path, stage: str = "all") -> None:
    """Checks a work directory before images are read.

    Args:
      stage: the call's stage; fields that it does not read may differ.

    Raises:
      UserError: its content was made with another configuration.
    """
    if os.path.exists(workdir / "config.json"):
        _check_config(config, workdir / "config.json", stage)


def check_place(
    config: ConfigDict,
    workdir: pathlib.Path,
    stage: str = "all",
    *,
    fresh: bool = False,
) -> None:
    """Checks that a call may write into a work directory, before it reads or writes anything.

    Args:
      stage: the call's stage.
      fresh: whether its content will be set aside first.

    Raises:
      UserError: it holds files of others, a file that `stage` writes was changed since, or it is
        inside the data set or contains it.
    """
    found = _find_images(config)
    find_free = functools.partial(_find_free, [*found.values()], workdir)
    for name, images in found.items():
        if storage.contains(images, workdir):
            relation = f"lies in {name}, the data set"
        elif storage.contains(workdir, images):
            relation = f"holds {name}, the data set"
        else:
            continue
        raise UserError(
            f"--workdir={workdir} {relation}: a run would write among the images; use another, such "
            f"as --workdir={find_free()}"
        )
    ownership.check_claimable(workdir, find_free)
    lock.check_usable(workdir)
    if fresh:
        return
    ownership.check(workdir, *_FILES.get(stage, _OF_RUNS))
    if stage in ("all", "train", "classify"):
        ownership.check_recorded(workdir, "checkpoints", "classifiers")
    for name in _REPLACED.get(stage, ()):
        ownership.check_replaceable(workdir, name)


def _find_images(config: ConfigDict) -> dict[str, pathlib.Path]:
    """Returns {description: folder} of the folders that hold the images of a run."""
    fields = config.dataset
    if fields.path:
        root = pathlib.Path(os.path.expanduser(fields.path))
        linked = {f"the link {path} in it": path for path in _find_links(root)}
        return {f"config.dataset.path={root}": root, **linked}
    if fields.name in _NO_FILES:
        return {}
    data_dir = fields.data_dir or os.environ.get("TFDS_DATA_DIR", _TFDS_DIR)
    path = pathlib.Path(os.path.expanduser(data_dir)) / fields.name.split("/")[0]
    return {f"{path}, of config.dataset.data_dir": path}


def _find_links(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the links to folders at any depth of a data set: classes and their folders may be links."""
    seen, waiting = set(), [str(folder)]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(place))
        except OSError:  # reported when the images are read
            continue
        for entry in entries:
            if entry.is_symlink():
                if os.path.isdir(entry.path):
                    yield pathlib.Path(entry.path)
                    waiting.append(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)


def _find_free(images: Sequence[pathlib.Path], workdir: pathlib.Path) -> pathlib.Path:
    """Returns a path near `workdir` that does not exist and is in no folder of `images`."""

    def is_among_images(place: pathlib.Path) -> bool:
        return any(storage.contains(folder, place) for folder in images)

    place = workdir
    if is_among_images(workdir) or not os.path.isdir(workdir) or _is_run(workdir):
        place = workdir.resolve().parent
    while is_among_images(place) and place != place.parent:
        place = place.parent
    names = ("cglo-run" if i == 1 else f"cglo-run-{i}" for i in itertools.count(1))
    free = (place / name for name in names)
    return next(p for p in free if not os.path.lexists(p) and not is_among_images(p))


def _is_run(workdir: pathlib.Path) -> bool:
    with contextlib.suppress(UserError):
        return ownership.is_claimed(workdir)
    return True


@contextlib.contextmanager
def hold(
    config: ConfigDict, workdir: pathlib.Path, stage: str = "all"
) -> Iterator[None]:
    """Creates the work directory and locks it against other runs meanwhile; see `create`."""
    _claim(workdir)
    with lock.hold(workdir):
        ownership.check_links(workdir)
        ownership.clean(workdir)
        create(config, workdir, stage)
        yield


def create(config: ConfigDict, workdir: pathlib.Path, stage: str = "all") -> None:
    """Creates the work directory and writes config.json, the fields of the newest call.

    If there are results, it keeps their fields of classifiers when `stage` does not read these.

    Raises:
      UserError: its content was made with another configuration, or it cannot be written to.
    """
    check(config, workdir, stage)
    path = workdir / "config.json"
    _claim(workdir)
    try:
        fields = flatten(config) | _kept_fields(path, stage)
        ownership.write(workdir, path.name, json.dumps(fields, indent=1) + "\n")
    except OSError as error:
        raise _unwritable(workdir, error) from None


def _claim(workdir: pathlib.Path) -> None:
    try:
        ownership.claim(workdir)
    except OSError as error:
        raise _unwritable(workdir, error) from None


def _unwritable(workdir: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to --workdir={workdir} ({error.strerror}): use another"
    )


def _check_config(config: ConfigDict, path: pathlib.Path, stage: str) -> None:
    """Checks that checkpoints and results beside config.json have this configuration.

    Each of them is checked again, with its own record, when it is read; this refuses a call
    before it adds runs of another configuration to them.
    """
    if _has_results(path.parent):
        fields = classify_fingerprint(config)
        if stage in _NO_CLASSIFIERS:
            fields = {k: v for k, v in fields.items() if not _is_of_classifiers(k)}
    elif any(path.parent.glob("checkpoints/*/*")):
        fields = train_fingerprint(config)
    else:
        return
    saved = _read_fields(path)
    growing = () if config.train.only_codes else _GROWING.get(stage, ())
    known = {k: saved.get(k) for k in fields}
    check_fingerprint(known, fields, str(path.parent), may_grow=growing)


def _kept_fields(path: pathlib.Path, stage: str) -> dict[str, Any]:
    """Returns the fields in config.json at `path` that a call of `stage` does not change."""
    if stage not in _NO_CLASSIFIERS or not _has_results(path.parent):
        return {}
    saved = _read_fields(path) if path.exists() else {}
    return {k: v for k, v in saved.items() if _is_of_classifiers(k)}


def _read_fields(path: pathlib.Path) -> readback.Fields:
    advice = "put the file back that was there, or use another --workdir"
    return readback.read_json(path, readback.Fields, advice)


def _has_results(workdir: pathlib.Path) -> bool:
    return any(workdir.glob("classifiers/*/result.json"))


def _is_of_classifiers(name: str) -> bool:
    return name.startswith(("classify.", "mixmatch."))


def has_saved(workdir: pathlib.Path) -> bool:
    """Whether there is a checkpoint, of cGLO, codes or classifiers, that a call can resume from."""
    places = (
        "checkpoints/seed-*/*",
        "codes/seed-*/*/*/*",
        "classifiers/*/checkpoints/*",
    )
    steps = itertools.chain.from_iterable(workdir.glob(place) for place in places)
    return any(path.name.isdecimal() for path in steps)


def set_aside(workdir: pathlib.Path) -> tuple[pathlib.Path, list[str]] | None:
    """Moves a run to <name>.old-1, or the next free number; files of others stay.

    Returns:
      (the new directory, the files that stayed), None if there was no run.

    Raises:
      UserError: it cannot be moved, another process runs in it, or it is not that of a run.
    """
    if not workdir.exists():
        return None
    ownership.check_claimable(workdir)
    if not ownership.is_claimed(workdir):  # empty
        return None
    if pathlib.Path.cwd().is_relative_to(workdir.resolve()):
        raise UserError(
            f"--fresh sets --workdir={workdir} aside, in which this command was started: start it "
            "elsewhere"
        )
    real = workdir.resolve()  # beside the target if it is a link
    names = (real.with_name(f"{real.name}.old-{i}") for i in itertools.count(1))
    old = next(path for path in names if not os.path.lexists(path))
    try:
        with lock.hold(workdir):
            return old, ownership.set_aside(workdir, old)
    except OSError as error:
        raise UserError(
            f"cannot set --workdir={workdir} aside as {old.name} ({storage.explain(error)}): use "
            "another --workdir"
        ) from None


@contextlib.contextmanager
def listing_skipped(workdir: pathlib.Path, *, fresh: bool = False) -> Iterator[None]:
    """Writes skipped.txt also if the images are refused meanwhile, as it lists the files to mend.

    Not into the directory of an active run, or of one that is to be set aside (`fresh`).

    Raises:
      UserError: the images are refused; it names skipped.txt.
    """
    try:
        yield
    except UnusableFiles as error:
        path = workdir / "skipped.txt"
        if fresh and workdir.exists():
            raise
        try:
            ownership.claim(workdir)
            with lock.hold(workdir):
                ownership.write_lines(workdir, path.name, error.skipped)
        except (OSError, UserError):  # the message names some of the files, at least
            raise error from None
        raise UserError(f"{error} (all: {path})") from None
