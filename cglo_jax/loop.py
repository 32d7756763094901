"""The loop that every trainer shares: step, log, save, resume, each period in sight."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cglo_jax import parallel
from cglo_jax.checkpoints import Checkpoints
from cglo_jax.config import (
    check_fingerprint,
    classify_fingerprint,
    flatten,
    train_fingerprint,
)
from cglo_jax.errors import UserError
from cglo_jax.progress import Progress


def run_steps(
    take_steps: parallel.TakeSteps,
    state: Any,
    *,
    split_state: Callable[[Any], tuple[Any, Any]],
    merge_state: Callable[[Any, Any], Any],
    devices: Sequence[jax.Device],
    checkpoint_dir: pathlib.Path,
    meta: Mapping[str, Any],
    workdir: pathlib.Path,
    tags: Mapping[str, Any],
    total: int,
    steps_per_epoch: int,
    images_per_step: int,
    log_every: int,
    save_every: int,
) -> Any:
    """Takes steps until `total`, from the newest checkpoint if there is one.

    Args:
      take_steps: see `parallel.create_take_steps`; donates its state.
      state: before step 0, replicated.
      split_state, merge_state: state <-> (model, rest), the two items of a checkpoint.
      meta: saved beside them, with the batch size; the `fingerprint` dict and all other
        values but `notes`, which are for people, must be the same when resuming.
      tags: put into every line of metrics.jsonl and timings.jsonl; identify this run in them.
      log_every, save_every: in steps; the last step is logged and saved in any case.

    Returns:
      The state after step `total`.

    Raises:
      UserError: the checkpoints are of another run, or a metric or the state is not finite.
    """
    # Fewer images than a batch make its size depend on the number of devices.
    meta = {**meta, "batch_size": images_per_step}
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(checkpoint_dir))
        start, state = _resume(
            checkpoints, state, split_state, merge_state, meta, devices
        )
        drop_records(workdir / "metrics.jsonl", tags, after_step=start)
        name = " ".join(str(v) if k != "seed" else f"seed {v}" for k, v in tags.items())
        progress = stack.enter_context(
            contextlib.closing(Progress(name, start, total, images_per_step))
        )
        scalars = stack.enter_context(_Scalars(workdir, tags, start, total))
        began, step = time.perf_counter(), start
        while step < total:
            ends = (
                (step // log_every + 1) * log_every,
                (step // save_every + 1) * save_every,
            )
            state, metrics, taken = take_steps(state, step, min(*ends, total) - step)
            step += taken
            if step == start + taken:
                jax.block_until_ready(metrics)
                progress.first_steps(time.perf_counter() - began, taken)
            save = step % save_every == 0 or step == total
            if save or step % log_every == 0:
                values = {k: float(v) for k, v in metrics.items()}
                _check_finite(values, step, name)
                epoch = round(step / steps_per_epoch, 4)
                line = {**tags, "step": step, "epoch": epoch, **values}
                append_record(workdir / "metrics.jsonl", line)
                scalars.write(step, values)
                progress.update(step, values)
            if save:
                # The metrics are of the state before this step's update.
                _check_finite({"the state": float(_largest(state))}, step, name)
                checkpoints.save(step, *split_state(state), meta)
    if start < total:
        timing = progress.timing()
        append_record(workdir / "timings.jsonl", {**tags, **timing})
    return state


class _Scalars(contextlib.AbstractContextManager):
    """Metrics for TensorBoard in workdir/tensorboard, if the extra `tensorboard` is installed."""

    def __init__(
        self, workdir: pathlib.Path, tags: Mapping[str, Any], start: int, total: int
    ):
        self._writer = None
        if start >= total:
            return
        with contextlib.suppress(ImportError):
            from tensorboardX import SummaryWriter

            name = "-".join(str(value) for value in tags.values())
            directory = str(workdir / "tensorboard" / name)
            # What a run that is resumed wrote past its checkpoint is written again.
            self._writer = SummaryWriter(directory, purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics after `step`."""
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name, value, step)

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()


def _resume(checkpoints, state, split_state, merge_state, meta, devices):
    """Returns (step, state) of the newest checkpoint, or (0, state) without one."""
    step = checkpoints.latest_step()
    if step is None:
        return 0, state
    where = str(checkpoints.directory)
    saved = checkpoints.meta(step)
    check_fingerprint(saved["fingerprint"], meta["fingerprint"], where)
    # Other images change much else; they are what people should hear of.
    for names in (
        ["images"],
        sorted((saved.keys() | meta.keys()) - {"fingerprint", "notes"}),
    ):
        check_fingerprint(
            {name: saved.get(name) for name in names},
            {name: meta.get(name) for name in names},
            where,
        )
    abstract = parallel.replicated_like(split_state(state), devices)
    return step, merge_state(*checkpoints.restore(step, *abstract))


def _check_finite(values: dict[str, float], step: int, name: str) -> None:
    """Raises UserError for the first value that is infinite or NaN."""
    for term, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name}: {term} is {value} at step {step}; nothing was saved since the "
                "last checkpoint: use lower learning rates"
            )


@jax.jit
def _largest(state: Any) -> jax.Array:
    """Returns the largest absolute value in a tree, infinite or NaN if one is."""
    leaves = jax.tree.leaves(state)
    return jnp.stack(
        [jnp.abs(a).max(initial=0).astype(jnp.float32) for a in leaves]
    ).max()


def check_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Checks what can be checked of a work directory before images are read.

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
        _check_config(config, workdir / "config.json")


def open_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Creates the work directory and writes config.json, the fields of the newest call.

    Raises:
      UserError: what is there was made with another configuration, or the directory cannot
        be written to.
    """
    check_workdir(config, workdir)
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(flatten(config), indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to --workdir={workdir}: {error.strerror}"
        ) from None


def _check_config(config: ConfigDict, path: pathlib.Path) -> None:
    """Checks that checkpoints and results beside config.json are of this configuration.

    Each of them is checked again, with its own record, when it is read; this refuses a call
    before it adds another configuration's runs to them.
    """
    if any(path.parent.glob("classifiers/*/result.json")):
        fields = classify_fingerprint(config)
    elif any(path.parent.glob("checkpoints/*/*")):
        fields = train_fingerprint(config)
    else:
        return
    try:
        saved = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return  # damaged; it is written anew
    check_fingerprint({k: saved.get(k) for k in fields}, fields, str(path.parent))


def append_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Appends one JSON line, in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads JSON lines; a last line that a killed process left half-written is left out.

    Raises:
      UserError: another line is damaged.
    """
    if not path.exists():
        return []
    records = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise UserError(
                f"{path} is damaged: remove its line {number} and run this again"
            ) from None
    return records


def drop_records(path: pathlib.Path, tags: Mapping[str, Any], after_step: int) -> None:
    """Removes the lines with these tags past a step, which are written again; all without one."""
    records = read_records(path)
    kept = [
        r
        for r in records
        if r.get("step", math.inf) <= after_step
        or any(r.get(k) != v for k, v in tags.items())
    ]
    if path.exists():
        write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept))


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
    """Writes a file of these lines, or removes it if there are none."""
    if lines:
        write_atomically(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or none: a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
