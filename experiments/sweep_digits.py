"""Chooses gamma, code rate and noise of configs/digits.py, without looking at a test image.

    python -m experiments.sweep_digits --workdir=runs/sweep_digits

Every cell of the grid trains a cGLO and a classifier per seed; seed s draws its own 5 images per
class and is tested on the 950 training images that are left (`dataset.holdout`). All cells get two
seeds, the best few five. Results are appended to experiments/results/sweep_digits.jsonl; runs that
are there already are not repeated. The last table printed is the one in experiments/README.md.
"""

import argparse
import datetime
import itertools
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cglo_jax import classify, data, loop, train
from configs import digits

RESULTS = pathlib.Path(__file__).parent / "results" / "sweep_digits.jsonl"
SEEDS = (10, 11, 12, 13, 14)  # not those of the config, which are for reporting
GRID = {
    "weak_classifier.gamma": (0.0, 0.02, 0.1, 0.5),
    "train.code_lr": (1e-3, 5e-3),
    "latent.noise_std": (0.15, 0.5),
}
CONTROLS = ("baseline", "pixelmix")


def create_config(overrides: dict[str, Any], seed: int) -> ConfigDict:
    """Returns the digits config with `overrides`, tested on held-out training images."""
    config = digits.get_config()
    config.update_from_flattened_dict(overrides)
    config.seeds = (seed,)
    config.dataset.split_seed = seed
    config.dataset.holdout = 950
    return config


def run_one(
    overrides: dict[str, Any], method: str, seed: int, root: pathlib.Path
) -> None:
    """Trains and tests one (cell, method, seed) and appends its result."""
    config = create_config(overrides, seed)
    name = "_".join(f"{k.split('.')[-1]}={v}" for k, v in overrides.items()) or method
    workdir = root / name / str(seed)
    loop.open_workdir(config, workdir)
    sets = data.load(config.dataset)
    if method == "cglo":
        train.run(config, workdir, sets[0], seed)
    classify.run(config, workdir, sets, method, seed)
    directory = workdir / "classifiers" / f"{method}-{seed}"
    result = classify.read_result(directory / "result.json")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    line = {"method": method, "overrides": overrides, "seed": seed, "date": date}
    kept = {k: result[k] for k in ("top1", "n_test", "steps", "environment")}
    loop.append_record(RESULTS, {**line, **kept})


def accuracies(method: str, overrides: dict[str, Any]) -> dict[int, float]:
    """Returns {seed: top-1 in percent} of what has been run."""
    return {
        r["seed"]: r["top1"]
        for r in loop.read_records(RESULTS)
        if r["method"] == method and r["overrides"] == overrides
    }


def run_missing(
    cells: Sequence[tuple[str, dict[str, Any]]],
    seeds: Sequence[int],
    root: pathlib.Path,
) -> None:
    """Runs what has no result yet, seed by seed."""
    for seed in seeds:
        for method, overrides in cells:
            if seed not in accuracies(method, overrides):
                run_one(overrides, method, seed, root)


def table(cells: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Returns a Markdown table: mean +- standard error, and the gain over the baseline."""
    baseline = accuracies("baseline", {})
    lines = ["| run | top-1, % | minus baseline, paired | seeds |", "|---|---|---|---|"]
    for method, overrides in cells:
        top1 = accuracies(method, overrides)
        gains = [top1[s] - baseline[s] for s in top1]
        name = ", ".join(f"{k.split('.')[-1]} {v}" for k, v in overrides.items())
        columns = [f"{method} {name}", _spread(list(top1.values())), _spread(gains)]
        lines.append("| " + " | ".join([*columns, str(len(top1))]) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} +- {error:.2f}"


def main() -> None:
    """Runs the grid with two seeds, the best cells and the controls with five."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path("runs/sweep_digits")
    )
    parser.add_argument("--best", type=int, default=4, help="cells that get five seeds")
    arguments = parser.parse_args()
    grid = [
        ("cglo", dict(zip(GRID, values, strict=True)))
        for values in itertools.product(*GRID.values())
    ]
    controls = [(method, {}) for method in CONTROLS]
    run_missing([*controls, *grid], SEEDS[:2], arguments.workdir)

    def mean_of_first_two(cell: tuple[str, dict[str, Any]]) -> float:
        top1 = accuracies(*cell)
        return statistics.mean(top1[seed] for seed in SEEDS[:2])

    ranked = sorted(grid, key=mean_of_first_two, reverse=True)
    finalists = [*controls, *ranked[: arguments.best]]
    run_missing(finalists, SEEDS, arguments.workdir)
    print(table([*controls, *ranked]))


if __name__ == "__main__":
    main()
