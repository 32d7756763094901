"""Tunes the baseline classifier: learning rate, weight decay and batch size, on labelled images only.

    python -m experiments.tune --scale=cpu --data=digits --shots=5,10

Every trial of a seeded random search is scored by cross-validation: the labelled images of each
draw are cut into folds of equal classes (no more than images per class), a baseline is trained
for the table's number of steps on all folds but one and tested on that one. No test image is looked at. Where a table's seeds draw images
of their own, the labels of the first draws stand for those of all: tuned rows have seen more labels
than others (that of --draws=1 and seed 0 has not). The first trial is the configuration as
it is, so that the search can also say that nothing is better. Trials go to results/tuning.jsonl,
the best of each setting to results/tuned.jsonl, which the rows "..., tuned" of the tables read.
Finished runs are not repeated. A search is as long as trials x folds x draws baselines of the setting.
"""

import argparse
import dataclasses
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cglo_jax.data import dataset as data
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.report.verdict import standard_error
from cglo_jax.stages import classify
from cglo_jax.training import checkpoints, parallel
from cglo_jax.workdir import directory as workdirs
from cglo_jax.workdir.results import environment, read_result, result_path
from experiments.harness import entry, estimate, machine, runs, scales

TUNED, TRIALS = runs.TUNED, runs.TUNED.with_name("tuning.jsonl")
FIELDS = runs.TUNED_FIELDS
_SEED = 2020  # of the search


def draw_trials(config: ConfigDict, count: int) -> list[dict[str, Any]]:
    """Draws settings of FIELDS: the configuration's own, then random ones around it.

    The rate is between a thirtieth and three times the configuration's, the decay between a
    third and a hundred times, both log-uniform; the batch is whole, a half or a quarter.
    """
    rng = np.random.default_rng(_SEED)
    c = config.classify
    trials = [{name: c[name] for name in FIELDS}]
    for _ in range(count - 1):
        lr, decay = 10 ** rng.uniform(-1.5, 0.5), 10 ** rng.uniform(-0.5, 2.0)
        batch = c.batch_size // int(rng.choice([1, 2, 4]))
        # Two digits: what is printed is what was run.
        lr, decay = (float(f"{v:.1e}") for v in (lr * c.lr, decay * c.weight_decay))
        trials.append({"lr": lr, "weight_decay": decay, "batch_size": batch})
    return trials


def cut_fold(dataset: Dataset, fold: int, folds: int) -> tuple[Dataset, Dataset]:
    """Cuts labelled images into the ones to train on and those of one fold, to test on.

    Image k of each class is in fold k mod `folds`.
    """
    n = dataset.num_labelled
    rank = np.zeros(n, int)
    for label in range(len(dataset.class_names)):
        members = np.flatnonzero(dataset.labels[:n] == label)
        rank[members] = np.arange(len(members))
    inside = rank % folds == fold

    def take(positions: np.ndarray, split: str) -> Dataset:
        return dataclasses.replace(
            dataset,
            images=dataset.images[positions],
            labels=dataset.labels[positions],
            ids=tuple(dataset.ids[i] for i in positions),
            canvas=dataset.canvas
            and type(dataset.canvas)(*(leaf[positions] for leaf in dataset.canvas)),
            split=split,
        )

    return (
        take(np.flatnonzero(~inside), "train"),
        take(np.flatnonzero(inside), f"fold {fold} of train"),
    )


def _config(
    setting: scales.Setting, shots: int, draw: int, data_dir: str
) -> ConfigDict:
    config = setting.config()
    config.dataset.shots = shots
    config.dataset.data_dir = data_dir
    config.dataset.split_seed = draw
    config.seeds = (draw,)
    return config


def score(
    config: ConfigDict, dataset: Dataset, folds: int, workdir: pathlib.Path
) -> float:
    """Returns the percentage of labelled images that are right when they are tested on."""
    right = 0.0
    for fold in range(folds):
        train_set, test_set = cut_fold(dataset, fold, folds)
        directory = workdir / f"fold-{fold}-of-{folds}"
        workdirs.create(config, directory)
        seed = config.seeds[0]
        classify.run(config, directory, (train_set, test_set), "baseline", seed)
        path = result_path(directory, "baseline", seed)
        result = read_result(path)
        checkpoints.remove_all(path.parent / "checkpoints")
        right += result["top1"] * result["n_test"]
    return right / len(dataset.ids)


def count_folds(arguments: argparse.Namespace, shots: int) -> int:
    """Returns how many folds there are, so that every class is in every one.

    Raises:
      UserError: there are too few images.
    """
    if shots < 2:
        raise UserError(
            "one image per class cannot be cut into folds: nothing to tune on"
        )
    return min(arguments.folds, shots)


def count_draws(arguments: argparse.Namespace) -> int:
    """Returns of how many draws: one where all seeds share their labelled images, else two."""
    setting = scales.SETTINGS[arguments.scale, arguments.data]
    return arguments.draws or (2 if setting.own_images else 1)


def plan(arguments: argparse.Namespace, shots: int) -> str:
    """Returns how many baselines a search trains and how long that will take, for people."""
    folds, draws = count_folds(arguments, shots), count_draws(arguments)
    choice = runs.Choice(arguments.scale, arguments.data)
    config = _config(scales.SETTINGS[choice[:2]], shots, 0, arguments.data_dir)
    trials = []
    for trial in draw_trials(config, arguments.trials):
        config = config.copy_and_resolve_references()
        config.classify.update(trial)
        identity = {"digest": "", "cglo": "", "method": "baseline", "seed": 0}
        run = runs.Run("tune", choice, "", str(shots), config=config, **identity)
        trials.append(run)
    times, assumed = estimate.seconds(trials, choice)
    each = folds * draws
    text = (
        f"{shots} per class: {len(trials)} settings x {folds} folds x "
        f"{draws} draw{'s' * (draws > 1)} = {len(trials) * each} baselines, about "
        f"{estimate.duration(each * sum(times))}; finished ones are not repeated"
    )
    return text + f" ({assumed} settings' speed is assumed)" * bool(assumed)


def tune(arguments: argparse.Namespace, shots: int) -> None:
    """Searches for one setting and appends its trials and its best."""
    setting = scales.SETTINGS[arguments.scale, arguments.data]
    folds, root = count_folds(arguments, shots), arguments.workdir
    root /= f"v{runs.RESULTS_VERSION}"
    key = {
        "version": runs.RESULTS_VERSION,
        "scale": arguments.scale,
        "data": arguments.data,
        "shots": shots,
        "setting": runs.setting_digest(arguments.scale, arguments.data, shots),
        "folds": folds,
    }
    configs = [
        _config(setting, shots, draw, arguments.data_dir)
        for draw in range(count_draws(arguments))
    ]
    datasets = [data.load(config.dataset)[0] for config in configs]
    lines = []
    for trial in draw_trials(setting.config(), arguments.trials):
        scores = []
        for draw, (config, dataset) in enumerate(zip(configs, datasets, strict=True)):
            config.classify.update(trial)
            digest = runs.digest(config, "baseline", draw)
            scores.append(score(config, dataset, folds, root / digest[:12]))
        mean = statistics.fmean(scores)
        lines.append({**key, **trial, "accuracy": mean, "draws": scores})
        print(f"{shots} per class, {trial}: {mean:.2f} %", flush=True)
    best = max(lines, key=lambda line: line["accuracy"])
    date = machine.today()
    stamp = {"date": date, "environment": environment(parallel.choose_devices(1))}
    done = [
        {k: v for k, v in line.items() if k not in stamp}
        for line in storage.read_records(TRIALS)
    ]
    for line in lines:
        if line not in done:
            storage.append_record(TRIALS, {**line, **stamp})
    storage.append_record(TUNED, {**best, "trials": len(lines), **stamp})
    _print_table(lines, best)


def _print_table(lines: Sequence[dict[str, Any]], best: dict[str, Any]) -> None:
    print(
        "\n| rate | weight decay | batch | held-out folds, % | |\n|---|---|---|---|---|"
    )
    for line in sorted(lines, key=lambda line: -line["accuracy"]):
        error = standard_error(line["draws"])
        spread = "" if error is None else f" ± {error:.2f}"
        mark = "taken" if line is best else "as it was" if line is lines[0] else ""
        cells = [f"{line[f]:g}" for f in FIELDS]
        print(f"| {' | '.join(cells)} | {line['accuracy']:.2f}{spread} | {mark} |")


def main() -> None:
    """Tunes every number of images per class that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tune", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--scale", choices=scales.SCALES, default="cpu")
    parser.add_argument("--data", choices=scales.DATA, default="digits")
    parser.add_argument("--shots", default="5", help="images per class: 5 or 5,10")
    parser.add_argument("--trials", type=int, default=10, help="settings tried (10)")
    parser.add_argument("--folds", type=int, default=5, help="of each draw (5)")
    parser.add_argument(
        "--draws", type=int, help="of labelled images (2; 1 where seeds share them)"
    )
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path("runs/tune")
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say how long it will take"
    )
    arguments = parser.parse_args()
    if (arguments.scale, arguments.data) not in scales.SETTINGS:
        known = ", ".join(f"--scale={s} --data={d}" for s, d in scales.SETTINGS)
        parser.error(f"there is no --scale of this --data: use one of {known}")
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", arguments.shots):
        parser.error(f"--shots={arguments.shots}: it must be like 5 or 5,10")
    if min(arguments.trials, arguments.folds - 1, count_draws(arguments)) < 1:
        parser.error("--trials and --draws must be 1 or more, --folds 2 or more")
    for shots in map(int, arguments.shots.split(",")):
        if arguments.dry_run:
            print(plan(arguments, shots))
        else:
            tune(arguments, shots)


if __name__ == "__main__":
    entry.run(main)
