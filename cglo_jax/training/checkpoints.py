"""Checkpoints: Orbax writes the arrays, a manifest with digests proves that they are whole.

A checkpoint is a folder named after its step. It is written under another name, synced, given its
manifest and renamed, so there is never half a checkpoint; when it is read every byte is verified. Its item
`model` is what sampling and inference need, `train` is the rest of the state.
"""

import concurrent.futures
import contextlib
import functools
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from cglo_jax.errors import UserError
from cglo_jax.files import ownership, readback, storage
from cglo_jax.process import setup
from cglo_jax.training import manifest, memory

T = TypeVar("T")

_KEPT = 2
_TRIES = 30  # to read checkpoints that a run removes meanwhile
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")  # a checkpoint's folder
# Suffixes of folders that are no checkpoints.
_SAVING, _DAMAGED, _REMOVED = ".saving", ".damaged", ".removed"
_OURS = re.compile(r"\d+(\.saving-\w+|\.damaged|\.removed)*")


class Removed(UserError):
    """A checkpoint was removed by its run while it was read: there is a newer one."""


class Checkpoints:
    """The checkpoints of one run in one directory, the two newest kept.

    A context manager: leaving it waits until all checkpoints are on disk. One object at a time may
    write to a directory (`lock.hold`); any number may read.

    Args:
      devices: number of devices that the run computes on, for the manifest.
      read_only: change nothing in the directory.
    """

    def __init__(
        self, directory: pathlib.Path, *, devices: int = 1, read_only: bool = False
    ):
        if setup.is_ours():
            # Orbax logs every file it opens, and errors that it also raises.
            logging.set_verbosity(logging.FATAL)
            _silence_late_writes()
        self.directory = directory.absolute()
        self._devices = devices
        self._read_only = read_only
        self._verified: dict[int, manifest.Manifest] = {}  # manifests by step
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._pending: concurrent.futures.Future | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def wait(self) -> None:
        """Returns when all checkpoints are on disk.

        Raises:
          UserError: the last one could not be written.
        """
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def _steps(self) -> list[int]:
        """Returns the steps of all checkpoints, also of damaged ones, the newest first."""
        names = [n for n in readback.list_names(self.directory) if _STEP.fullmatch(n)]
        steps = (int(n) for n in names if (self.directory / n).is_dir())
        return sorted(steps, reverse=True)

    def latest_step(self) -> int | None:
        """Returns the newest undamaged step, None if nothing was ever saved.

        Prints on standard error which newer checkpoints are damaged; unless `read_only` it renames them.

        Raises:
          UserError: there are checkpoints, and all are damaged.
        """
        self.wait()
        return _retry(self._find_latest)

    def _find_latest(self) -> int | None:
        damaged: dict[int, str] = {}
        for step in self._steps():
            try:
                self._verify(step)
            except manifest.Damaged as why:
                self._check_there(step)
                damaged[step] = str(why)
                continue
            self._put_aside(damaged, step)
            return step
        if damaged:
            reasons = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise UserError(
                f"no checkpoint in {self.directory} can be used ({reasons}): put an undamaged copy "
                "there, or move that folder away to start this part over (--fresh does so with "
                "the whole run)"
            )
        return None

    def _check_there(self, step: int) -> None:
        """Raises `Removed` if a step's folder is not there any more, whatever was read from it."""
        if not (self.directory / str(step)).is_dir():
            raise Removed(
                f"{self.directory / str(step)} was removed while it was read, by a run that goes "
                "on there: try again"
            )

    def _verify(self, step: int) -> manifest.Manifest:
        if step not in self._verified:
            self._verified[step] = manifest.verify(self.directory / str(step), step)
        return self._verified[step]

    def _put_aside(self, damaged: Mapping[int, str], used: int) -> None:
        """Prints which steps are damaged and, unless read_only, renames their folders."""
        for step, why in damaged.items():
            path = self.directory / str(step)
            text = f"{path} is damaged: {why}; using step {used}"
            if jax.process_index() == 0:
                print(f"warning: {text}", file=sys.stderr, flush=True)
            if not self._read_only and _is_checkpoint(path):
                aside = path.with_name(path.name + _DAMAGED)
                _remove(aside)
                while aside.exists():  # it holds somebody else's files
                    aside = aside.with_name(aside.name + _DAMAGED)
                storage.rename(path, aside)

    def save(self, step: int, model: Any, train: Any, meta: Mapping[str, Any]) -> None:
        """Saves two trees of arrays and a JSON object, as they are now.

        They are written while the caller continues; the caller may donate the arrays.

        Args:
          step: number of steps taken, the checkpoint's name.
          model, train: trees of arrays on devices or of NumPy.
          meta: other values needed to restore them, for example the configuration.

        Raises:
          UserError: the checkpoint before could not be written; older checkpoints are intact.
        """
        self.wait()
        # On CPU these are views, and memory that is viewed is not given to the next step.
        model, train = jax.device_get((model, train))
        self._pending = self._writer.submit(self._write, step, model, train, dict(meta))

    def _write(self, step: int, model: Any, train: Any, meta: dict[str, Any]) -> None:
        temporary = None
        try:
            storage.make_folder(self.directory)
            prefix = f"{step}{_SAVING}-"
            temporary = storage.make_temporary_folder(self.directory, prefix)
            with storage.opened_folder(temporary) as folder:
                for name, tree in (("model", model), ("train", train)):
                    _save_tree(folder / name, tree)
                storage.sync_tree(folder)
                environment = manifest.describe_environment(self._devices)
                manifest.write(folder, step, meta, environment)
            storage.rename(temporary, self.directory / str(step))
        except UserError:
            raise
        except Exception as error:
            # Raises if the directory is no longer this run's.
            storage.check_change(self.directory)
            if temporary:
                with contextlib.suppress(OSError, UserError):
                    _remove(temporary)
            raise UserError(
                f"cannot save step {step} to {self.directory}: {storage.explain(error)}; what was "
                "saved before is intact: mend that, and the same command continues from there"
            ) from error
        self._remove_old()

    def _remove_old(self) -> None:
        """Removes checkpoints that are too old or damaged, and folders that a killed process left."""
        names = [str(step) for step in self._steps()]
        kept = [n for n in names if (self.directory / n / manifest.NAME).exists()][
            :_KEPT
        ]
        for path in self.directory.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in kept:
                _remove(path)

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the JSON object saved with `step`."""
        return self._verify(step)["meta"]

    def environment(self, step: int) -> dict[str, Any]:
        """Returns `manifest.describe_environment` of the process that saved `step`."""
        return self._verify(step)["environment"]

    def restore(self, step: int, model: Any, train: Any) -> tuple[Any, Any]:
        """Returns the two trees that were saved at `step`, as NumPy arrays.

        Args:
          model, train: trees with the structure, shapes and dtypes that are expected.

        Raises:
          UserError: the checkpoint has another structure, other shapes or dtypes.
        """
        given = {"model": model, "train": train}
        trees = [self._load(step, name, tree) for name, tree in given.items()]
        return trees[0], trees[1]

    def restore_model(self, step: int) -> Any:
        """Returns only `model`, as NumPy arrays in nested dicts, on any machine."""
        return self._load(step, "model", None)

    def _load(self, step: int, name: str, like: Any) -> Any:
        path = self.directory / str(step) / name
        try:
            self._verify(step)
            # In another thread: Orbax leaks descriptors where an event loop runs.
            tree = self._writer.submit(_load_tree, path, like).result()
            if like is not None:
                jax.tree.map(_check_same, like, tree)
        except UserError:
            raise
        except Exception as error:
            self._check_there(step)
            raise UserError(
                f"{path} cannot be used ({storage.explain(error)}): use the version that saved it, "
                "or move that folder away"
            ) from error
        self._check_there(step)  # Orbax reads a missing piece of an array as zeros
        return tree


def remove_all(directory: pathlib.Path) -> None:
    """Removes all checkpoints in a directory, and the directory if nothing else is in it."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if _OURS.fullmatch(path.name):
            _remove(path)
    with contextlib.suppress(OSError):  # it holds something else
        directory.rmdir()


def _remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint, or its remains; does nothing if it holds a file of somebody else.

    It is renamed first: nobody sees half a checkpoint under its own name.
    """
    if folder.is_symlink() or not os.path.isdir(folder):
        return
    if folder.name.isdecimal() and not _is_checkpoint(folder):
        return
    if not _is_all_written(folder):
        return
    removed = folder
    if folder.suffix != _REMOVED:
        removed = folder.with_name(folder.name + _REMOVED)
        _remove(removed)  # left by an earlier, killed call
        storage.rename(folder, removed)
    written = [path for path in removed.rglob("*") if _is_written(removed, path)]
    storage.remove_files(removed, set(written).__contains__)


def _is_all_written(folder: pathlib.Path) -> bool:
    """Whether all files in a folder were written by this program as parts of a checkpoint."""
    files = [p for p in folder.rglob("*") if p.is_symlink() or not os.path.isdir(p)]
    return all(_is_written(folder, path) for path in files)


def _is_checkpoint(folder: pathlib.Path) -> bool:
    """Whether a folder is, or was, a checkpoint, not a folder that somebody gave a number as its name."""
    names = ("model", "train", manifest.NAME)
    return any(os.path.lexists(folder / name) for name in names)


def _is_written(folder: pathlib.Path, path: pathlib.Path) -> bool:
    """Whether a file in a checkpoint was written by this program."""
    return ownership.is_of_checkpoint(folder, path.relative_to(folder).as_posix())


def _handler() -> ocp.PyTreeCheckpointHandler:
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)


def _save_tree(path: pathlib.Path, tree: Any) -> None:
    path.mkdir()
    with contextlib.closing(_handler()) as handler:
        handler.save(path, args=ocp.args.PyTreeSave(tree))
        handler.finalize(path)


@functools.cache
def _silence_late_writes() -> None:
    """Drops what Python prints about Orbax's writes that end after another write failed.

    Nothing waits for these any more. They may end at any time, so the hook stays.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _load_tree(path: pathlib.Path, like: Any) -> Any:
    with contextlib.closing(_handler()) as handler:
        claimed = handler.metadata(path).tree
        _check_size(path, claimed)
        tree = claimed if like is None else like
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(tree, restore_args=numpy)
        return handler.restore(path, args=args)


def _check_size(path: pathlib.Path, claimed: Any) -> None:
    """Refuses arrays that do not fit into memory, before any is read."""
    leaves = jax.tree.leaves(claimed)
    needed = sum(math.prod(a.shape) * a.dtype.itemsize for a in leaves)
    free = memory.free_on_host()
    if free is not None and needed > free:
        raise UserError(
            f"the arrays of {path} take {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free: free some"
        )


def _check_same(expected: Any, found: np.ndarray) -> None:
    one, other = (f"{a.dtype}{list(a.shape)}" for a in (expected, found))
    if one != other:
        raise ValueError(f"an array is {other} instead of {one}")


def fits(tree: Any, outline: Any) -> bool:
    """Whether a tree has the structure of `outline`, and arrays of its shapes and dtypes."""
    if jax.tree.structure(tree) != jax.tree.structure(outline):
        return False
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(outline), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)


def restore_latest_model(
    directory: pathlib.Path, hint: str
) -> tuple[Any, dict[str, Any], int]:
    """Returns (model, meta, step) of the newest undamaged checkpoint in `directory`.

    Raises:
      UserError: there is no checkpoint; `hint`, the end of the message, is what to do.
    """
    found = restore_latest(directory)
    if found is None:
        raise UserError(f"no checkpoint in {directory}: {hint}")
    return found


def restore_latest(
    directory: pathlib.Path,
    wanted: Callable[[dict[str, Any], int], bool] = lambda *_: True,
) -> tuple[Any, dict[str, Any], int] | None:
    """Returns (model, meta, step) of the newest undamaged checkpoint, None if there is none.

    A run may save and remove checkpoints meanwhile.

    Args:
      wanted: (meta, step) -> whether to read the model; if not, None is returned.

    Raises:
      UserError: all are damaged.
    """

    def restore() -> tuple[Any, dict[str, Any], int] | None:
        with Checkpoints(directory, read_only=True) as checkpoints:
            step = checkpoints.latest_step()
            if step is None or not wanted(checkpoints.meta(step), step):
                return None
            return checkpoints.restore_model(step), checkpoints.meta(step), step

    return _retry(restore)


def _retry(read: Callable[[], T]) -> T:
    """Returns what `read` returns; calls it again if the checkpoint was removed meanwhile."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(Removed):
            return read()
    return read()
