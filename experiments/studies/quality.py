"""How good a run's synthetic images are: copies, diversity, class, against held-out real images.

    python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m experiments.studies.quality --workdir=runs/digits            # seconds for digits

Prints a Markdown table, see cglo_jax/cglo/quality.py for what stands in it, and appends its numbers to
results/quality.jsonl. Features are what the last layer of the run's baseline classifier sees,
which was trained on the same few real images.
"""

import argparse
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import quality
from cglo_jax.classifier import step
from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.defaults import get_config
from cglo_jax.config.fingerprint import check_fingerprint
from cglo_jax.data import dataset
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.inference import sampler
from cglo_jax.training.checkpoints import restore_latest_model
from cglo_jax.workdir.results import (
    environment,
    read_result,
    result_path,
    top_k_accuracy,
)
from experiments.harness import entry, machine, paths

RESULTS = paths.RESULTS / "quality.jsonl"
SPACES = ("pixel", "feature")


MEANINGS = {
    "distance": "to the nearest training image of the class: median",
    "ratio": "1: as far from them as real images; 0: the training images again",
    "copies": "nearer to one than 99 % of the real images are",
    "parent": "nearest training image is one of the two interpolated",
    "class": "nearest training image is of the class",
    "diversity": "mean distance within a class, by that of real images; 0: all the same",
    "accuracy": "top-1 of the baseline classifier; above real: easier images than real ones",
    "worst": "a class whose new images lose what makes it",
    "intra": "90: random directions; 0: the class is a point",
    "inter": "90: random directions",
}


class Row(NamedTuple):
    """One line of the table; what real images give is None where there is nothing such."""

    name: str
    synthetic: float
    real: float | None
    meaning: str


class Images(NamedTuple):
    """Images of known class as numbers.

    Attributes:
      images: uint8 [n, H, W, C]. labels: int32 [n].
      logits: float32 [n, K], of the baseline classifier. embeddings: float32 [n, F].
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    embeddings: np.ndarray

    def values(self, space: str) -> np.ndarray:
        """The rows [n, F] between which distances are taken."""
        if space == "feature":
            return self.embeddings
        return self.images.reshape(len(self.images), -1)


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Reads config.json of a finished run.

    Raises:
      UserError: there is none, or it has fields that are no more.
    """
    path, config = workdir / "config.json", get_config()
    if not path.exists():
        raise UserError(f"there is no {path}: give the --workdir of a finished run")
    try:
        config.update_from_flattened_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be used ({type(error).__name__}): give the --workdir of a "
            "run of cglo_jax.main --stage=all"
        ) from error
    return config


def restore_classifier(
    config: ConfigDict,
    workdir: pathlib.Path,
    datasets: tuple[dataset.Dataset, dataset.Dataset],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Restores the baseline classifier -> (variables, model).

    Raises:
      UserError: it is not there, not finished, or of other images.
    """
    path = result_path(workdir, "baseline", seed)
    if not path.exists():
        raise UserError(
            f"there is no {path}: run --stage=all with method baseline first"
        )
    result, images = read_result(path)["fingerprint"], datasets
    now = {"images": images[0].digest, "test_images": images[1].digest}
    check_fingerprint({k: result.get(k) for k in now}, now, str(path.parent))
    model, _, _ = restore_latest_model(path.parent / "checkpoints", "run --stage=all")
    variables = {name: model[name] for name in ("params", "batch_stats")}
    network = step.create_spec(
        config,
        *datasets[0].side_and_channels,
        datasets[0].num_classes,
        METHODS["baseline"],
    ).model
    return variables, network.clone(axis_name=None)


def synthesize(
    model: sampler.Restored, per_class: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples new images in memory, of each class `per_class`, the classes in order.

    Returns:
      (images uint8 [m, H, W, C], labels int32 [m], parents int [m, 2]).
    """
    batches = sampler.synthesize_classes(model, jax.random.key(0), per_class)
    k, *parts = map(np.concatenate, zip(*batches, strict=True))
    images, sources, partners, _ = (part[np.argsort(k)] for part in parts)
    return images, model.sampler.labels[sources], np.stack([sources, partners], 1)


def compare_space(
    space: str,
    known: Images,
    held_out: Images,
    synthetic: Images,
    parents: np.ndarray,
) -> list[Row]:
    """Makes the checks that are distances, in one of SPACES; parents: see `measure`."""
    values = known.values(space)
    unit = 127.5 if space == "pixel" else 1.0  # pixels in [-1, 1]
    distances, of_class, indices = [], [], []
    for some in (synthetic, held_out):
        rows = some.values(space)
        pair = rows, some.labels, values, known.labels
        distances.append(quality.nearest_of_class(*pair) / unit)
        indices.append(quality.nearest(rows, values)[1])
        right = known.labels[indices[-1]] == some.labels
        of_class.append(100 * float(right.mean()))
    check = quality.check_copies(*distances)
    parent = quality.parent_share(indices[0], parents)
    diversity = quality.class_diversity(
        synthetic.values(space),
        synthetic.labels,
        held_out.values(space),
        held_out.labels,
    )
    return [
        Row(f"{space} distance", check.synthetic, check.real, MEANINGS["distance"]),
        Row(f"{space} distance, ratio", check.ratio, 1, MEANINGS["ratio"]),
        Row(f"{space} copies, %", check.copies, 1, MEANINGS["copies"]),
        Row(f"{space} nearest is a parent, %", parent, None, MEANINGS["parent"]),
        Row(f"{space} nearest is of the class, %", *of_class, MEANINGS["class"]),
        Row(f"{space} diversity", diversity, 1, MEANINGS["diversity"]),
    ]


def measure(
    known: Images, held_out: Images, synthetic: Images, parents: np.ndarray
) -> list[Row]:
    """Makes all checks of images.

    Args:
      known: the training images. held_out: real images that nothing was trained on.
      parents: int [m, 2], positions in `known` of each synthetic image's source and partner.
    """
    rows = []
    for space in SPACES:
        rows += compare_space(space, known, held_out, synthetic, parents)
    both = (synthetic, held_out)
    top1 = [top_k_accuracy(some.logits, some.labels, 1) for some in both]
    worst = [
        float(np.nanmin(quality.class_accuracy(some.logits, some.labels)))
        for some in both
    ]
    return [
        *rows,
        Row("seen as their class, %", *top1, MEANINGS["accuracy"]),
        Row("the worst class of these, %", *worst, MEANINGS["worst"]),
    ]


def run(
    config: ConfigDict, workdir: pathlib.Path, seed: int, per_class: int
) -> list[Row]:
    """Restores cGLO and baseline classifier of `seed` and makes all checks.

    Raises:
      UserError: one of them is not there or not finished.
    """
    datasets = dataset.load(config.dataset, seed)
    train_set, test_set = datasets
    variables, network = restore_classifier(config, workdir, datasets, seed)
    model = sampler.restore(config, workdir, train_set, seed, complete=True)

    def see(images: np.ndarray, labels: np.ndarray) -> Images:
        return Images(images, labels, *quality.embed(variables, network, images))

    images, labels, parents = synthesize(model, per_class)
    n = train_set.num_labelled
    known = see(train_set.images[:n], train_set.labels[:n])
    held_out = see(test_set.images, test_set.labels)
    rows = measure(known, held_out, see(images, labels), parents)
    intra, inter = quality.code_angles(model.z, train_set.labels)
    return [
        *rows,
        Row("angle of codes within a class, degrees", intra, None, MEANINGS["intra"]),
        Row("angle of codes between classes, degrees", inter, None, MEANINGS["inter"]),
    ]


def print_table(rows: list[Row]) -> None:
    """Prints Markdown."""
    print("| check | synthetic | held-out real | what it means |\n|---|---|---|---|")
    for name, synthetic, real, meaning in rows:
        real = "" if real is None else f"{real:.3g}"
        print(f"| {name} | {synthetic:.3g} | {real} | {meaning} |")


def main() -> None:
    """Checks one seed of a finished run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, help="default: the first of the run")
    parser.add_argument("--per_class", type=int, default=50, help="new images")
    args = parser.parse_args()
    config = read_config(args.workdir)
    seed = config.seeds[0] if args.seed is None else args.seed
    rows = run(config, args.workdir, seed, args.per_class)
    print_table(rows)
    record = {
        "run": args.workdir.name,
        "dataset": config.dataset.name,
        "seed": seed,
        "per_class": args.per_class,
        "checks": {row.name: [row.synthetic, row.real] for row in rows},
        "date": machine.today(),
        "environment": environment(jax.local_devices()[:1]),
    }
    storage.append_record(RESULTS, record)


if __name__ == "__main__":
    entry.run(main)
