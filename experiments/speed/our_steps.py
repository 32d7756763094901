"""Training steps of ours with random images and weights, to measure them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, sampling
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.data.dataset import Dataset
from cglo_jax.stages import classify, train
from cglo_jax.training import parallel
from experiments.harness import machine

IMAGES = 1000  # in memory
Program = Callable[[], Any]  # takes a step, returns what to wait for


def create_dataset(config: ConfigDict, classes: int, n: int = 0) -> Dataset:
    """Makes n random images of the size that `config` trains on; 0: enough for a step's timing."""
    side = config.dataset.crop or config.dataset.size or 32
    rng = np.random.default_rng(0)
    n = n or (IMAGES if side == 32 else 64)
    return Dataset(
        images=rng.integers(0, 256, (n, side, side, 3), np.uint8),
        labels=(np.arange(n) % classes).astype(np.int32),
        class_names=tuple(map(str, range(classes))),
        ids=tuple(map(str, range(n))),
        split="train",
    )


def prepare(config: ConfigDict) -> ConfigDict:
    """Changes a configuration to random weights and the type that the device is best at."""
    config.external_weights = False
    config.reconstruction.weights = config.classify.weights = "random"
    config.dtype = machine.compute_dtype()
    return config


def prepare_classifier(config: ConfigDict) -> ConfigDict:
    """Changes a configuration as `prepare` does, for a classifier's step: on CPU of 16 images."""
    config.classify.dropout = 0.0
    if not machine.on_gpu():
        config.classify.batch_size = 16
    return prepare(config)


def create_batches(n: int, size: int) -> Callable[[], np.ndarray]:
    """Returns what gives the indices of `size` of n images, others every time."""
    rng = np.random.default_rng(1)
    return lambda: rng.choice(n, size, replace=False).astype(np.int32)


class Ours(NamedTuple):
    """A step of ours with all that it takes."""

    step_fn: parallel.MappedStep
    state: Any
    shared: Any
    batches: Callable[[], np.ndarray]

    def shard(self) -> jax.Array:
        """Returns the next batch on the device."""
        return parallel.shard(self.batches(), jax.local_devices()[:1])

    def create_program(self, per_call: int = 1) -> Program:
        """Returns what takes a step; it gives the state away, and can be asked for once.

        Args:
          per_call: steps that are collected, and taken in one call of Python.
        """
        state, metrics, waiting = self.state, None, []
        devices = jax.local_devices()[:1]

        def step() -> Any:
            nonlocal state, metrics
            waiting.append(self.batches())
            if len(waiting) == per_call == 1:
                batch = parallel.shard(waiting.pop(), devices)
                state, metrics = self.step_fn(state, self.shared, batch)
            elif len(waiting) == per_call:
                batches = parallel.shard_steps(np.stack(waiting), devices)
                waiting.clear()
                state, metrics = self.step_fn.several(state, self.shared, batches)
            return metrics

        return step

    def count_flops(self) -> float:
        """Returns the FLOPs of a step, before XLA optimises it."""
        lowered = self.step_fn.lower(self.state, self.shared, self.shard())
        return lowered.cost_analysis()["flops"]


def our_cglo(config: ConfigDict, dataset: Dataset, cache_gb: float) -> Ours:
    """Returns the step of cGLO."""
    devices = tuple(parallel.choose_devices(1))
    spec = algorithm.create_spec(config, dataset)
    vgg, _ = train.load_vgg(config)
    key, n, dim = jax.random.key(0), len(dataset.ids), config.latent.dim
    shared = algorithm.create_shared(key, dataset, vgg, cache_gb, spec=spec)
    shared = algorithm.compute_features(shared, spec=spec)
    shared = parallel.replicate(shared, devices)
    state = parallel.create_replicated(
        algorithm.init_state, devices, key, spec=spec, n=n, dim=dim
    )
    step_fn = train.compiled_step(spec, True, devices)
    return Ours(step_fn, state, shared, create_batches(n, config.train.batch_size))


def our_classifier(config: ConfigDict, dataset: Dataset) -> Ours:
    """Returns the step of the baseline classifier."""
    devices = tuple(parallel.choose_devices(1))
    spec = classifier.create_spec(
        config, *dataset.side_and_channels, dataset.num_classes, METHODS["baseline"]
    )
    n = len(dataset.ids)
    nothing = {"params": {}, "batch_stats": {}}
    z = np.zeros((n, 0), np.float32)
    sampler = sampling.create_sampler(nothing, z, dataset.labels, dataset.num_classes)
    key = jax.random.key(0)
    shared = classifier.Shared(
        key, dataset.images, None, dataset.class_weights, sampler
    )
    shared = parallel.replicate(shared, devices)
    state = parallel.create_replicated(classifier.init_state, devices, key, spec=spec)
    step_fn = classify.compiled_step(spec, devices)
    return Ours(step_fn, state, shared, create_batches(n, config.classify.batch_size))


def take_turns(
    programs: Mapping[str, Program],
    turns: int,
    steps: int,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> dict[str, list[float]]:
    """Returns {program: seconds per step of each turn}, after a turn to warm up.

    Programs take turns, A B C A B C ..., as timings of shared machines drift. A turn starts with a
    step that is not timed: memory that the last program freed has to be allocated again.
    """
    times = {name: [] for name in programs}
    for turn in range(turns + 1):
        for name, step in programs.items():
            wait(step())
            began = time.perf_counter()
            for _ in range(steps):
                result = step()
            wait(result)
            if turn:
                times[name].append((time.perf_counter() - began) / steps)
    return times


def quartiles(values: Sequence[float], form: str) -> str:
    """Returns the median and, in brackets, the quartiles, in a format such as ".1f"."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"
