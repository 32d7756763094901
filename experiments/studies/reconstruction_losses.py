"""Reconstruction losses on CIFAR-100, 10 images per class: Laplacian, random VGG-16, trained VGG-16.

    python -m experiments.studies.reconstruction_losses --weights=FILE --data_dir=DIR --workdir=runs/losses

FILE is a VGG-16 as .safetensors with torchvision's names. Trains cGLO with each loss for the same
steps, then a WRN-10-2 with each, and one without cGLO, for three seeds: everything as
configs/cifar100.py:10,cpu but for the fields in `_config`. Finished runs are not repeated. Prints a
Markdown table, writes a line per run to results/reconstruction_losses.jsonl and the pictures side
by side to figures/reconstruction_losses.png.
"""

import argparse
import json
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes
from cglo_jax.config import validation
from cglo_jax.data import dataset as data
from cglo_jax.files import storage
from cglo_jax.inference import sampler
from cglo_jax.report import figures
from cglo_jax.report.verdict import standard_error
from cglo_jax.stages import classify, train
from cglo_jax.workdir import directory
from cglo_jax.workdir.results import read_result, result_path
from configs import cifar100
from experiments.harness import entry, paths

RESULTS = paths.RESULTS / "reconstruction_losses.jsonl"
FIGURE = paths.FIGURES / "reconstruction_losses.png"
SHOWN = 12  # images in the figure


def _config(loss: str, weights: str, data_dir: str) -> ConfigDict:
    config = cifar100.get_config("10,cpu")
    config.dataset.data_dir = data_dir
    config.train.batch_size = 50  # more steps for the same number of images
    config.train.epochs = 10
    config.train.lr_drop_epochs = (5, 8)
    config.external_weights = loss == "perceptual"
    config.reconstruction.loss = loss
    if weights:
        config.reconstruction.weights = weights
    validation.validate(config)
    return config


def _reconstructions(
    config: ConfigDict, workdir: pathlib.Path, dataset: data.Dataset, shown: np.ndarray
) -> np.ndarray:
    """G([z_i, eps]) of the images `shown`, of seed 0, uint8 [SHOWN, H, W, C]."""
    model = sampler.restore(config, workdir, dataset, 0)
    keys = codes.example_keys(jax.random.key(0), shown)
    return sampler.generate_uint8(model, model.z[shown], keys)


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {standard_error(values):.2f}" if values else ""


def _print_table(results: dict[str, dict[int, dict]]) -> None:
    print("| loss of cGLO | top-1, % | minus baseline | seeds |\n|---|---|---|---|")
    baseline = results["no cGLO"]
    for name, runs in results.items():
        top1 = [run["top1"] for run in runs.values()]
        gain = [run["top1"] - baseline[seed]["top1"] for seed, run in runs.items()]
        gain = [] if name == "no cGLO" else gain
        print(f"| {name} | {_cell(top1)} | {_cell(gain)} | {len(runs)} |")


def _write_rows(results: dict[str, dict[int, dict]]) -> None:
    kept = ("top1", "top5", "steps", "perceptual_weights", "environment")
    rows = [
        {"loss": name, "seed": seed, **{k: run[k] for k in kept}}
        for name, runs in results.items()
        for seed, run in runs.items()
    ]
    storage.write_atomically(RESULTS, "".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    """Trains what is not trained yet, then writes table, rows and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="VGG-16 as .safetensors")
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/losses")
    args = parser.parse_args()
    losses = {
        "Laplacian": _config("laplacian", "", args.data_dir),
        "random VGG-16": _config("perceptual", "random", args.data_dir),
        "given VGG-16": _config("perceptual", args.weights, args.data_dir),
    }
    datasets = data.load(losses["Laplacian"].dataset)
    train_set = datasets[0]
    shown = np.linspace(0, len(train_set.ids) - 1, SHOWN).round().astype(int)
    pictures, results = {"image": train_set.images[shown]}, {"no cGLO": {}}
    for name, config in losses.items():
        workdir = args.workdir / name.replace(" ", "-").lower()
        directory.create(config, workdir)
        methods = {name: "cglo"} | (
            {"no cGLO": "baseline"} if not results["no cGLO"] else {}
        )
        for seed in config.seeds:
            train.run(config, workdir, train_set, seed)
            for row, method in methods.items():
                classify.run(config, workdir, datasets, method, seed)
                path = result_path(workdir, method, seed)
                results.setdefault(row, {})[seed] = read_result(path)
        pictures[name] = _reconstructions(config, workdir, train_set, shown)
    _write_rows(results)
    _print_table(results)
    FIGURE.parent.mkdir(exist_ok=True)
    figures.image_grid(np.stack([*pictures.values()]), list(pictures)).save(FIGURE)


if __name__ == "__main__":
    entry.run(main)
