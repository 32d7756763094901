"""The training loop that all trainers share: takes steps, logs, saves and resumes."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.config.fingerprint import check_fingerprint, describe_longer, find_longer
from cglo_jax.errors import UserError
from cglo_jax.files import ownership
from cglo_jax.process import interrupts
from cglo_jax.training import (
    finite,
    logged,
    manifest,
    memory,
    parallel,
    wandb_run,
)
from cglo_jax.training.checkpoints import Checkpoints
from cglo_jax.training.run_log import RunLog


@dataclasses.dataclass(frozen=True)
class Job:
    """What one trainer gives to the loop.

    Attributes:
      init: returns the state before step 0, replicated; steps donate it.
      choose: factor of the learning rates -> a function from a step's number to (the compiled step,
        its batch [B, ...]), which is called once for each step, in order.
      shared: what steps read and never change, on the host.
      complete_shared: computes the arrays that `shared` has only shapes and types of, after it is
        known that they fit into memory.
      split_state, merge_state: state <-> (model, rest), the two items of a checkpoint.
      devices: the devices that compute the steps.
      checkpoint_dir, workdir: where checkpoints, and where metrics.jsonl and timings.jsonl go.
      meta: saved in a checkpoint, with the batch size and the learning rates' factor; the
        `fingerprint` dict and all other values but `notes`, which are for people, must be the same
        when resuming.
      tags: put into every line of metrics.jsonl and timings.jsonl; identify this run in them.
      section: name of the config section that has this trainer's `batch_size`.
      total: steps in all.
      log_every, save_every: in steps; the last step is logged and saved in any case.
      steps_per_call: number of steps that one call from Python takes, see
        `parallel.create_take_steps`.
      check_memory: whether to refuse what does not fit into the memory that is free.
      kinds: number of a step of each kind, whose memory is checked; (): the first that is taken.
      rollbacks: how often to go back to the newest checkpoint, with lower learning rates, when a value
        is not finite; 0 = never.
      rollback_factor: factor by which learning rates are multiplied then.
      compare_images: describes how the images of a checkpoint's `model` differ from the
        images of this call.
      draw: state that is saved -> pictures uint8 [H, W, 3] by name, for TensorBoard and W&B; called
        only where something shows them.
      print_done: whether to print a line at the end.
      wandb: the project of W&B that metrics and pictures go to.
      may_grow, cannot_grow: see `fingerprint.check_fingerprint`.
    """

    init: Callable[[], Any]
    choose: Callable[[float], parallel.Choose]
    shared: Any
    split_state: Callable[[Any], tuple[Any, Any]]
    merge_state: Callable[[Any, Any], Any]
    devices: Sequence[jax.Device]
    checkpoint_dir: pathlib.Path
    workdir: pathlib.Path
    meta: Mapping[str, Any]
    tags: Mapping[str, Any]
    section: str
    total: int
    steps_per_epoch: int
    images_per_step: int
    log_every: int
    save_every: int
    steps_per_call: int
    check_memory: bool
    rollbacks: int
    rollback_factor: float
    complete_shared: Callable[[Any], Any] = lambda shared: shared
    compare_images: Callable[[Any], str] | None = None
    draw: Callable[[Any], Mapping[str, np.ndarray]] | None = None
    kinds: Sequence[int] = ()
    print_done: bool = True
    wandb: wandb_run.Project = wandb_run.NO_PROJECT
    may_grow: Sequence[str] = ()
    cannot_grow: str = ""

    @property
    def name(self) -> str:
        """For people: "train seed 0"."""
        return " ".join(
            f"seed {v}" if k == "seed" else str(v) for k, v in self.tags.items()
        )


def settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the attributes of a `Job` that are the same for every trainer."""
    return {
        "steps_per_call": config.steps_per_call,
        "check_memory": config.check_memory,
        "rollbacks": config.rollbacks,
        "rollback_factor": config.rollback_factor,
        "wandb": wandb_run.Project.create(config),
    }


def run_steps(job: Job) -> tuple[Any, float]:
    """Takes all steps of a job, from its newest checkpoint if there is one.

    After SIGINT or SIGTERM (`interrupts.begin`) it saves the step it is at.

    Returns:
      (state after the last step, what the learning rates were multiplied by in the end).

    Raises:
      UserError: the checkpoints are of another run or damaged, or a metric or the state is not
        finite.
      interrupts.Interrupted: after SIGINT or SIGTERM.
    """
    lr_scale = None
    for rollbacks in itertools.count():
        try:
            return _take_all(job, lr_scale)
        except _NonFinite as error:
            if signum := _agree_to_stop():
                raise interrupts.Interrupted(signum) from None
            since = "since the last checkpoint" if error.saved else "yet"
            text = f"{job.name}: {error}; nothing was saved {since}"
            if rollbacks == job.rollbacks:
                raise UserError(f"{text}: {_hint(rollbacks, error)}") from None
            lr_scale = error.lr_scale * job.rollback_factor
            if parallel.is_first_process():
                again = "continuing from there" if error.saved else "starting over"
                again += f" with learning rates times {lr_scale:g}"
                print(f"{text}: {again}", file=sys.stderr, flush=True)


class _NonFinite(finite.NotFinite):
    """A value is not finite; with the learning rates' factor, and whether a step was saved."""

    def __init__(self, why: finite.NotFinite, lr_scale: float, saved: bool):
        super().__init__(str(why))
        self.lr_scale, self.saved = lr_scale, saved


def _hint(rollbacks: int, error: _NonFinite) -> str:
    if rollbacks:
        return (
            f"that was after {rollbacks} rollbacks, with learning rates times {error.lr_scale:g}: use "
            "much lower rates"
        )
    again = "continue from there" if error.saved else "start over"
    return (
        f"use lower learning rates, or --config.rollbacks=3 to {again} with lower ones"
    )


def _take_all(job: Job, lr_scale: float | None) -> tuple[Any, float]:
    """Takes the steps with learning rates times `lr_scale`, by default as the checkpoint has them."""
    first = parallel.is_first_process()  # the one that writes
    devices, lines = len(job.devices), None
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(job.checkpoint_dir, devices=devices, read_only=not first)
        )
        start, saved_scale = _find_start(checkpoints, job)
        if first:
            _report_start(checkpoints, start, job, again=lr_scale is not None)
            lines = stack.enter_context(ownership.Log(job.workdir, "metrics.jsonl"))
            lines.drop(job.tags, after_step=start)
        lr_scale = lr_scale or saved_scale
        take_steps, state = _create_take_steps(job, lr_scale), job.init()
        if start:
            state = _restore(checkpoints, start, state, job)
        log = stack.enter_context(RunLog(job, start, lines))
        watch, step, saved, stop = finite.Watch(), start, start, 0
        while step < job.total and not stop:
            state, metrics, taken = take_steps(state, step, _most(job, step))
            step += taken
            watch.note(metrics, step)
            log.tick(step, metrics)
            if step == start + taken:
                log.first_steps(metrics, taken)
                # Only from here on is there something to save.
                stack.enter_context(interrupts.deferred())
            save = step % job.save_every == 0 or step == job.total
            write = save or step % job.log_every == 0
            # Several processes agree where they wait for the devices anyway.
            if write or jax.process_count() == 1:
                stop = _agree_to_stop()
            if write or stop:
                try:
                    watch.check(state, step)
                except finite.NotFinite as why:
                    log.end(step)
                    raise _NonFinite(why, lr_scale, saved > 0) from None
            if write:
                log.write(step, metrics)
            if first and (save or stop):
                lines.sync()  # no checkpoint without the lines before it
                meta = {**_complete_meta(job), "rate": lr_scale}
                checkpoints.save(step, *job.split_state(state), meta)
            if save:
                saved = step
                log.draw(step, state)
        checkpoints.wait()
        if step == job.total:
            log.print_done()
        else:
            log.print_saved(step)
        log.end(step)
        parallel.barrier("saved")
        if stop := stop or _agree_to_stop():  # in the last save, too
            raise interrupts.Interrupted(stop)
    return state, lr_scale


def _most(job: Job, step: int) -> int:
    """Returns how many steps may be taken at once: to the next line, checkpoint or the end."""
    ends = ((step // every + 1) * every for every in (job.log_every, job.save_every))
    return min(*ends, job.total) - step


def _create_take_steps(job: Job, lr_scale: float) -> parallel.TakeSteps:
    choose = job.choose(lr_scale)

    def create_shared(
        step_fn: parallel.MappedStep, state: Any, batch: jax.Array, several: bool
    ) -> Any:
        def take(step: int) -> tuple[parallel.MappedStep, jax.Array]:
            kind, rows = choose(step)
            if several:
                rows = np.stack([rows] * batch.shape[1])
                return kind, parallel.shard_steps(rows, job.devices)
            return kind, parallel.shard(rows, job.devices)

        if job.check_memory:
            for kind, rows in map(take, job.kinds) if job.kinds else [(step_fn, batch)]:
                memory.check(
                    kind, state, job.shared, rows, section=job.section, several=several
                )
        return job.complete_shared(job.shared)

    return parallel.create_take_steps(
        choose, create_shared, job.devices, job.steps_per_call
    )


def _agree_to_stop() -> int:
    """Returns the signal after which to stop, 0 without one; any process may have got it."""
    heard = parallel.gather_strings("signal", str(interrupts.requested()))
    return max(map(int, heard))


def _complete_meta(job: Job) -> dict[str, Any]:
    # Fewer images than a batch make its size depend on the number of devices.
    return {**job.meta, "batch_size": job.images_per_step}


def _find_start(checkpoints: Checkpoints, job: Job) -> tuple[int, float]:
    """Returns the newest step saved, 0 without one, and the factor of the learning rates then.

    Raises:
      UserError: it is another run's.
    """
    step = _agree_on_step(checkpoints)
    if step is None:
        return 0, 1.0
    where, meta = str(checkpoints.directory), _complete_meta(job)
    saved = checkpoints.meta(step)
    if not saved.keys() >= {"fingerprint", "rate"}:
        raise UserError(
            f"{where}: step {step} was not saved by this program: use another --workdir"
        )
    grown = check_fingerprint(
        saved["fingerprint"],
        meta["fingerprint"],
        where,
        may_grow=job.may_grow,
        cannot_grow=job.cannot_grow,
    )
    # Other images change much else; the message should name them.
    if job.compare_images and saved.get("images") != meta["images"]:
        difference = job.compare_images(checkpoints.restore_model(step))
        raise UserError(
            f"{where} was made with other images than this call reads ({difference}): use another "
            "--workdir or the old images"
        )
    others = {"fingerprint", "notes", "rate", *(["total"] if grown else [])}
    for names in (["images"], sorted((saved.keys() | meta.keys()) - others)):
        check_fingerprint(
            {name: saved.get(name) for name in names},
            {name: meta.get(name) for name in names},
            where,
        )
    return step, saved["rate"]


def _agree_on_step(checkpoints: Checkpoints) -> int | None:
    """Returns the step that the first process found, which puts damaged checkpoints aside.

    Raises:
      UserError, in all processes: there are checkpoints, and all are damaged.
    """
    step, refusal = None, ""
    if parallel.is_first_process():
        try:
            step = checkpoints.latest_step()
        except UserError as error:
            refusal = str(error)
    found, refusal = json.loads(
        parallel.gather_strings("checkpoint", json.dumps([step, refusal]))[0]
    )
    if refusal:
        raise UserError(refusal)
    return found


def _restore(checkpoints: Checkpoints, step: int, state: Any, job: Job) -> Any:
    """Returns the state of a step; `state` gives its structure."""
    like = job.split_state(jax.eval_shape(lambda: state))
    trees = checkpoints.restore(step, *like)
    return job.merge_state(*parallel.replicate(trees, job.devices))


def _report_start(
    checkpoints: Checkpoints, start: int, job: Job, *, again: bool
) -> None:
    """Prints notes about how training starts or resumes; none if `again`, that is after a rollback."""
    if again:
        return
    text = ""
    if not start:
        if logged.last_values(job.workdir, job.tags):
            text = "ended before its first checkpoint: starting over"
    elif start < job.total:
        fingerprints = checkpoints.meta(start)["fingerprint"], job.meta["fingerprint"]
        for part in find_longer(*fingerprints):
            if part in job.may_grow[-1:]:  # what this job trains
                _warn(job, describe_longer(part, *fingerprints))
        now = manifest.describe_environment(len(job.devices))
        saved = checkpoints.environment(start)
        others = [
            f"{k} {saved.get(k, 'none')}, now {now.get(k, 'none')}"
            for k in now | saved
            if saved.get(k) != now.get(k)
        ]
        if others:
            text = (
                f"step {start} was saved with {'; '.join(others)}: random draws are the "
                "same, but results may differ by rounding"
            )
    if text:
        _warn(job, text)


def _warn(job: Job, text: str) -> None:
    print(f"{job.name}: {text}", file=sys.stderr, flush=True)
