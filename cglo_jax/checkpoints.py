"""Checkpoints: thin over Orbax. Item `model` is what sampling or inference needs, `train` the rest."""

import pathlib
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cglo_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one run in one directory, the two newest kept.

    A context manager: leaving it waits until what was saved is on disk. A save counts only when
    complete; what a killed process left half-written is ignored and cleaned up.
    """

    def __init__(self, directory: pathlib.Path, *, read_only: bool = False):
        # Orbax logs every file it opens, and the traceback of a Ctrl-C while it waits; what
        # goes wrong is raised as well.
        logging.set_verbosity(logging.FATAL)
        registry = ocp.handlers.create_default_handler_registry(
            model=ocp.PyTreeCheckpointHandler(),
            train=ocp.PyTreeCheckpointHandler(),
            meta=ocp.JsonCheckpointHandler(),
        )
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(2),
                cleanup_tmp_directories=True,
            )
        self.directory = directory.absolute()
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, handler_registry=registry
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the newest complete step, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, model: Any, train: Any, meta: Mapping[str, Any]) -> None:
        """Saves two trees of arrays and a JSON object; the arrays are copied before it returns."""
        items = ocp.args.Composite(
            model=ocp.args.PyTreeSave(model),
            train=ocp.args.PyTreeSave(train),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        self._manager.save(step, args=items)

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the JSON object saved with `step`."""
        return self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta

    def restore(self, step: int, model: Any, train: Any) -> tuple[Any, Any]:
        """Returns the two trees; the arguments give their structure, shapes and placement now."""

        def item(abstract: Any) -> ocp.args.PyTreeRestore:
            return ocp.args.PyTreeRestore(
                abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            )

        restored = self._manager.restore(
            step, args=ocp.args.Composite(model=item(model), train=item(train))
        )
        return restored.model, restored.train

    def restore_model(self, step: int) -> Any:
        """Returns only `model`, as NumPy arrays in nested dicts, on any machine."""
        tree = self._manager.item_metadata(step)["model"].tree
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
        )
        item = ocp.args.PyTreeRestore(tree, restore_args=as_numpy)
        return self._manager.restore(step, args=ocp.args.Composite(model=item)).model


def restore_latest_model(
    directory: pathlib.Path, hint: str
) -> tuple[Any, dict[str, Any], int]:
    """Returns (model, meta, step) of the newest checkpoint in `directory`.

    Raises:
      UserError: there is none; `hint` says what makes one.
    """
    if not directory.is_dir():
        raise UserError(f"no checkpoint in {directory}: {hint}")
    with Checkpoints(directory, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise UserError(f"no complete checkpoint in {directory}: {hint}")
        return checkpoints.restore_model(step), checkpoints.meta(step), step
