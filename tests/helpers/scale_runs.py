"""What tests/programs/scale_test.py compares between numbers of devices: draws, losses, bytes.

python scale_runs.py QUESTIONS prints the answers of eight devices as JSON, see `main`.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import numpy as np

from cglo_jax.cglo import algorithm, sampling
from cglo_jax.cglo.algorithm import Schedule
from cglo_jax.classifier import methods, mixmatch
from cglo_jax.classifier import step as classifier
from cglo_jax.files import storage
from cglo_jax.models.generator import Generator
from cglo_jax.stages import classify, previews, train
from cglo_jax.training import memory, parallel
from cglo_jax.training.batches import BatchOrder
from tests.helpers import tiny
from tests.helpers.tiny import create_config, create_dataset

_BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
Draws = dict[str, list[np.ndarray]]  # by what is drawn: [B, ...] of each step


@contextlib.contextmanager
def recorded(module: Any, name: str, told: Callable[..., Any]) -> Iterator[Draws]:
    """Records what a function inside a mapped step draws, of all devices in order.

    Args:
      told: (result, *arguments) -> {name: [B, ...]}.
    """
    function, parts = getattr(module, name), []

    def record(place: jax.Array, drawn: dict[str, jax.Array]) -> None:
        parts.append((int(place), jax.tree.map(np.array, drawn)))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        place = jax.lax.axis_index(parallel.AXIS)
        jax.debug.callback(record, place, told(result, *args))
        return result

    draws: Draws = {}
    with mock.patch.object(module, name, wrapped):
        yield draws
    jax.effects_barrier()
    count = 1 + max(place for place, _ in parts)
    rows = [[told for place, told in parts if place == i] for i in range(count)]
    for of_step in zip(*rows, strict=True):
        for key in of_step[0]:
            step = np.concatenate([told[key] for told in of_step])
            draws.setdefault(key, []).append(step)


def run(workdir: pathlib.Path, devices: int) -> None:
    """Runs or resumes a small cGLO of 6 steps, with a checkpoint in their middle."""
    config = create_config(devices=devices)
    train.run(config, workdir, create_dataset(), 0)


def train_on(workdir: pathlib.Path, devices: int) -> tuple[Draws, list[float]]:
    """Runs or resumes a small cGLO; returns its order and noise, and all losses logged."""
    train.compiled_step.cache_clear()  # what was compiled records elsewhere
    order: list[np.ndarray] = []
    call = Schedule.__call__

    def choose(self: Schedule, step: int) -> tuple[bool, np.ndarray]:
        labelled, batch = call(self, step)
        order.append(batch)
        return labelled, batch

    def noise(
        eps: jax.Array, generator: Generator, keys: jax.Array, dim: int
    ) -> dict[str, jax.Array]:
        return {"noise": eps}

    with (
        mock.patch.object(Schedule, "__call__", choose),
        recorded(Generator, "draw_noise", noise) as draws,
    ):
        run(workdir, devices)
    del order[1]  # of the step whose memory is checked, when the first is known
    lines = storage.read_records(workdir / "metrics.jsonl")
    return {**draws, "order": order}, [line["loss"] for line in lines]


class Linear(nn.Module):
    """A classifier that compiles fast."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict]:
        self.variable("batch_stats", "none", lambda: 0.0)
        return nn.Dense(3)(x.reshape(len(x), -1)), {}


def classify_on(method: str, devices: int, steps: int = 3) -> Draws:
    """Takes steps of a classifier's training; returns what its images were made of."""
    dataset, config = create_dataset(unlabelled=9), create_config()
    spec = classifier.create_spec(
        config, *dataset.side_and_channels, dataset.num_classes, methods.METHODS[method]
    )
    spec = dataclasses.replace(spec, model=Linear())
    of_cglo = train.split_state(
        algorithm.init_state(
            jax.random.key(5), spec=algorithm.create_spec(config, dataset), n=24, dim=8
        )
    )[0]
    shared = classifier.Shared(
        jax.random.key(1),
        dataset.images,
        None,
        dataset.class_weights,
        tiny.create_sampler(jax.device_get(of_cglo), dataset),
    )
    places = tuple(jax.local_devices()[:devices])
    order = BatchOrder(jax.random.key(2), np.arange(15), 8)
    pool = BatchOrder(jax.random.key(3), np.arange(15, 24), 8)
    constants = mixmatch.MixMatch.create(config) if method == "mixmatch" else None
    classify.compiled_step.cache_clear()  # what was compiled records elsewhere
    step = classify.compiled_step(spec, places, constants)
    shared = parallel.replicate(shared, places)
    state = parallel.create_replicated(
        classifier.init_state, places, jax.random.key(0), spec=spec
    )
    with _recorded_of(method) as draws:
        for s in range(steps):
            batch = order(s)
            if constants:
                batch = np.stack([batch, pool(s)], 1)
            state, _ = step(state, shared, parallel.shard(batch, places))
    return draws


def _recorded_of(method: str) -> contextlib.AbstractContextManager[Draws]:
    if method == "cglo":
        return recorded(
            sampling,
            "draw_pairs",
            lambda made, *_: {"partner": made[0], "t": made[1]},
        )
    if method == "mixmatch":
        return recorded(
            mixmatch,
            "mix_batches",
            lambda made, *_: {"mixed": made[0].swapaxes(0, 1)},
        )
    return recorded(classifier, "create_batch", lambda made, *_: {"images": made[0]})


def crossing(hlo: str) -> int:
    """Returns the bytes of the results of a program's sums and gathers over devices."""
    total = 0
    for line in hlo.splitlines():
        made = re.match(r"\s*(?:ROOT )?%\S+ = (.*?) (?:all-|reduce-sc|coll)\S*\(", line)
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", made[1]) if made else ():
            total += _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return total


def count_bytes(n: int) -> dict[str, int]:
    """Returns the bytes that cross devices in a labelled step among n images, and of what."""
    sizes = {"generator.width": 16, "generator.max_width": 64, "latent.dim": 64}
    config = create_config(**sizes, **{"weak_classifier.width": 16})
    spec = algorithm.create_spec(config, create_dataset(size=16))
    devices = tuple(jax.local_devices())
    init = functools.partial(algorithm.init_state, spec=spec, n=n, dim=64)
    state = jax.eval_shape(init, jax.random.key(0))
    shape = jax.ShapeDtypeStruct
    images, labels = shape((n, 16, 16, 1), np.uint8), shape((n,), np.int32)
    weights = shape((3,), np.float32)
    shared = algorithm.Shared(jax.random.key(0), images, labels, weights, {}, {})
    batch = shape((len(devices), 8), np.int32)
    step = train.compiled_step(spec, True, devices)
    return {
        "crossing": crossing(step.lower(state, shared, batch).compile().as_text()),
        "parameters": memory.tree_bytes(state.params),
        "batch_stats": memory.tree_bytes(state.batch_stats),
        "row": memory.tree_bytes(state.codes) // n,
        "rows": math.prod(batch.shape),
    }


METHODS = ("baseline", "cglo", "mixmatch")


def main(questions: Sequence[str]) -> None:
    """Prints answers: "bytes", a method's draws, or how the run in a directory is resumed."""
    count, answers = jax.local_device_count(), {}
    for question in questions:
        if question == "bytes":
            answers[question] = [count_bytes(n) for n in (1_000, 100_000)]
        elif question in METHODS:
            answers[question] = classify_on(question, count)
        else:
            answers[question] = train_on(pathlib.Path(question), count)
    print(json.dumps([count, answers], default=np.ndarray.tolist))


if __name__ == "__main__":
    previews.draw = lambda *_: {}  # of other draws, which are not asked for
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"  # the last
    main(sys.argv[1:])
