"""The work directory of a run: whose it is, and how it is set aside for a fresh start."""

import contextlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from cglo_jax import lock, storage
from cglo_jax.config import flatten, get_config
from cglo_jax.errors import UnusableFiles, UserError
from cglo_jax.fingerprints import (
    check_fingerprint,
    classify_fingerprint,
    train_fingerprint,
)

_NO_CLASSIFIERS = ("train", "sample")  # stages that read nothing of them
# Stages that make longer what was trained for fewer epochs.
_GROWING = {
    "all": ("train", "classify"),
    "train": ("train",),
    "classify": ("classify",),
}


def check(config: ConfigDict, workdir: pathlib.Path, stage: str = "all") -> None:
    """Checks what can be checked of a work directory before images are read.

    Args:
      stage: of the call; what it does not read may differ.

    Raises:
      UserError: it lies among the images, or what is there was made with another configuration.
    """
    images = config.dataset.path and pathlib.Path(
        os.path.expanduser(config.dataset.path)
    )
    if images and workdir.resolve().is_relative_to(images.resolve()):
        raise UserError(
            f"--workdir={workdir} lies in config.dataset.path={images}, whose folders are "
            "classes: choose another one"
        )
    if os.path.exists(workdir / "config.json"):
        _check_config(config, workdir / "config.json", stage)


@contextlib.contextmanager
def hold(
    config: ConfigDict, workdir: pathlib.Path, stage: str = "all"
) -> Iterator[None]:
    """Creates the work directory, and lets nobody else run in it meanwhile; see `create`."""
    _make(workdir)
    with lock.hold(workdir):
        create(config, workdir, stage)
        yield


def create(config: ConfigDict, workdir: pathlib.Path, stage: str = "all") -> None:
    """Creates the work directory and writes config.json, the fields of the newest call.

    Where there are results, fields of classifiers stay theirs if `stage` does not read them.

    Raises:
      UserError: what is there was made with another configuration, or the directory cannot
        be written to.
    """
    check(config, workdir, stage)
    path = workdir / "config.json"
    _make(workdir)
    try:
        fields = flatten(config) | _kept(path, stage)
        storage.write_atomically(path, json.dumps(fields, indent=1) + "\n")
    except OSError as error:
        raise _refuse(workdir, error) from None


def _make(workdir: pathlib.Path) -> None:
    try:
        storage.make_folder(workdir.absolute())
    except OSError as error:
        raise _refuse(workdir, error) from None


def _refuse(workdir: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to --workdir={workdir} ({error.strerror}): use another"
    )


def _check_config(config: ConfigDict, path: pathlib.Path, stage: str) -> None:
    """Checks that checkpoints and results beside config.json are of this configuration.

    Each of them is checked again, with its own record, when it is read; this refuses a call
    before it adds another configuration's runs to them.
    """
    if _has_results(path.parent):
        fields = classify_fingerprint(config)
        if stage in _NO_CLASSIFIERS:
            fields = {k: v for k, v in fields.items() if not _is_of_classifiers(k)}
    elif any(path.parent.glob("checkpoints/*/*")):
        fields = train_fingerprint(config)
    else:
        return
    saved = _read(path)
    if saved is not None:
        growing = () if config.train.only_codes else _GROWING.get(stage, ())
        known = {k: saved.get(k) for k in fields}
        check_fingerprint(known, fields, str(path.parent), may_grow=growing)


def _kept(path: pathlib.Path, stage: str) -> dict[str, Any]:
    """The fields in config.json at `path` that a call of `stage` leaves as they are."""
    if stage not in _NO_CLASSIFIERS or not _has_results(path.parent):
        return {}
    saved = (_read(path) if path.exists() else None) or {}
    names = flatten(get_config())
    return {k: v for k, v in saved.items() if _is_of_classifiers(k) and k in names}


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """The fields in config.json; None if it is damaged: then it is written anew."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None


def _has_results(workdir: pathlib.Path) -> bool:
    return any(workdir.glob("classifiers/*/result.json"))


def _is_of_classifiers(name: str) -> bool:
    return name.startswith(("classify.", "mixmatch."))


def has_saved(workdir: pathlib.Path) -> bool:
    """Whether there is a checkpoint, of whatever is trained, that a call can go on from."""
    places = (
        "checkpoints/seed-*/*",
        "codes/seed-*/*/*/*",
        "classifiers/*/checkpoints/*",
    )
    steps = itertools.chain.from_iterable(workdir.glob(place) for place in places)
    return any(path.name.isdecimal() for path in steps)


def set_aside(workdir: pathlib.Path) -> pathlib.Path | None:
    """Renames a work directory to <name>.old-1, or the next number; None if there is none.

    Raises:
      UserError: it cannot be renamed, or another process runs in it.
    """
    if not workdir.exists():
        return None
    workdir = workdir.resolve()  # not a link to it
    if pathlib.Path.cwd().is_relative_to(workdir):
        raise UserError(
            f"--fresh sets --workdir={workdir} aside, in which this command was started: start it "
            "elsewhere"
        )
    names = (workdir.with_name(f"{workdir.name}.old-{i}") for i in itertools.count(1))
    old = next(path for path in names if not path.exists())
    try:
        with lock.hold(workdir):
            storage.rename(workdir, old)
    except OSError as error:
        raise UserError(
            f"cannot set --workdir={workdir} aside as {old.name} ({storage.explain(error)}): use "
            "another --workdir"
        ) from None
    return old


@contextlib.contextmanager
def listing_skipped(workdir: pathlib.Path) -> Iterator[None]:
    """Lists the skipped files in skipped.txt also if the images are refused meanwhile."""
    try:
        yield
    except UnusableFiles as error:
        path = workdir / "skipped.txt"
        with contextlib.suppress(OSError):  # the line names some of them, at least
            storage.make_folder(workdir.absolute())
            storage.write_lines(path, error.skipped)
            raise UserError(f"{error} (all: {path})") from None
        raise
