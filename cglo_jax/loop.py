"""The loop that every trainer shares: step, log, save, resume, each period in sight."""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from cglo_jax import finite, interrupts, manifest, parallel, storage
from cglo_jax.checkpoints import Checkpoints
from cglo_jax.config import (
    check_fingerprint,
)
from cglo_jax.errors import UserError
from cglo_jax.progress import Progress


@dataclasses.dataclass(frozen=True)
class Job:
    """What one trainer gives to the loop.

    Attributes:
      create: factor of the learning rates -> (what takes steps, see `parallel.create_take_steps`,
        the state before step 0, replicated). A call donates its state.
      split_state, merge_state: state <-> (model, rest), the two items of a checkpoint.
      devices: that steps are taken on.
      checkpoint_dir, workdir: where checkpoints, and where metrics.jsonl and timings.jsonl go.
      meta: saved in a checkpoint, with the batch size and the rates' factor; the `fingerprint` dict
        and all other values but `notes`, which are for people, must be the same when resuming.
      tags: put into every line of metrics.jsonl and timings.jsonl; identify this run in them.
      total: steps in all.
      log_every, save_every: in steps; the last step is logged and saved in any case.
      rollbacks: how often to go back to the newest checkpoint, with lower learning rates, when a value
        is not finite; 0 = never.
      rollback_factor: what they are multiplied by then.
    """

    create: Callable[[float], tuple[parallel.TakeSteps, Any]]
    split_state: Callable[[Any], tuple[Any, Any]]
    merge_state: Callable[[Any, Any], Any]
    devices: Sequence[jax.Device]
    checkpoint_dir: pathlib.Path
    workdir: pathlib.Path
    meta: Mapping[str, Any]
    tags: Mapping[str, Any]
    total: int
    steps_per_epoch: int
    images_per_step: int
    log_every: int
    save_every: int
    rollbacks: int
    rollback_factor: float

    @property
    def name(self) -> str:
        """For people: "train seed 0"."""
        return " ".join(
            f"seed {v}" if k == "seed" else str(v) for k, v in self.tags.items()
        )

    @property
    def metrics(self) -> pathlib.Path:
        """The file that metrics are appended to."""
        return self.workdir / "metrics.jsonl"


def run_steps(job: Job) -> tuple[Any, float]:
    """Takes all steps of a job, from its newest checkpoint if there is one.

    After SIGINT or SIGTERM (`interrupts.install`) it saves the step it is at.

    Returns:
      (state after the last step, what the learning rates were multiplied by in the end).

    Raises:
      UserError: the checkpoints are of another run or damaged, or a metric or the state is not
        finite.
      interrupts.Interrupted: after such a signal.
    """
    rate = None
    for rollbacks in itertools.count():
        try:
            return _take_all(job, rate)
        except _Spoiled as error:
            rate = error.rate * job.rollback_factor
            text = f"{job.name}: {error}; nothing was saved since the last checkpoint"
            if rollbacks == job.rollbacks:
                raise UserError(
                    f"{text}: use lower learning rates, or --config.rollbacks=3 to go on from there "
                    "with lower ones"
                ) from None
            again = f"going on from there with learning rates times {rate:g}"
            print(f"{text}: {again}", file=sys.stderr, flush=True)


class _Spoiled(finite.NotFinite):
    """The same with the factor of the learning rates that it came with."""

    def __init__(self, why: finite.NotFinite, rate: float):
        super().__init__(str(why))
        self.rate = rate


def _take_all(job: Job, rate: float | None) -> tuple[Any, float]:
    """Takes the steps with learning rates times `rate`, by default as the checkpoint has them."""
    first = parallel.is_first_process()  # the one that writes
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(
                job.checkpoint_dir, devices=len(job.devices), read_only=not first
            )
        )
        start, saved_rate = _find_start(checkpoints, job)
        rate = rate or saved_rate
        take_steps, state = job.create(rate)
        if start:
            state = _restore(checkpoints, start, state, job)
        progress = stack.enter_context(
            contextlib.closing(
                Progress(
                    job.name, start, job.total, job.images_per_step, silent=not first
                )
            )
        )
        if first:
            _tell_start(progress, checkpoints, start, job)
            storage.drop_records(job.metrics, job.tags, after_step=start)
        scalars = stack.enter_context(_Scalars(job.workdir, job.tags, start, job.total))
        watch = finite.Watch()
        began, step, stop = time.perf_counter(), start, False
        while step < job.total and not stop:
            ends = (
                (step // job.log_every + 1) * job.log_every,
                (step // job.save_every + 1) * job.save_every,
            )
            most = min(*ends, job.total) - step
            state, metrics, taken = take_steps(state, step, most)
            step += taken
            watch.note(metrics, step)
            if step == start + taken:
                jax.block_until_ready(metrics)
                progress.first_steps(time.perf_counter() - began, taken)
                # Only from here on is there something to save.
                stack.enter_context(interrupts.deferred())
            save = step % job.save_every == 0 or step == job.total
            log = save or step % job.log_every == 0
            stop = _is_stopped(log)
            if log or stop:
                try:
                    watch.check(state, step)
                except finite.NotFinite as why:
                    raise _Spoiled(why, rate) from None
            if log:
                values = {k: float(v) for k, v in metrics.items()}
                epoch = round(step / job.steps_per_epoch, 4)
                line = {**job.tags, "step": step, "epoch": epoch, **values}
                if first:
                    storage.append_record(job.metrics, line)
                scalars.write(step, values)
                progress.update(step, values)
            if first and (save or stop):
                storage.sync(job.metrics)  # no checkpoint without the lines before it
                meta = {**_complete_meta(job), "rate": rate}
                checkpoints.save(step, *job.split_state(state), meta)
        checkpoints.wait()
        parallel.wait_for_all("saved")
        if first and start < step:
            timing = {**job.tags, **progress.timing(step)}
            storage.append_record(job.workdir / "timings.jsonl", timing)
        if stop:
            interrupts.raise_requested()
    return state, rate


class _Scalars(contextlib.AbstractContextManager):
    """Metrics for TensorBoard in workdir/tensorboard, if the extra `tensorboard` is installed."""

    def __init__(
        self, workdir: pathlib.Path, tags: Mapping[str, Any], start: int, total: int
    ):
        self._writer = None
        if start >= total or not parallel.is_first_process():
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


def _is_stopped(log: bool) -> bool:
    """Whether to stop after this step; several processes agree on it where they log."""
    requested = interrupts.requested()
    if jax.process_count() == 1:
        return requested
    return log and str(True) in parallel.tell_all("stop", str(requested))


def _complete_meta(job: Job) -> dict[str, Any]:
    # Fewer images than a batch make its size depend on the number of devices.
    return {**job.meta, "batch_size": job.images_per_step}


def _find_start(checkpoints: Checkpoints, job: Job) -> tuple[int, float]:
    """Returns the newest step saved, 0 without one, and the factor of the learning rates then.

    Raises:
      UserError: it is another run's.
    """
    if parallel.is_first_process():  # it puts damaged ones aside
        checkpoints.latest_step()
    parallel.wait_for_all("the checkpoint is found")
    step = checkpoints.latest_step()
    if len(set(parallel.tell_all(f"step of {job.name}", str(step)))) > 1:
        raise UserError(
            f"processes see other checkpoints in {checkpoints.directory}: all must see the same "
            "files"
        )
    if step is None:
        return 0, 1.0
    where, meta = str(checkpoints.directory), _complete_meta(job)
    saved = dict(checkpoints.meta(step))
    rate = saved["rate"]
    check_fingerprint(saved["fingerprint"], meta["fingerprint"], where)
    # Other images change much else; they are what people should hear of.
    for names in (
        ["images"],
        sorted((saved.keys() | meta.keys()) - {"fingerprint", "notes", "rate"}),
    ):
        check_fingerprint(
            {name: saved.get(name) for name in names},
            {name: meta.get(name) for name in names},
            where,
        )
    return step, rate


def _restore(checkpoints: Checkpoints, step: int, state: Any, job: Job) -> Any:
    """Returns the state of a step; `state` gives its structure."""
    like = job.split_state(jax.eval_shape(lambda: state))
    trees = checkpoints.restore(step, *like)
    return job.merge_state(*parallel.replicate(trees, job.devices))


def _tell_start(
    progress: Progress, checkpoints: Checkpoints, start: int, job: Job
) -> None:
    """Tells of a start that people may not expect."""
    if not start:
        lines = storage.read_records(job.metrics)
        if any(all(line.get(k) == v for k, v in job.tags.items()) for line in lines):
            progress.say("ended before its first checkpoint: starting anew")
        return
    now = manifest.describe_environment(len(job.devices))
    saved = checkpoints.environment(start)
    others = [
        f"{k} {saved.get(k)}, now {now[k]}" for k in now if saved.get(k) != now[k]
    ]
    if others and start < job.total:
        others = "; ".join(others)
        progress.say(
            f"step {start} was saved with {others}: the draws are the same, what is computed "
            "from them may round otherwise"
        )
