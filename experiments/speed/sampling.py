"""How many images a second `--stage=sample` makes: G alone, to memory, to disk.

    python -m experiments.speed.sampling              # 3 minutes on two cores

A generator with random weights makes images between random codes: of CIFAR-100's shape (32 px) and
of CUB-200's (224 px). "G alone" computes batches and leaves them on the device; "to memory" is what
`sampler.synthesize_classes` yields, uint8 on the host; "to disk" are PNGs, their digests and the
manifest, as the stage writes them; what disk that is, TMPDIR says. The three take turns, after one
turn to warm up.
"""

import argparse
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, codes, sampling
from cglo_jax.data.dataset import Dataset, batch_that_fits
from cglo_jax.files import storage
from cglo_jax.inference import sampler
from cglo_jax.stages import sample
from configs import cifar100, cub
from experiments.harness import entry, machine, paths
from experiments.speed import our_steps

CLASSES = 4
RESULTS = paths.RESULTS / "benchmark_sampling.jsonl"


def create_model(config: ConfigDict, dataset: Dataset) -> sampler.Restored:
    """Creates a cGLO with random weights and codes, as `sampler.restore` gives a trained one."""
    spec = sampling.create_sample_spec(
        config, *dataset.side_and_channels, axis_name=None
    )
    dim, keys = config.latent.dim, jax.random.split(jax.random.key(0))
    init = functools.partial(algorithm.init_generator, spec.generator, dim=dim)
    normal = jax.random.normal(keys[1], (len(dataset.ids), dim))
    z = np.asarray(codes.project_codes(normal))
    untrained = sampling.create_sampler(
        jax.jit(init)(keys[0]), z, dataset.labels, dataset.num_classes
    )
    return sampler.Restored(untrained, spec, z, 0)


def create_ways(
    config: ConfigDict, dataset: Dataset, per_class: int
) -> dict[str, Callable[[], int]]:
    """Returns {way: what makes images in it and returns how many}."""
    model = create_model(config, dataset)
    key, n = jax.random.key(0), per_class * len(dataset.class_names)
    size = batch_that_fits(dataset.images.shape[1])
    indices = np.arange(size, dtype=np.int32) % len(dataset.ids)
    keys = codes.example_keys(key, jnp.asarray(indices))

    def alone() -> int:
        batches = -(-n // size)
        for _ in range(batches):
            made = sampler._synthesize_uint8(
                model.sampler, keys, indices, spec=model.spec
            )
        jax.block_until_ready(made)
        return batches * size

    def to_memory() -> int:
        batches = sampler.synthesize_classes(model, key, per_class)
        return sum(len(batch[0]) for batch in batches)

    def to_disk() -> int:
        with tempfile.TemporaryDirectory() as directory:
            return sample.write_images(
                pathlib.Path(directory), dataset, model, key, per_class, {}
            )

    return {"G alone": alone, "to memory": to_memory, "to disk": to_disk}


def main() -> None:
    """Measures both sizes and appends a line each to RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    print("| images | way | images/s (quartiles) | of G alone |\n|---|---|---|---|")
    for name, config, batches in (
        ("32 px", cifar100.get_config("10"), 8),
        ("224 px", cub.get_config("10"), 4),
    ):
        config = our_steps.prepare(config)
        dataset = our_steps.create_dataset(config, CLASSES)
        size = batch_that_fits(dataset.images.shape[1])
        ways = create_ways(config, dataset, batches * size // CLASSES)
        rates = {way: [] for way in ways}
        for turn in range(args.turns + 1):
            for way, make in ways.items():
                began = time.perf_counter()
                made = make()
                if turn:
                    rates[way].append(made / (time.perf_counter() - began))
        for way, own in rates.items():
            pairs = zip(own, rates["G alone"], strict=True)
            share = statistics.median(a / b for a, b in pairs)
            spread = our_steps.quartiles(own, ",.0f")
            print(f"| {name} | {way} | {spread} | {share:.2f} |", flush=True)
        record = {"row": name, "images_per_s": rates, **machine.describe()}
        storage.append_record(RESULTS, record)


if __name__ == "__main__":
    entry.run(main)
