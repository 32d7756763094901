"""Which settings of cGLO: noise gain, gamma, weak classifier, reconstruction loss.

    python -m experiments.studies.settings noise --data_dir=DIR       # and gamma, figure2, losses
    python -m experiments.studies.settings gamma --only_table         # what is there, nothing is run

A question (`QUESTIONS`) is a list of rows, each a few fields beside a reference row, on one or more
data sets. Draw s of a row has the labelled images of `dataset.split_seed` = s and all random numbers
of seed s, so that rows are paired draw by draw. Nothing is chosen on test images: classifiers are
tested on training images that are not among the labelled ones (`dataset.holdout`).

Of every run a line is appended to results/settings.jsonl: accuracy of the final classifier (where
the question has one), mean angles of codes within and between classes, the share of codes whose
five nearest other codes vote for its class (leave one out, by angle; chance is 1 / K), the mean
absolute difference of pixels between images and reconstructions, and the last loss of f_phi. Runs
that are there already are not repeated. The rule by which a question is decided stands in its text,
which was committed before it was run.
"""

import argparse
import dataclasses
import io
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from cglo_jax.cglo import codes, losses, quality
from cglo_jax.config import validation
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.inference import sampler
from cglo_jax.report import figures
from cglo_jax.report.verdict import format_interval, format_mean, paired_difference
from cglo_jax.stages import classify, train
from cglo_jax.workdir import directory
from cglo_jax.workdir.results import read_result, result_path
from configs import cifar100, digits
from experiments.harness import entry, machine, paths, runs

RESULTS = paths.RESULTS / "settings.jsonl"
NEIGHBOURS = 5
SHOWN = 12  # images in a figure
BASELINE = "baseline"  # the row without cGLO


def _digits() -> ConfigDict:
    """digits, 5 per class: cGLO of 1000 steps, WRN-10-2 of 1000, tested on 950 training digits."""
    config = digits.get_config()
    config.dataset.holdout = 950
    return config


def _cifar(classes: int, side: int, holdout: int, shots: int = 10) -> ConfigDict:
    config = cifar100.get_config(f"{shots},cpu")
    config.update_from_flattened_dict(
        {
            "dataset.classes": classes,
            "dataset.size": side,
            "dataset.holdout": holdout,
            "train.batch_size": 50,
            "train.epochs": 12,
            "train.lr_drop_epochs": (6, 9),
            "classify.batch_size": 32,
            "classify.epochs": 12,
            "classify.lr_drop_epochs": (7, 10),
        }
    )
    return config


def _ten() -> ConfigDict:
    """Ten classes of CIFAR-100 at 16 px, 10 per class: cGLO 600 steps of 50, WRN-10-2 600 of 32."""
    return _cifar(10, 16, 2000)


def _hundred() -> ConfigDict:
    """All classes of CIFAR-100 at 16 px, 10 per class: cGLO 600 steps of 100, WRN-10-2 400 of 64."""
    config = _cifar(0, 16, 4000)
    config.train.batch_size = 100
    config.classify.batch_size = 64
    config.classify.epochs = 8
    config.classify.lr_drop_epochs = (5, 7)
    return config


def six_classes() -> ConfigDict:
    """Six classes of CIFAR-100 at 16 px, 25 per class, cGLO of 600 steps of 50: as Figure 2."""
    return _cifar(6, 16, 0, shots=25)


def _ten_at_32() -> ConfigDict:
    """Ten classes of CIFAR-100 at 32 px, 10 per class: cGLO 400 steps of 50, WRN-10-2 1200 of 32."""
    config = _cifar(10, 32, 2000)
    config.update_from_flattened_dict(
        {
            "train.epochs": 8,
            "train.lr_drop_epochs": (4, 6),
            "classify.epochs": 24,
            "classify.lr_drop_epochs": (14, 20),
        }
    )
    return config


@dataclasses.dataclass(frozen=True)
class Question:
    """Rows that answer one question.

    Attributes:
      text: the question, and the rule that decides it.
      data: name -> (configuration, draws) of each data set.
      rows: name -> fields that differ from the data set's configuration; the first is the reference
        that the others are compared with.
      accuracy: whether a final classifier is trained beside each row, and one without cGLO.
      figure: whether figures/settings_NAME.png shows reconstructions of the first draw by each row.
    """

    text: str
    data: Mapping[str, tuple[Callable[[], ConfigDict], tuple[int, ...]]]
    rows: Mapping[str, Mapping[str, Any]]
    accuracy: bool
    figure: bool = False


FIVE, TEN = tuple(range(30, 35)), tuple(range(30, 40))
GAMMAS = (0.02, 0.0, 0.1, 0.5)
VGG = {"external_weights": True, "reconstruction.loss": "perceptual"}
QUESTIONS = {
    "noise": Question(
        "Noise as strong as the authors' (gain sqrt 2), or as PyTorch's default would make it? "
        "sqrt 2 is the default unless its accuracy is below the other's on one of the two data "
        "sets with an interval (95 %, paired over draws) that excludes 0.",
        {"digits": (_digits, TEN), "CIFAR-100, ten classes": (_ten, FIVE)},
        {
            "gain sqrt 2": {"latent.noise_gain": 1.414},
            "gain .577": {"latent.noise_gain": 0.577},
        },
        accuracy=True,
    ),
    "gamma": Question(
        "Which gamma? .02 stays unless another one's accuracy is above it on one of the two data "
        "sets with an interval (95 %, paired over draws) that excludes 0, and on none below it.",
        {
            "CIFAR-100, ten classes": (_ten, FIVE),
            "CIFAR-100, all classes": (_hundred, (30, 31, 32)),
        },
        {f"gamma {gamma:g}": {"weak_classifier.gamma": gamma} for gamma in GAMMAS},
        accuracy=True,
    ),
    "figure2": Question(
        "When does f_phi draw the codes of a class together, as in the paper's Figure 2? In the "
        "rows where the angle between classes exceeds the angle within them by more than with "
        "gamma 0, where more codes are among their class, both with intervals (95 %, paired over "
        "draws) that exclude 0, and where images are still reconstructed: a difference of pixels "
        "at most 1.5 times that of gamma 0.",
        {"CIFAR-100, six classes": (six_classes, (30, 31, 32))},
        {
            "gamma 0 (GLO)": {"weak_classifier.gamma": 0.0},
            "gamma .02 (default)": {},
            "gamma .5": {"weak_classifier.gamma": 0.5},
            "double softmax, gamma .5 (authors)": {
                "weak_classifier.loss": "double_softmax",
                "weak_classifier.gamma": 0.5,
            },
            "double softmax, gamma 10": {
                "weak_classifier.loss": "double_softmax",
                "weak_classifier.gamma": 10.0,
            },
            "4 channels, gamma .1": {
                "weak_classifier.width": 4,
                "weak_classifier.gamma": 0.1,
            },
            "4 channels, own rate .01, gamma .5": {
                "weak_classifier.width": 4,
                "weak_classifier.gamma": 0.5,
                "weak_classifier.scale_gradient": False,
                "train.weak_lr": 0.01,
            },
            "4 channels, dropout .5, gamma .1": {
                "weak_classifier.width": 4,
                "weak_classifier.dropout": 0.5,
                "weak_classifier.gamma": 0.1,
            },
            "label smoothing .2, gamma .1": {
                "weak_classifier.label_smoothing": 0.2,
                "weak_classifier.gamma": 0.1,
            },
            "own rate .001, gamma .5": {
                "weak_classifier.gamma": 0.5,
                "weak_classifier.scale_gradient": False,
                "train.weak_lr": 0.001,
            },
            "f_phi of codes, gamma .1": {
                "weak_classifier.input": "latent",
                "weak_classifier.gamma": 0.1,
            },
            "code rate .05, gamma .1": {
                "train.code_lr": 0.05,
                "weak_classifier.gamma": 0.1,
            },
            "code rate .05, gamma 0": {
                "train.code_lr": 0.05,
                "weak_classifier.gamma": 0.0,
            },
        },
        accuracy=False,
    ),
    "losses": Question(
        "Which reconstruction loss, and should each layer be divided by its mean activation? The "
        "default of reconstruction.unit_activations becomes True if that is better with a trained "
        "network with an interval (95 %, paired over draws) that excludes 0, else it stays False.",
        {"CIFAR-100, ten classes at 32 px": (_ten_at_32, (30, 31, 32))},
        {
            "Laplacian": {},
            "VGG-16 of CIFAR-10": {**VGG, "reconstruction.weights": "vgg16_cifar10"},
            "VGG-16 of CIFAR-10, unit activations": {
                **VGG,
                "reconstruction.weights": "vgg16_cifar10",
                "reconstruction.unit_activations": True,
            },
            "VGG-16 of HED (unit activations)": {
                **VGG,
                "reconstruction.weights": "vgg16_hed",
            },
        },
        accuracy=True,
        figure=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One draw of a row."""

    question: str
    data: str
    row: str
    seed: int

    @property
    def method(self) -> str:
        """The method of its classifier, or of one that could be trained on its cGLO."""
        return "baseline" if self.row == BASELINE else "cglo"

    @property
    def config(self) -> ConfigDict:
        """Its configuration; `reconstruction.weights` is the name of a file in --weights."""
        question = QUESTIONS[self.question]
        config = question.data[self.data][0]()
        if self.row != BASELINE:
            config.update_from_flattened_dict(dict(question.rows[self.row]))
        config.dataset.split_seed = self.seed
        config.seeds = (self.seed,)
        return config

    @property
    def digest(self) -> str:
        """A hash of all that determines it: equal runs of two questions are done once."""
        fields = runs.reset_unread(self.config, self.method)
        return runs.digest(fields, self.method, self.seed)


_KEYS = tuple(field.name for field in dataclasses.fields(Run))  # of a run's line


def runs_of(name: str) -> list[Run]:
    """Returns all runs of a question, draw by draw, so that rows grow together."""
    question = QUESTIONS[name]
    rows = [BASELINE] if question.accuracy else []
    return [
        Run(name, source, row, seed)
        for source, (_, seeds) in question.data.items()
        for seed in seeds
        for row in (*rows, *question.rows)
    ]


def lines_of(name: str) -> list[dict[str, Any]]:
    """Returns the lines of a question's finished runs."""
    return [line for line in storage.read_records(RESULTS) if line["question"] == name]


def vote(z: np.ndarray, labels: np.ndarray) -> float:
    """Returns the percentage of codes whose NEIGHBOURS nearest other codes vote for their class.

    Args:
      z: float [n, d], unit rows. labels: int [n], -1: left out.
    """
    z, labels = z[labels >= 0], labels[labels >= 0]
    model = KNeighborsClassifier(NEIGHBOURS, metric="cosine")
    return 100 * float(cross_val_score(model, z, labels, cv=LeaveOneOut()).mean())


def measure(
    config: ConfigDict, workdir: pathlib.Path, dataset: data.Dataset, seed: int
) -> tuple[dict[str, float], np.ndarray]:
    """Returns what a trained cGLO's codes are like, and its reconstructions uint8 [n, H, W, C]."""
    model = sampler.restore(config, workdir, dataset, seed)
    z, labels = np.asarray(model.z), dataset.labels
    within, between = quality.code_angles(z, labels)
    keys = codes.example_keys(jax.random.key(0), np.arange(len(z)))
    images = sampler.generate_uint8(model, model.z, keys)
    pairs = data.to_float(images), data.to_float(dataset.images)
    logged = storage.read_records(workdir / "metrics.jsonl")
    last = [line for line in logged if line.get("stage") == "train"][-1]
    line = {
        "within": within,
        "between": between,
        "apart": between - within,
        "vote": vote(z, labels),
        "pixels": float(losses.pixel_l1(*pairs).mean()),
        "weak_loss": last.get("cross_entropy"),
    }
    return line, images


def do(
    run: Run, data_dir: str, weights: pathlib.Path, pictures: pathlib.Path
) -> dict[str, Any]:
    """Trains what a run needs, keeps what the figure shows of it, and returns its line."""
    config = run.config
    config.dataset.data_dir = data_dir
    if config.external_weights:
        file = weights / f"{config.reconstruction.weights}.safetensors"
        config.reconstruction.weights = str(file)
    validation.validate(config)
    sets = data.load(config.dataset)
    began = time.perf_counter()
    line = {**dataclasses.asdict(run), "digest": run.digest}
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder, "run")
        directory.create(config, workdir)
        if run.row != BASELINE:
            train.run(config, workdir, sets[0], run.seed)
            measured, images = measure(config, workdir, sets[0], run.seed)
            line |= measured
            if run.seed == QUESTIONS[run.question].data[run.data][1][0]:
                _keep(pictures, run.row, images)
                _keep(pictures, "image", sets[0].images)
        if QUESTIONS[run.question].accuracy:
            classify.run(config, workdir, sets, run.method, run.seed)
            result = read_result(result_path(workdir, run.method, run.seed))
            line |= {name: result[name] for name in ("top1", "n_test", "steps")}
    seconds = round(time.perf_counter() - began, 1)
    return line | {"seconds": seconds, **machine.describe()}


def _keep(pictures: pathlib.Path, name: str, images: np.ndarray) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    np.save(file, images[quality.spread(len(images), SHOWN)])
    storage.write_atomically(pictures / f"{name}.npy", file.getvalue())


def draw(name: str, pictures: pathlib.Path) -> None:
    """Draws images above their reconstructions by each row, once all rows have theirs."""
    rows = ["image", *QUESTIONS[name].rows]
    files = [pictures / f"{row}.npy" for row in rows]
    if all(file.exists() for file in files):
        grid = np.stack([np.load(file) for file in files])
        figures.image_grid(grid, rows).save(paths.FIGURES / f"settings_{name}.png")


COLUMNS = {
    "top1": "top-1, %",
    "within": "angle within, °",
    "between": "between, °",
    "vote": "codes among their class, %",
    "pixels": "difference of pixels",
    "weak_loss": "last loss of f_phi",
}


def table(name: str, source: str) -> str:
    """Returns a Markdown table of a question's rows on one data set.

    Means ± standard error over draws, and of accuracy, votes and the angles' difference the interval
    (95 %, paired over draws) of the row minus the reference.
    """
    question = QUESTIONS[name]
    lines = [line for line in lines_of(name) if line["data"] == source]
    reference = next(iter(question.rows))
    compared = ["top1"] if question.accuracy else ["apart", "vote"]
    titles = {"top1": "top-1", "apart": "between - within", "vote": "among their class"}
    shown = [c for c in COLUMNS if any(line.get(c) is not None for line in lines)]
    head = ["row", *(COLUMNS[c] for c in shown)]
    head += [f"{titles[c]} minus {reference}" for c in compared] + ["draws"]
    text = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    of_row = {
        row: {line["seed"]: line for line in lines if line["row"] == row}
        for row in (BASELINE, *question.rows)
    }
    for row, found in of_row.items():
        if not found:
            continue
        cells = [row]
        for c in shown:
            values = [x[c] for x in found.values() if x.get(c) is not None]
            cells.append(_mean(c, values))
        for c in compared:
            seeds = sorted(found.keys() & of_row[reference].keys())
            if row == reference or not seeds or found[seeds[0]].get(c) is None:
                cells.append("")
                continue
            pairs = [[rows[s][c] for s in seeds] for rows in (found, of_row[reference])]
            mean, low, high = paired_difference(*pairs, 0.95)
            interval = "" if low is None else f" ({format_interval(low, high)})"
            cells.append(f"{mean:+.2f}{interval}")
        text.append("| " + " | ".join([*cells, str(len(found))]) + " |")
    return "\n".join(text)


def _mean(column: str, values: list[float]) -> str:
    if not values:
        return ""
    if column in ("pixels", "weak_loss"):
        return f"{statistics.fmean(values):.3f}"
    return format_mean(values)


def main() -> None:
    """Does the runs of a question that have no line yet, then prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    parser.add_argument(
        "--weights", type=pathlib.Path, default=".", help="folder of VGG-16s (losses)"
    )
    parser.add_argument(
        "--workdir", type=pathlib.Path, default="runs/settings", help="of the pictures"
    )
    parser.add_argument("--data", default="", help="only this of its data sets")
    parser.add_argument("--only_table", action="store_true", help="run nothing")
    parser.add_argument("--draws", type=int, default=0, help="only so many; 0 = all")
    args = parser.parse_args()
    if args.draws < 0:
        raise UserError(f"--draws {args.draws}: use 0 (all) or more")
    question = QUESTIONS[args.question]
    here = {Run(**{k: line[k] for k in _KEYS}) for line in lines_of(args.question)}
    done = {line["digest"]: line for line in storage.read_records(RESULTS)}
    if args.data and args.data not in question.data:
        names = "', '".join(question.data)
        raise UserError(f"--data {args.data!r}: {args.question} has '{names}'")
    for run in runs_of(args.question):
        seeds = question.data[run.data][1]
        skipped = args.draws and run.seed not in seeds[: args.draws]
        skipped = skipped or (args.data and args.data != run.data)
        if args.only_table or skipped or run in here:
            continue
        pictures = args.workdir / args.question
        finished = done.get(run.digest)  # in another question
        finished = finished or do(run, args.data_dir, args.weights, pictures)
        line = {**finished, **dataclasses.asdict(run)}
        done[run.digest] = line
        storage.append_record(RESULTS, line)
        shown = [key for key in (*_KEYS, *COLUMNS, "seconds") if key in line]
        print(json.dumps({key: line[key] for key in shown}), flush=True)
    if question.figure:
        draw(args.question, args.workdir / args.question)
    print(question.text)
    for source in question.data:
        print(f"\n{source}\n\n{table(args.question, source)}")


if __name__ == "__main__":
    entry.run(main)
