"""Tests of cglo_jax/memory.py: what is projected, what is free, and the refusal."""

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import create_config, create_dataset

from cglo_jax import cglo, classifier, classify, memory, parallel, synthesis, train
from cglo_jax.errors import UserError

DEVICES = tuple(jax.local_devices()[:1])
ROW = 4096  # bytes of a row of 1024 floats


class Shared(NamedTuple):
    weights: jax.Array


def project(step, rows=1, devices=DEVICES):
    """-> what a step needs whose state is [n, 1024], whose weights are [1024]."""
    state = {"x": jax.ShapeDtypeStruct((rows, 1024), jnp.float32)}
    shared = Shared(np.ones(1024, np.float32))
    batch = parallel.shard(np.zeros(4, np.int32), devices)
    return memory.project(parallel.MappedStep(step, devices), state, shared, batch)


def in_one_place(state, shared, batch):
    x = state["x"].at[batch].add(shared.weights)
    return {"x": x}, {}


def with_a_chain(state, shared, batch):
    a = jnp.sin(state["x"][batch])  # four rows, and the four that they are made of
    b = jnp.cos(a)  # four more, the rows are not needed any more
    return {"x": state["x"] + (a.sum() + b.sum())}, {}


def test_results_are_counted_while_they_are_needed():
    parts = project(with_a_chain, 16)
    assert parts["state"] == 16 * ROW and parts["weights"] == ROW
    # a and b together, and scalars; the new state lies where the old one is.
    assert 8 * ROW <= parts["a step"] < 8.5 * ROW


def test_new_state_takes_the_place_of_the_old():
    small, large = (project(in_one_place, rows)["a step"] for rows in (16, 1024))
    assert small == large < 9 * ROW


@dataclasses.dataclass
class Case:
    """A trainer's step with all it takes."""

    step_fn: parallel.MappedStep
    state: object
    shared: object

    def compare(self, batch_size=16):
        """-> (projected, XLA's own) bytes of temporary arrays."""
        indices = parallel.shard(np.arange(batch_size, dtype=np.int32), DEVICES)
        arguments = (self.state, self.shared, indices)
        projected = memory.project(self.step_fn, *arguments)
        compiled = self.step_fn.lower(*arguments).compile()
        analysis = compiled.memory_analysis()
        parts = dict(projected)
        del parts["a step"]
        arguments = sum(parts.values()) + indices.nbytes
        assert arguments == pytest.approx(analysis.argument_size_in_bytes, rel=0.01)
        return projected["a step"], analysis.temp_size_in_bytes


def of_cglo(loss):
    changes = {"reconstruction.loss": loss, "reconstruction.weights": "random"}
    config = create_config(**changes, **{"generator.width": 16})
    dataset = create_dataset(24, size=32, channels=3)
    spec = cglo.create_spec(config, dataset)
    vgg, _ = train.load_vgg(config)
    init = functools.partial(cglo.init_state, spec=spec, n=24, dim=8)
    key = jax.random.key(0)
    shared = cglo.create_shared(key, dataset, vgg, 1.0, spec=spec, outline=True)
    step_fn = train.compiled_step(spec, True, DEVICES)
    return Case(step_fn, jax.eval_shape(init, key), shared)


def of_classifier():
    config = create_config(**{"classify.width": 4})
    dataset = create_dataset(24, size=32, channels=3)
    spec = classifier.create_spec(config, dataset, "baseline")
    init = functools.partial(classifier.init_state, spec=spec)
    key = jax.random.key(0)
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((24, 0), np.float32)}
    sampler = synthesis.create_sampler(model, dataset)
    weights = dataset.class_weights
    shared = classifier.Shared(key, dataset.images, None, weights, sampler)
    step_fn = classify.compiled_step(spec, DEVICES)
    return Case(step_fn, jax.eval_shape(init, key), shared)


@pytest.mark.parametrize(
    "create",
    [
        functools.partial(of_cglo, "perceptual"),
        functools.partial(of_cglo, "laplacian"),
        of_classifier,
    ],
    ids=["perceptual", "laplacian", "classifier"],
)
def test_what_is_projected_is_what_xla_allocates(create):
    projected, allocated = create().compare()
    assert 0.6 < projected / allocated < 1.6


def test_an_image_takes_its_code_its_moments_and_its_pixels():
    config = create_config(**{"latent.dim": 128})
    total = []
    for n in (100, 1100):
        dataset = create_dataset(n)
        spec = cglo.create_spec(config, dataset)
        init = functools.partial(cglo.init_state, spec=spec, n=n, dim=128)
        key = jax.random.key(0)
        shared = cglo.create_shared(key, dataset, {}, 0, spec=spec)
        batch = parallel.shard(np.arange(8, dtype=np.int32), DEVICES)
        step_fn = train.compiled_step(spec, True, DEVICES)
        state = jax.eval_shape(init, key)
        total.append(sum(memory.project(step_fn, state, shared, batch).values()))
    # z, two moments, a count and a label of 4 bytes each; 8 x 8 bytes of pixels.
    expected = 3 * 128 * 4 + 4 + 4 + 64
    assert (total[1] - total[0]) / 1000 == pytest.approx(expected, rel=0.001)


def refuse(monkeypatch, free, devices=DEVICES):
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    config = create_config()
    state = {"x": jax.ShapeDtypeStruct((250_000, 1024), jnp.float32)}
    step_fn = parallel.MappedStep(in_one_place, devices)
    shared = Shared(np.ones(1024, np.float32))
    arguments = (step_fn, state, shared, (4,), devices, "lower it")
    memory.check(config, *arguments)


def test_what_does_not_fit_is_refused_with_the_arithmetic(monkeypatch):
    message = (
        r"^training needs about 1\.02 GB of memory \(state 1\.02\), 1\.00 GB are free: "
        r"lower it, or try it with --config\.check_memory=False$"
    )
    with pytest.raises(UserError, match=message):
        refuse(monkeypatch, 10**9)
    refuse(monkeypatch, int(1.1e9))
    refuse(monkeypatch, None)
    with pytest.raises(UserError, match=r"2\.05 GB of memory \(2 devices x \(state 1"):
        refuse(monkeypatch, int(1.1e9), tuple(jax.local_devices()[:2]))


@pytest.mark.parametrize("stage", ["train", "classify"])
def test_a_run_that_does_not_fit_compiles_nothing(
    stage, tmp_path, tiny_dataset, monkeypatch, compilations
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    config = create_config(**{"classify.methods": ("baseline",)})

    def run(config):
        if stage == "train":
            return train.run(config, tmp_path, tiny_dataset, 0)
        data = (tiny_dataset, create_dataset(9, split="test"))
        return classify.run(config, tmp_path, data, "baseline", 0)

    with pytest.raises(UserError, match=rf"0\.00 GB are free: lower config\.{stage}"):
        run(config)
    assert len(compilations) <= 2  # keys
    assert not list(tmp_path.iterdir())
    run(create_config(check_memory=False, **{"classify.methods": ("baseline",)}))
    assert len(compilations) > 4


def write_host(folder, monkeypatch, available_kb, **cgroup):
    (folder / "meminfo").write_text(
        f"MemTotal: 16000000 kB\nMemAvailable:    {available_kb} kB\n"
    )
    for name, text in cgroup.items():
        (folder / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", folder / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", folder)


def test_free_memory_of_the_host(tmp_path, monkeypatch):
    free = functools.partial(memory.free_bytes, DEVICES[0])
    write_host(tmp_path, monkeypatch, 2000)
    assert free() == 2000 * 1024
    write_host(
        tmp_path,
        monkeypatch,
        2000,
        max="1000000\n",
        current="300000\n",
        stat="anon 1\ninactive_file 50000\n",
    )
    assert free() == 750_000
    write_host(tmp_path, monkeypatch, 2000, max="max\n")
    assert free() == 2000 * 1024
    monkeypatch.setattr(memory, "_MEMINFO", pathlib.Path("/no/such/file"))
    assert free() is None


def test_free_memory_of_a_gpu():
    class Gpu:
        platform = "gpu"

        def __init__(self, stats):
            self.memory_stats = lambda: stats

    stats = {"bytes_limit": 60_000, "bytes_in_use": 10_000}
    assert memory.free_bytes(Gpu(stats)) == 50_000
    assert memory.free_bytes(Gpu(None)) is None
