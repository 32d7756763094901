"""Trains cGLO, samples from it, classifies with and without it, reports whether it helped.

python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits --stage=all
"""

import sys
from typing import TYPE_CHECKING

from cglo_jax import interrupts, storage
from cglo_jax.errors import UserError

if TYPE_CHECKING:
    from cglo_jax.command_line import Command

_GO_ON = "the same command goes on from the last checkpoint"


def main(command: "Command") -> None:
    """Runs the stages that the command asks for."""
    from cglo_jax import (  # JAX: seconds
        classify,
        data,
        methods,
        report,
        train,
        workdirs,
    )

    config, workdir, stage, fresh = command
    methods.check_names(config.classify.methods)
    if stage == "report":
        report.run(config, workdir)
        return
    if not fresh:
        workdirs.check(config, workdir)
    datasets = data.load(config.dataset)
    print(data.describe(*datasets), flush=True)
    loaders = {"train": train.load_weights, "classify": classify.load_body}
    for name, load in loaders.items():  # they fail before anything is written
        if stage in ("all", name) and (origin := load(config)[1]).external:
            print(f"{name} uses {origin.text}", flush=True)
    if fresh and (old := workdirs.set_aside(workdir)):
        print(f"what was in {workdir} is in {old} now", flush=True)
    with workdirs.hold(config, workdir):
        _run_stages(command, datasets)


def _run_stages(command: "Command", datasets) -> None:
    from cglo_jax import classify, fit_codes, report, sample, train

    config, workdir, stage, _ = command
    train_set = datasets[0]
    storage.write_lines(workdir / "skipped.txt", train_set.skipped)
    if stage in ("all", "train"):
        for seed in config.seeds:
            if config.train.only_codes:
                fit_codes.run(config, workdir, datasets, seed)
            else:
                train.run(config, workdir, train_set, seed)
    if stage in ("all", "sample"):
        directory = sample.run(config, workdir, train_set, config.seeds[0])
        print(f"images and figures: {directory}", flush=True)
    if stage in ("all", "classify"):
        classify.check_cglo(config, workdir, datasets)
        for seed in config.seeds:
            for method in config.classify.methods:
                classify.run(config, workdir, datasets, method, seed)
    if stage == "all":
        report.run(config, workdir)


def run() -> None:
    """Entry point: one line and a status for what can go wrong.

    2 for a user's error or a file that cannot be written, 130 after Ctrl-C, 143 after SIGTERM.
    """
    interrupts.install()
    try:
        from cglo_jax import command_line, process  # slow to import

        process.start()
        main(command_line.parse(sys.argv))
    except UserError as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        if not error.filename and not error.errno:
            raise
        _end(f"error: {storage.explain(error)}; mend that, and {_GO_ON}", 2)
    except interrupts.Interrupted as signal:
        _end(f"\ninterrupted: {_GO_ON}", signal.status)


def _end(text: str, status: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    run()
