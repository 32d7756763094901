"""What a trainer's loop tells: metrics.jsonl, TensorBoard, progress for people, timings.jsonl."""

import contextlib
import functools
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from cglo_jax import parallel, storage
from cglo_jax.progress import Progress

if TYPE_CHECKING:
    from cglo_jax.loop import Job


class RunLog(contextlib.AbstractContextManager):
    """Tells of the steps of a job from `start` on; of several processes the first one does.

    A context manager: leaving it writes what is still in memory.
    """

    def __init__(self, job: "Job", start: int):
        first = parallel.is_first_process()
        self._job, self._start, self._first = job, start, first
        self._progress = Progress(
            job.name, start, job.total, job.images_per_step, silent=not first
        )
        self._scalars = _Scalars(job.workdir, job.tags, start, job.total)
        self._began = time.perf_counter()

    def first_steps(self, metrics: Mapping[str, jax.Array], taken: int) -> None:
        """Tells how long the first call took, in which programs are compiled."""
        jax.block_until_ready(metrics)
        self._progress.first_steps(time.perf_counter() - self._began, taken)

    def write(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Writes the metrics after `step`."""
        values = {k: float(v) for k, v in metrics.items()}
        epoch = round(step / self._job.steps_per_epoch, 4)
        line = {**self._job.tags, "step": step, "epoch": epoch, **values}
        if self._first:
            storage.append_record(self._job.metrics, line)
        self._scalars.write(step, values)
        self._progress.update(step, values)

    def tell_saved(self, step: int) -> None:
        """Tells that the run was saved before its end."""
        self._progress.tell(f"saved step {step} of {self._job.total}")

    def end(self, step: int) -> None:
        """Writes how long the steps until `step` took."""
        if self._first and self._start < step:
            timing = {**self._job.tags, **self._progress.timing(step)}
            storage.append_record(self._job.workdir / "timings.jsonl", timing)

    def __exit__(self, *_: object) -> None:
        self._scalars.close()
        self._progress.close()


def _tell_of(otherwise: Callable[[Any], object], failed: Any) -> None:
    """Tells in a line of a file that a thread could not write, `otherwise` of other errors."""
    if isinstance(failed.exc_value, OSError):
        text = f"warning: a file for TensorBoard: {storage.explain(failed.exc_value)}"
        print(text, file=sys.stderr, flush=True)
    else:
        otherwise(failed)


class _Scalars:
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
            # It writes in a thread, whose errors Python shows with a traceback.
            self._hook = threading.excepthook
            threading.excepthook = functools.partial(_tell_of, self._hook)
            # What a run that is resumed wrote past its checkpoint is written again.
            self._writer = SummaryWriter(directory, purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics after `step`."""
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._writer:
            self._writer.close()
            threading.excepthook = self._hook
