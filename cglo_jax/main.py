"""Trains cGLO, samples from it, classifies with and without it, reports whether it helped.

python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits --stage=all
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from cglo_jax import command_line, process
from cglo_jax.errors import UnusableFiles, UserError, printable


def main(command: command_line.Command) -> None:
    """Runs the stages that the command asks for."""
    from cglo_jax import (  # JAX: seconds
        classify,
        data,
        fit_codes,
        loop,
        methods,
        report,
        sample,
        train,
    )

    config, workdir, stage = command
    methods.check_names(config.classify.methods)
    if stage == "report":
        report.run(config, workdir)
        return
    loop.check_workdir(config, workdir)
    with listing_skipped(workdir):
        train_set, test_set = datasets = data.load(config.dataset)
    print(data.describe(train_set, test_set), flush=True)
    loaders = {"train": train.load_weights, "classify": classify.load_body}
    for name, load in loaders.items():  # they fail before anything is written
        if stage in ("all", name) and (origin := load(config)[1]).external:
            print(f"{name} uses {origin.text}", flush=True)
    loop.open_workdir(config, workdir)
    loop.write_lines(workdir / "skipped.txt", train_set.skipped)
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


@contextlib.contextmanager
def listing_skipped(workdir: pathlib.Path) -> Iterator[None]:
    """Lists the skipped files in skipped.txt also if the images are refused meanwhile."""
    from cglo_jax import loop

    try:
        yield
    except UnusableFiles as error:
        path = workdir / "skipped.txt"
        with contextlib.suppress(OSError):  # the line names some of them, at least
            workdir.mkdir(parents=True, exist_ok=True)
            loop.write_lines(path, error.skipped)
            raise UserError(f"{error} (all: {path})") from None
        raise


def run() -> None:
    """Entry point: one line and status 2 for a user's error, 130 for an interrupt."""
    process.start()
    try:
        main(command_line.parse(sys.argv))
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        message = "interrupted: the same command goes on from the last checkpoint"
        print(f"\n{message}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
