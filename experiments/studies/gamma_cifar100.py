"""What gamma does to reconstruction on CIFAR-100, 10 images per class: why its default is .02.

    python -m experiments.studies.gamma_cifar100 --data_dir=DIR    # prepared TFDS directory; minutes

Trains the cGLO of configs/cifar100.py:10,cpu for 250 steps with each gamma and prints the mean of
the last ten reconstruction losses (Laplacian pyramid + pixel L1) beside that of two images without
a model. No classifier is trained and no test image read.
"""

import argparse
import statistics

import jax
import numpy as np

from cglo_jax.cglo import algorithm, losses
from cglo_jax.data import dataset as data
from cglo_jax.files import storage
from cglo_jax.stages import train
from cglo_jax.training import parallel
from cglo_jax.training.batches import Schedule
from cglo_jax.workdir.results import environment
from configs import cifar100
from experiments.harness import entry, machine, paths

RESULTS = paths.RESULTS / "gamma_cifar100.jsonl"
GAMMAS = (0.0, 0.02, 0.1, 0.5)
STEPS = 250


def reconstruction_after(gamma: float, dataset: data.Dataset) -> float:
    """Returns the mean reconstruction loss of the last ten of STEPS steps, seed 0."""
    config = cifar100.get_config("10,cpu")
    config.weak_classifier.gamma = gamma
    devices = tuple(parallel.choose_devices(1))
    spec = algorithm.create_spec(config, dataset)
    key_init, key_step, key_order = jax.random.split(jax.random.key(0), 3)
    shared = algorithm.create_shared(key_step, dataset, {}, cache_gb=0, spec=spec)
    shared = parallel.replicate(shared, devices)
    schedule = Schedule(config, dataset, key_order, devices)
    constants = {"spec": spec, "n": len(dataset.ids), "dim": config.latent.dim}
    state = parallel.create_replicated(
        algorithm.init_state, devices, key_init, **constants
    )
    step_fn = train.compiled_step(spec, True, devices)
    values = []
    for step in range(STEPS):
        _, indices = schedule(step)
        state, metrics = step_fn(state, shared, parallel.shard(indices, devices))
        values.append(metrics["reconstruction"])
    return statistics.mean(map(float, values[-10:]))


def without_model(dataset: data.Dataset) -> dict[str, float]:
    """Returns the loss of the mean image, and of each image's own mean colour."""
    x = data.to_float(dataset.images)
    constants = {"mean image": x.mean(0), "mean colour": x.mean((1, 2), keepdims=True)}
    return {
        name: float((losses.laplacian_loss(x, y) + losses.pixel_l1(x, y)).mean())
        for name, y in ((n, np.broadcast_to(c, x.shape)) for n, c in constants.items())
    }


def main() -> None:
    """Prints a Markdown table and appends its rows to RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="", help="prepared TFDS directory")
    config = cifar100.get_config("10,cpu")
    config.dataset.data_dir = parser.parse_args().data_dir
    dataset, _ = data.load(config.dataset)
    rows: dict[str, float] = without_model(dataset)
    rows |= {f"gamma {g:g}": reconstruction_after(g, dataset) for g in GAMMAS}
    common = {
        "steps": STEPS,
        "date": machine.today(),
        "environment": environment(jax.local_devices()[:1]),
    }
    print("| | reconstruction loss |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.3f} |")
        storage.append_record(RESULTS, {"run": name, "reconstruction": value, **common})


if __name__ == "__main__":
    entry.run(main)
