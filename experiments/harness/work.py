"""Doing the runs of a table: one cGLO for all runs that share it, one line per result."""

import contextlib
import fcntl
import functools
import pathlib
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cglo_jax.cglo.algorithm import total_steps
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.files import ownership, storage
from cglo_jax.stages import classify, train
from cglo_jax.training import checkpoints
from cglo_jax.workdir import directory as workdirs
from cglo_jax.workdir.results import read_result, result_path
from experiments.harness import machine, runs
from experiments.harness.runs import Run

_KEPT = ("top1", "top5", "n_test", "steps", "classifier_weights", "perceptual_weights")
_IMAGES = ("images", "test_images")  # digests: the same images, or others?


def group(missing: Sequence[Run]) -> list[list[Run]]:
    """Puts runs of one cGLO together, which one worker trains; other runs stay alone."""
    groups: dict[str, list[Run]] = {}
    for run in missing:
        groups.setdefault(run.cglo or run.digest, []).append(run)
    return list(groups.values())


def load(fields: Any) -> tuple[data.Dataset, data.Dataset]:
    """Reads the images of `config.dataset`, the newest of them once."""
    return _load(tuple(flatten(fields).items()))


@functools.lru_cache(
    maxsize=2
)  # a group's, and with another `transductive`; they can be large
def _load(fields: tuple[tuple[str, Any], ...]) -> tuple[data.Dataset, data.Dataset]:
    dataset = get_config().dataset
    dataset.update(dict(fields))
    return data.load(dataset)


@contextlib.contextmanager
def _quietly(directory: pathlib.Path) -> Iterator[None]:
    """Sends what is printed to directory/log.txt; other processes wait for this one there."""
    ownership.claim(directory)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((directory / "log.txt").open("a", encoding="utf-8"))
        fcntl.flock(log, fcntl.LOCK_EX)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        try:
            yield
        except Exception:
            traceback.print_exc(file=log)
            raise


def cglo_dir(run: Run, root: pathlib.Path) -> pathlib.Path:
    """Returns the work directory of a run's cGLO."""
    return root / f"cglo-{run.cglo[:12]}"


def run_dir(run: Run, root: pathlib.Path) -> pathlib.Path:
    """Returns the work directory of a run's classifier."""
    return root / run.digest[:12]


def train_cglo(run: Run, root: pathlib.Path) -> None:
    """Trains the cGLO of a run, or goes on with it."""
    directory = cglo_dir(run, root)
    with _quietly(directory):
        workdirs.create(run.config, directory)
        train.run(run.config, directory, load(run.config.dataset)[0], run.seed)


def run_one(run: Run, root: pathlib.Path, jobs: int) -> dict[str, Any]:
    """Trains and tests a classifier and returns its line, which is appended to RESULTS.

    Args:
      root: of all work directories; those of the run's cGLO are there already.
      jobs: processes beside each other, which the times depend on.
    """
    directory = run_dir(run, root)
    with _quietly(directory):
        if run.digest in (done := runs.finished()):  # by another process meanwhile
            return done[run.digest]
        link = directory / "checkpoints"
        if run.cglo and not link.is_symlink():
            name = pathlib.Path("..", cglo_dir(run, root).name, "checkpoints")
            link.symlink_to(name, target_is_directory=True)
        workdirs.create(run.config, directory)
        path = result_path(directory, run.method, run.seed)
        line = _describe(run)
        sets = load(run.config.dataset)
        began, fresh = time.perf_counter(), not path.parent.exists()
        classify.run(run.config, directory, sets, run.method, run.seed)
        seconds = time.perf_counter() - began
        line |= {"fresh": fresh, "wall_s": round(seconds, 1)}
        result = read_result(path)
        line |= {name: result[name] for name in _KEPT}
        line |= {name: result["fingerprint"][name] for name in _IMAGES}
        line |= _describe_cglo(run, root) if run.cglo else {}
        line |= {"jobs": jobs, "environment": result["environment"]}
        storage.append_record(runs.RESULTS, line)
        checkpoints.remove_all(path.parent / "checkpoints")
    return line


def _describe(run: Run) -> dict[str, Any]:
    """Returns what a line tells of a run before its result."""
    return {
        "version": runs.RESULTS_VERSION,
        "digest": run.digest,
        "table": run.table,
        "scale": run.choice.scale,
        "data": run.choice.data,
        "profile": run.choice.profile,
        "row": run.row,
        "column": run.column,
        "method": run.method,
        "seed": run.seed,
        "changes": runs.changes(run.config),
        "date": machine.today(),
        "platform": platform.platform(),
        "cores": machine.count_cores(),
    }


def _describe_cglo(run: Run, root: pathlib.Path) -> dict[str, Any]:
    """Returns steps and seconds of a cGLO; these are None if it was not trained in one go."""
    steps = total_steps(run.config, load(run.config.dataset)[0])
    timings = storage.read_records(cglo_dir(run, root) / "timings.jsonl")
    # None if it was killed after its last checkpoint, the last of several if it was resumed.
    whole = bool(timings) and timings[-1]["steps"] == steps
    return {
        "cglo": run.cglo,
        "train_steps": steps,
        "train_wall_s": timings[-1]["wall_s"] if whole else None,
    }


def run_groups(
    groups: Sequence[Sequence[Run]], root: pathlib.Path, jobs: int
) -> Iterator[str]:
    """Does all runs; yields a line for people after each, also after one that failed."""
    for members in groups:
        failure = ""
        if members[0].cglo:
            directory = cglo_dir(members[0], root)
            failure = _failure_of(directory, train_cglo, members[0], root)
        for run in members:
            began = time.perf_counter()
            directory = run_dir(run, root)
            error = failure or _failure_of(directory, run_one, run, root, jobs)
            if error:
                yield f"{run}: failed: {error}"
                continue
            top1 = runs.finished()[run.digest]["top1"]
            seconds = time.perf_counter() - began
            yield f"{run}: top-1 {top1:.2f} ({seconds:.0f} s)"


def _failure_of(directory: pathlib.Path, do: Callable, *arguments: Any) -> str:
    """Calls `do`; returns "" or one line of what went wrong, the rest is in the log."""
    try:
        do(*arguments)
    except UserError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the other runs go on
        first = (str(error).splitlines() or [""])[0]
        return f"{type(error).__name__}: {first} ({directory / 'log.txt'})"
    return ""
