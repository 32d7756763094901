"""The logs of training: metrics.jsonl, timings.jsonl, TensorBoard, W&B and progress on standard error.

metrics.jsonl has a line, a JSON object, for every `log_every_steps` steps and every step saved. Its
values are of that step's batch, before its update.

    field            unit    stages                  meaning
    stage            text    train, codes, classify  codes: of images added since (only_codes)
    method           text    classify                of config.classify.methods
    seed             -       train, codes, classify  of config.seeds
    step             steps   train, codes, classify  taken so far, from 1
    epoch            epochs  train, codes, classify  step / steps per epoch
    loss             -       train, codes, classify  what the step lowers
    reconstruction   -       train, codes            L_rec, see config.reconstruction
    cross_entropy    nats    train, codes            of the weak classifier, of labelled images
    cosine_loss      -       train, codes            instead, if weak_classifier.loss is cosine
    weak_accuracy    %       train, codes            of the weak classifier, of labelled images
    train_accuracy   %       classify                of the images as they were augmented
    labelled_loss    nats    classify                of the method mixmatch
    unlabelled_loss  -       classify                of mixmatch, before its weight

timings.jsonl has a line for each call that took steps (and each rollback in it), or sampled.

    field            unit    stages                          meaning
    stage            text    train, codes, classify, sample
    method           text    classify
    seed             -       train, codes, classify, sample
    wall_s           s       train, codes, classify, sample  until the last step is saved
    compile_s        s       train, codes, classify          part of wall_s until the first steps are taken
    steps            steps   train, codes, classify          that this call took
    images_per_s     1/s     train, codes, classify          trained on, after the first steps
    images           images  sample                          written
"""

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import jax

from cglo_jax.files import ownership, storage
from cglo_jax.training import parallel
from cglo_jax.training.progress import Progress
from cglo_jax.training.tensorboard import TensorBoard
from cglo_jax.training.wandb_run import WandbRun

if TYPE_CHECKING:
    from cglo_jax.training.loop import Job


class RunLog(contextlib.AbstractContextManager):
    """Logs the steps of a job from `start` on; of several processes only the first logs.

    A context manager: leaving it writes what is still in memory.

    Args:
      job: the training job, see `loop.Job`.
      start: number of steps taken before.
      lines: metrics.jsonl; None in all processes but the first.
    """

    def __init__(self, job: "Job", start: int, lines: ownership.Log | None):
        self._lines = lines
        first = parallel.is_first_process()
        self._job, self._start, self._first = job, start, first
        self._progress = Progress(
            job.name, start, job.total, job.images_per_step, silent=not first
        )
        self._trackers: list[TensorBoard | WandbRun] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._progress.close)
            if self._first and self._start < self._job.total:
                self._open_trackers(stack)
            self._open = stack.pop_all()
        parallel.barrier("logs are open")  # others wait here, not in a step
        self._draw = self._job.draw if self._trackers else None
        self._progress.begin()
        return self

    def _open_trackers(self, stack: contextlib.ExitStack) -> None:
        job = self._job
        name = "-".join(str(value) for value in job.tags.values())
        if board := TensorBoard.open(job.workdir, name, self._start):
            stack.callback(board.close)
            self._trackers.append(board)
        if run := WandbRun.open(job.wandb, job.workdir, job.tags):
            stack.callback(run.close)
            self._trackers.append(run)
            self._progress.print(f"W&B: {run.place}")

    def first_steps(self, metrics: Mapping[str, jax.Array], taken: int) -> None:
        """Prints how long the first call took, in which programs are compiled.

        Args:
          metrics: the metrics that the call returned, arrays float [] on devices; waits for them.
          taken: number of steps of the call.
        """
        jax.block_until_ready(metrics)
        self._progress.first_steps(taken)

    def tick(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Shows progress after a call that returned `metrics`, float [] each; waits for no device."""
        self._progress.tick(step, metrics)

    def write(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Logs the metrics, float [] each, after `step`; waits for the devices."""
        values = {k: float(v) for k, v in metrics.items()}
        epoch = round(step / self._job.steps_per_epoch, 4)
        line = {**self._job.tags, "step": step, "epoch": epoch, **values}
        if self._lines:
            self._lines.append(line)
        for tracker in self._trackers:
            tracker.write_scalars(step, values)
        self._progress.update(step, values)

    def draw(self, step: int, state: Any) -> None:
        """Logs pictures of the state after `step`, if TensorBoard or W&B shows them."""
        if self._draw:
            self._write_pictures(step, state)
        parallel.barrier("pictures are drawn")  # all processes

    def _write_pictures(self, step: int, state: Any) -> None:
        try:
            pictures = self._draw(state)
        except (
            jax.errors.JaxRuntimeError,
            OSError,
            ValueError,
        ) as error:  # of memory, a font
            text = f"warning: {self._job.name}: no pictures: {storage.explain(error)}"
            print(text, file=sys.stderr, flush=True)
            self._draw = None
            return
        for tracker in self._trackers:
            tracker.write_pictures(step, pictures)

    def print_saved(self, step: int) -> None:
        """Prints that the run was saved before its end."""
        self._progress.close()
        self._progress.print(f"saved step {step:,} of {self._job.total:,}")

    def print_done(self) -> None:
        """Prints that the last step was taken and saved, if this call took it."""
        if self._start < self._job.total and self._job.print_done:
            self._progress.print_done()

    def end(self, step: int) -> None:
        """Adds to timings.jsonl how long the steps until `step` took."""
        if self._first and self._start < step:
            timing = {**self._job.tags, **self._progress.timing(step)}
            with ownership.Log(self._job.workdir, "timings.jsonl") as timings:
                timings.append(timing)

    def __exit__(self, *_: object) -> None:
        self._open.close()
