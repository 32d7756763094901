"""Chooses gamma, code rate and noise of configs/digits.py, without looking at a test image.

    python -m experiments.studies.sweep_digits --workdir=runs/sweep_digits

Every cell of the grid trains a cGLO and a classifier per seed; seed s draws its own 5 images per
class and is tested on the 950 training images that are left (`dataset.holdout`). All cells get two
seeds, the best few five. The best, the paper's settings and the two controls then get five fresh
seeds, on which nothing was chosen: that is the number to believe. Results are appended to experiments/results/sweep_digits.jsonl; runs that
are there already are not repeated. The last table printed is the one in docs/measurements.md.
"""

import argparse
import itertools
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.data import dataset
from cglo_jax.files import storage
from cglo_jax.stages import classify, train
from cglo_jax.workdir import directory
from cglo_jax.workdir.results import read_result, result_path
from configs import digits
from experiments.harness import entry, machine, paths

RESULTS = paths.RESULTS / "sweep_digits.jsonl"
SEEDS = (10, 11, 12, 13, 14)  # not those of the config, which are for reporting
FRESH = (15, 16, 17, 18, 19)
GRID = {
    "weak_classifier.gamma": (0.0, 0.02, 0.1, 0.5),
    "train.code_lr": (1e-3, 5e-3),
    "latent.noise_std": (0.15, 0.5),
}
PAPER = (
    "cglo",
    {"weak_classifier.gamma": 0.5, "train.code_lr": 1e-3, "latent.noise_std": 0.15},
)
CONTROLS = ("baseline", "pixelmix")


Cell = tuple[str, dict[str, Any]]  # a method, and the fields that differ


def create_config(overrides: dict[str, Any], seed: int) -> ConfigDict:
    """Returns the digits config with `overrides`, tested on held-out training images."""
    config = digits.get_config()
    config.update_from_flattened_dict(overrides)
    config.seeds = (seed,)
    config.dataset.split_seed = seed
    config.dataset.holdout = 950
    return config


def run_one(cell: Cell, seed: int, root: pathlib.Path) -> None:
    """Trains and tests one cell with one seed and appends its result."""
    method, overrides = cell
    config = create_config(overrides, seed)
    name = "_".join(f"{k.split('.')[-1]}={v}" for k, v in overrides.items()) or method
    workdir = root / name / str(seed)
    directory.create(config, workdir)
    sets = dataset.load(config.dataset)
    if method == "cglo":
        train.run(config, workdir, sets[0], seed)
    classify.run(config, workdir, sets, method, seed)
    result = read_result(result_path(workdir, method, seed))
    date = machine.today()
    line = {"method": method, "overrides": overrides, "seed": seed, "date": date}
    kept = {k: result[k] for k in ("top1", "n_test", "steps", "environment")}
    storage.append_record(RESULTS, {**line, **kept})


def accuracies(cell: Cell, seeds: Sequence[int]) -> dict[int, float]:
    """Returns {seed: top-1 in percent} of what has been run."""
    method, overrides = cell
    return {
        r["seed"]: r["top1"]
        for r in storage.read_records(RESULTS)
        if r["method"] == method and r["overrides"] == overrides and r["seed"] in seeds
    }


def run_missing(
    cells: Sequence[Cell], seeds: Sequence[int], root: pathlib.Path
) -> None:
    """Runs what has no result yet, seed by seed."""
    for seed in seeds:
        for cell in cells:
            if not accuracies(cell, [seed]):
                run_one(cell, seed, root)


def table(cells: Sequence[Cell], seeds: Sequence[int]) -> str:
    """Returns a Markdown table: mean +- standard error, paired differences to the controls."""
    baseline, pixelmix = (accuracies((m, {}), seeds) for m in CONTROLS)
    columns = ["run", "top-1, %", "- baseline, paired", "- pixelmix, paired", "seeds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for method, overrides in cells:
        top1 = accuracies((method, overrides), seeds)
        name = ", ".join(f"{k.split('.')[-1]} {v:g}" for k, v in overrides.items())
        row = [
            f"{method} {name}",
            _spread(list(top1.values())),
            _spread([top1[s] - baseline[s] for s in top1]),
            _spread([top1[s] - pixelmix[s] for s in top1]),
            str(len(top1)),
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def main() -> None:
    """Runs the grid, then the best cells, then the best against the controls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path("runs/sweep_digits")
    )
    parser.add_argument("--best", type=int, default=4, help="cells that get five seeds")
    arguments = parser.parse_args()
    root = arguments.workdir
    grid = [
        ("cglo", dict(zip(GRID, values, strict=True)))
        for values in itertools.product(*GRID.values())
    ]
    controls = [(method, {}) for method in CONTROLS]
    run_missing([*controls, *grid], SEEDS[:2], root)

    def mean(cell: Cell, seeds: Sequence[int]) -> float:
        return statistics.mean(accuracies(cell, seeds).values())

    ranked = sorted(grid, key=lambda cell: mean(cell, SEEDS[:2]), reverse=True)
    finalists = ranked[: arguments.best]
    run_missing([*controls, *finalists], SEEDS, root)
    finalists.sort(key=lambda cell: mean(cell, SEEDS), reverse=True)
    confirmed = [*controls, PAPER, finalists[0]]
    run_missing(confirmed, FRESH, root)
    for title, cells, seeds in (
        ("Grid, two seeds", [*controls, *ranked], SEEDS[:2]),
        ("Best of the grid, five seeds", [*controls, *finalists], SEEDS),
        ("The best on five fresh seeds", confirmed, FRESH),
        ("The same on all ten seeds", confirmed, (*SEEDS, *FRESH)),
    ):
        print(f"\n{title}\n\n{table(cells, seeds)}")


if __name__ == "__main__":
    entry.run(main)
