"""Trains cGLO, samples from it, classifies with and without it, reports whether it helped.

python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits --stage=all
"""

import contextlib
import pathlib
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from cglo_jax.cli import launch
from cglo_jax.errors import UserError, printable
from cglo_jax.files import storage
from cglo_jax.process import interrupts, log_file, numerics, platforms, streams

if TYPE_CHECKING:
    from cglo_jax.cli.flags import Command
    from cglo_jax.data.dataset import Dataset

_NO_CGLO = (
    "no method of config.classify.methods uses cGLO: it is trained for the images and figures of "
    "--stage=sample only (--stage=classify leaves it out)"
)
_BUSY = (
    "error: another call of run() is at work in this process: wait until it has ended, or start this "
    "one in a process of its own (python -m cglo_jax.main)"
)
_at_work = threading.Lock()  # held by a call of `run`


def main(command: "Command") -> None:
    """Runs the stages that the command asks for."""
    launch.start(command.launch)
    platforms.start()
    with numerics.ours():
        _main(command)


def _main(command: "Command") -> None:
    from cglo_jax.classifier import methods
    from cglo_jax.data import dataset
    from cglo_jax.files import ownership
    from cglo_jax.stages import classify, train
    from cglo_jax.training import parallel, wandb_run
    from cglo_jax.workdir import directory as workdirs

    parallel.begin_run()
    config, workdir, stage, fresh, _ = command
    launch.check_equal("flags", f"{config.to_json()} {stage} {fresh}")
    methods.check_names(config.classify.methods)
    first = parallel.is_first_process()
    if first:  # before anything is read
        workdirs.check_place(config, workdir, stage, fresh=fresh)
        if note := platforms.note():
            print(f"note: {note}", file=sys.stderr, flush=True)
    if config.report.compare and stage != "report":
        raise UserError(
            "config.report.compare is for --stage=report only: leave it out"
        )
    if stage in ("report", "export"):
        if first:
            _use_what_is_there(command)
        return
    if first and stage != "sample":
        wandb_run.check(config)
    if stage != "sample":
        parallel.choose_devices(config.devices)
    if not fresh:
        workdirs.check(config, workdir, stage)
    with workdirs.listing_skipped(workdir, fresh=fresh):
        train_set, test_set = datasets = dataset.load(config.dataset)
    if stage in ("all", "classify"):
        classify.check_longer(config, workdir)
        methods.check_side(config.classify, train_set.images.shape[1])
    launch.check_equal("images", f"{train_set.digest} {test_set.digest}")
    print(dataset.describe(*datasets), flush=True)
    if stage == "all" and not methods.need_cglo(config.classify.methods):
        print(_NO_CGLO, flush=True)
    if command.launch:
        print(launch.describe(), flush=True)
    loaders = {"train": train.load_weights, "classify": classify.load_body}
    for name, load in loaders.items():  # they fail before anything is written
        if stage in ("all", name) and (origin := load(config)[1]).external:
            print(f"{name} uses {origin.text}", flush=True)
    interrupts.begin()
    with contextlib.ExitStack() as stack:
        if first:
            if fresh and (aside := workdirs.set_aside(workdir)):
                print(_describe_aside(workdir, *aside), flush=True)
            stack.enter_context(workdirs.hold(config, workdir, stage))
            stack.enter_context(ownership.Log(workdir, log_file.NAME))
            log_file.keep(workdir)
            ownership.write_lines(workdir, "skipped.txt", train_set.skipped)
        launch.check_workdir(workdir)
        _run_stages(command, datasets)


def _describe_aside(workdir: pathlib.Path, old: pathlib.Path, stayed: list[str]) -> str:
    """Says where a run was moved to by --fresh."""
    text = f"the run that was in {workdir} is in {old} now"
    if not stayed:
        return text
    more = ", ..." if len(stayed) > 3 else ""
    named = ", ".join(map(printable, stayed[:3]))
    return f"{text}; what this program did not write stayed ({named}{more})"


def _use_what_is_there(command: "Command") -> None:
    """Runs a stage that reads no images."""
    from cglo_jax.stages import classify, export, report

    config, workdir, stage, *_ = command
    if stage == "export":
        if old := classify.find_old(config, workdir):
            print(
                f"note: {', '.join(old)}: of the cGLO before it was made longer; --stage=classify "
                "trains them anew",
                file=sys.stderr,
                flush=True,
            )
        print(f"exported: {export.run(config, workdir)}", flush=True)
    else:
        report.run(config, workdir)


def _run_stages(command: "Command", datasets: "tuple[Dataset, Dataset]") -> None:
    from cglo_jax.stages import classify, fit_codes, report, sample, train
    from cglo_jax.training import parallel

    config, workdir, stage, *_ = command
    train_set, _ = datasets
    first = parallel.is_first_process()
    if stage in ("all", "train"):
        for seed in config.seeds:
            if config.train.only_codes:
                fit_codes.run(config, workdir, datasets, seed)
            else:
                train.run(config, workdir, train_set, seed)
    if stage == "train" and first and (old := classify.find_old(config, workdir)):
        print(
            f"of the cGLO before it was made longer are the samples and {', '.join(old)}: "
            "--stage=all makes them anew (and --stage=export the exports)",
            flush=True,
        )
    if stage in ("all", "sample") and first:
        directory = sample.run(config, workdir, datasets, config.seeds[0])
        print(f"images and figures: {directory}", flush=True)
    parallel.wait_for_all("samples")
    if stage in ("all", "classify"):
        classify.check_cglo(config, workdir, datasets)
        for seed in config.seeds:
            for method in config.classify.methods:
                classify.run(config, workdir, datasets, method, seed)
    if stage == "all" and first:
        report.run(config, workdir)


def program() -> NoReturn:
    """Entry point of a process of its own; see `run`."""
    streams.mend()  # first of all: it may start without standard streams
    interrupts.install(leaving=launch.dismiss)
    from cglo_jax.process import setup

    setup.start()
    launch.leave(_run(sys.argv))


def run() -> NoReturn:
    """Runs the command line in `sys.argv`: one line and a status for what can go wrong.

    For notebooks, threads and other programs: it can be called again, sets no signal handlers that
    stay, and never ends the process. One call at a time; several processes are for `program`.

    Raises:
      SystemExit: with 0; 2 for a user's error or a file that cannot be written; 3 if another process
        of the run ended (see `distributed`); 129 if the terminal was closed, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    if not _at_work.acquire(blocking=False):
        sys.exit(_tell(_BUSY, 2))
    try:
        with streams.mended(), interrupts.borrowed():
            from absl import logging

            from cglo_jax.process import setup

            verbosity = logging.get_verbosity()
            try:
                setup.prepare()
                status = _run(sys.argv, borrowed=True)
            finally:
                logging.set_verbosity(verbosity)
    finally:
        _at_work.release()
    sys.exit(status)


def _run(argv: list[str], *, borrowed: bool = False) -> int:
    """Returns the exit status; `borrowed`: the process is not ours."""
    command = None
    with log_file.recording():
        try:
            from cglo_jax.cli import flags  # slow to import

            command = flags.parse(argv)
            if borrowed and command.launch:
                raise UserError(
                    "--coordinator is for processes of their own (python -m cglo_jax.main), not for "
                    "a call of run()"
                )
            main(command)
            return 0
        except UserError as error:
            return _tell(f"error: {printable(error)}", 2)
        except interrupts.Interrupted as signal:
            return _tell(f"\ninterrupted: {_advise(command)}", signal.status)
        except OSError as error:
            if error.errno:
                text = f"error: {printable(storage.explain(error))}; mend that, and "
                return _tell(text + _advise(command), 2)
            return launch.status_of(error)
        except Warning as error:
            from cglo_jax.cli.explain import explain_warning

            return _tell(f"error: {printable(explain_warning(error))}", 2)
        except Exception as error:  # noqa: BLE001 - is raised again, or all of it is shown
            if text := platforms.explain_memory(error):
                return _tell(f"error: {printable(text)}; {_advise(command)}", 2)
            # Others make errors of their own of a signal.
            if signum := interrupts.requested():
                return _tell(f"\ninterrupted: {_advise(command)}", 128 + signum)
            return launch.status_of(error)


def _advise(command: "Command | None") -> str:
    if command is None:
        return "run the same command again"
    from cglo_jax.workdir import directory as workdirs

    if not workdirs.has_saved(command.workdir):
        return "the same command starts over: nothing was saved yet"
    again = "without --fresh " if command.fresh else ""
    return f"the same command {again}goes on from the last checkpoint"


def _tell(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    program()
