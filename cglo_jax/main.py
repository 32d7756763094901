"""Trains cGLO, samples from it, classifies with and without it, reports whether it helped.

python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits --stage=all
"""

import sys

from cglo_jax import command_line, distributed, process
from cglo_jax.errors import UserError


def main(command: command_line.Command) -> None:
    """Runs the stages that the command asks for."""
    distributed.start(command.launch)
    from cglo_jax import (  # JAX: seconds
        classify,
        data,
        fit_codes,
        loop,
        methods,
        parallel,
        report,
        sample,
        train,
    )

    config, workdir, stage, _ = command
    distributed.check_equal("flags", f"{config.to_json()} {stage}")
    methods.check_names(config.classify.methods)
    if stage == "report":
        if parallel.is_first_process():
            report.run(config, workdir)
        return
    loop.check_workdir(config, workdir)
    train_set, test_set = datasets = data.load(config.dataset)
    distributed.check_equal("images", f"{train_set.digest} {test_set.digest}")
    print(data.describe(train_set, test_set), flush=True)
    loaders = {"train": train.load_weights, "classify": classify.load_body}
    for name, load in loaders.items():  # they fail before anything is written
        if stage in ("all", name) and (origin := load(config)[1]).external:
            print(f"{name} uses {origin.text}", flush=True)
    if parallel.is_first_process():
        loop.open_workdir(config, workdir)
        loop.write_lines(workdir / "skipped.txt", train_set.skipped)
    distributed.check_workdir(workdir)
    if stage in ("all", "train"):
        for seed in config.seeds:
            if config.train.only_codes:
                fit_codes.run(config, workdir, datasets, seed)
            else:
                train.run(config, workdir, train_set, seed)
    if stage in ("all", "sample") and parallel.is_first_process():
        directory = sample.run(config, workdir, train_set, config.seeds[0])
        print(f"images and figures: {directory}", flush=True)
    parallel.wait_for_all("samples")
    if stage in ("all", "classify"):
        classify.check_cglo(config, workdir, datasets)
        for seed in config.seeds:
            for method in config.classify.methods:
                classify.run(config, workdir, datasets, method, seed)
    if stage == "all" and parallel.is_first_process():
        report.run(config, workdir)


def run() -> None:
    """Entry point: one line and status 2 for a user's error, 130 for an interrupt.

    3 if another process of the run ended, see `distributed`.
    """
    process.start()
    status = 0
    try:
        main(command_line.parse(sys.argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        message = "interrupted: the same command goes on from the last checkpoint"
        print(f"\n{message}", file=sys.stderr)
        status = 130
    except Exception as error:  # noqa: BLE001 - is raised again, or all of it is shown
        status = distributed.status_of(error)
    distributed.leave(status)


if __name__ == "__main__":
    run()
