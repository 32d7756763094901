"""How well codes fitted later paint images that the generator was not trained on, on digits.

    python -m experiments.studies.added_images        # minutes

Trains cGLO as configs/digits.py says on 4 of 5 images per class, fits codes for the fifth
(train.only_codes), and trains on all 5 for comparison. Prints the reconstruction loss of the added
images as a Markdown table and writes it to results/added_images.jsonl. No test image is read.
"""

import dataclasses
import json
import pathlib
import tempfile

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, codes
from cglo_jax.data import dataset as data
from cglo_jax.files import storage
from cglo_jax.stages import fit_codes, train
from cglo_jax.workdir import trained
from cglo_jax.workdir.results import environment
from cglo_jax.workdir.trained import TrainedCglo
from configs import digits
from experiments.harness import entry, paths

RESULTS = paths.RESULTS / "added_images.jsonl"
SHOTS = 5
NOISES = 8  # draws of eps that a loss is the mean of


def take(dataset: data.Dataset, positions: np.ndarray) -> data.Dataset:
    """Returns the images at `positions`."""
    return dataclasses.replace(
        dataset,
        images=dataset.images[positions],
        labels=dataset.labels[positions],
        ids=tuple(dataset.ids[i] for i in positions),
    )


def loss(
    spec: algorithm.StepSpec, model: TrainedCglo, z: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Computes the reconstruction loss [n] of each of `images` [n, H, W, C] by its code of z [n, d]."""
    generator = spec.generator.clone(axis_name=None)
    total = np.zeros(len(z))
    for draw in range(NOISES):
        keys = jax.random.split(jax.random.key(draw), len(z))
        eps = generator.draw_noise(keys, z.shape[1])
        y = generator.apply(model.variables, z, eps, train=False)
        total += spec.reconstruction(y, data.to_float(images), {})
    return total / NOISES


def measure(
    config: ConfigDict, all_images: data.Dataset, seed: int
) -> dict[str, float]:
    """Returns the mean losses of the added images by the kind of code they have."""
    position = np.arange(len(all_images.ids)) % SHOTS
    old, added = (
        np.flatnonzero(position < SHOTS - 1),
        np.flatnonzero(position == SHOTS - 1),
    )
    none = take(all_images, added[:0])  # nothing is tested
    spec = algorithm.create_spec(config, all_images)
    with (
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
    ):
        workdirs = pathlib.Path(first), pathlib.Path(second)
        train.run(config, workdirs[0], take(all_images, old), seed)
        before = trained.restore(config, workdirs[0], take(all_images, old), seed)
        fit_codes.run(config, workdirs[0], (all_images, none), seed)
        fitted = trained.restore(config, workdirs[0], all_images, seed)
        train.run(config, workdirs[1], all_images, seed)
        jointly = trained.restore(config, workdirs[1], all_images, seed)
    images = all_images.images[added]
    of_class = before.z.reshape(-1, SHOTS - 1, config.latent.dim)
    best = [loss(spec, before, of_class[:, k], images) for k in range(SHOTS - 1)]
    drawn = codes.draw_codes(jax.random.key(seed), fitted.ids, config.latent.dim)
    return {
        "random code": loss(spec, before, np.asarray(drawn)[added], images).mean(),
        "best code of the class": np.min(best, axis=0).mean(),
        "fitted code": loss(spec, fitted, fitted.z[added], images).mean(),
        "trained jointly": loss(spec, jointly, jointly.z[added], images).mean(),
    }


def main() -> None:
    """Measures three seeds."""
    config = digits.get_config()
    config.dataset.shots = SHOTS
    all_images, _ = data.load(config.dataset)
    rows = []
    for seed in config.seeds:
        losses = {k: float(v) for k, v in measure(config, all_images, seed).items()}
        used = environment(jax.local_devices()[:1])
        rows.append({"seed": seed, **losses, "environment": used})
    names = [name for name in rows[0] if name != "environment"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        cells = [str(row["seed"]), *(f"{row[name]:.3f}" for name in names[1:])]
        print(f"| {' | '.join(cells)} |")
    storage.write_atomically(RESULTS, "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    entry.run(main)
