"""Tests of cglo_jax/training/memory.py: what is projected, what is free, and the refusal."""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm
from cglo_jax.errors import UserError
from cglo_jax.stages import classify, train
from cglo_jax.training import memory, parallel
from tests.helpers.tiny import create_config, create_dataset

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


def to_another_place(state, shared, batch):
    x = jnp.sort(state["x"], 0)  # not in place
    return {"x": x + x[::-1]}, {"x": x}


def test_new_state_takes_the_place_of_the_old():
    small, large = (project(in_one_place, rows)["a step"] for rows in (16, 1024))
    assert small == large < 9 * ROW


def test_temporary_arrays_and_results_are_counted():
    parts = project(to_another_place, 1024)
    assert parts["state"] == 1024 * ROW and parts["weights"] == ROW
    assert 1024 * ROW <= parts["a step"] < 3 * 1024 * ROW


@pytest.mark.parametrize("several", [False, True])
def test_the_program_whose_plan_is_read_is_the_one_that_takes_the_steps(
    several, compilations
):
    state = parallel.replicate({"x": np.ones((16, 1024), np.float32)}, DEVICES)
    host = Shared(np.ones(1024, np.float32))
    batches = np.arange(8, dtype=np.int32).reshape(2, 4)
    step_fn = parallel.MappedStep(in_one_place, DEVICES)
    if several:
        batch = parallel.shard_steps(batches, DEVICES)
    else:
        batch = parallel.shard(batches[0], DEVICES)
    before = len(compilations)
    memory.check(step_fn, state, host, batch, section="train", several=several)
    assert len(compilations) == before + 1
    take = step_fn.several if several else step_fn
    state, _ = take(state, parallel.replicate(host, DEVICES), batch)
    assert len(compilations) == before + 1
    assert float(state["x"].sum()) == (16 + (8 if several else 4)) * 1024


def test_a_backend_without_plans_counts_arrays_only(monkeypatch):
    monkeypatch.setattr(parallel.MappedStep, "plan_memory", lambda *_, **__: None)
    assert project(in_one_place, 16) == {"state": 16 * ROW, "weights": ROW, "a step": 0}


def test_an_image_takes_its_code_its_moments_and_its_pixels():
    config = create_config(**{"latent.dim": 128})
    total = []
    for n in (100, 1100):
        dataset = create_dataset(n)
        spec = algorithm.create_spec(config, dataset)
        init = functools.partial(algorithm.init_state, spec=spec, n=n, dim=128)
        key = jax.random.key(0)
        shared = algorithm.create_shared(key, dataset, {}, 0, spec=spec)
        batch = parallel.shard(np.arange(8, dtype=np.int32), DEVICES)
        step_fn = train.compiled_step(spec, True, DEVICES)
        state = jax.eval_shape(init, key)
        total.append(sum(memory.project(step_fn, state, shared, batch).values()))
    # z, two moments, a count and a label of 4 bytes each; 8 x 8 bytes of pixels.
    expected = 3 * 128 * 4 + 4 + 4 + 64
    assert (total[1] - total[0]) / 1000 == pytest.approx(expected, rel=0.001)


class Large(NamedTuple):
    images: jax.Array
    features: jax.Array
    labels: jax.Array


def ignores_all(state, shared, batch):
    return state, {"sum": (shared.features[batch] * 2).sum()}


def refuse(monkeypatch, free, features=100_000, devices=1):
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    shapes = [(50_000, 1024), (features, 1024), (1000, 1024)]
    large = Large(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    devices = jax.local_devices()[:devices]
    batch = parallel.shard(np.arange(8, dtype=np.int32), devices)
    step_fn, state = parallel.MappedStep(ignores_all, devices), {"x": np.zeros(3)}
    memory.check(step_fn, state, large, batch, section="train")


def test_what_does_not_fit_is_refused_with_the_arithmetic(monkeypatch):
    # 205, 410 and 4 MB of arrays; the features are on the host once more while they are copied.
    message = (
        r"^training needs about 1\.03 GB of memory \(images 0\.20 \+ features 0\.41 \+ "
        r"other 0\.00 \+ a copy of the features 0\.41\), 1\.00 GB are free: lower "
        r"config\.reconstruction\.cache_gb, or try it with --config\.check_memory=False$"
    )
    with pytest.raises(UserError, match=message):
        refuse(monkeypatch, 10**9)
    refuse(monkeypatch, int(1.1e9))
    refuse(monkeypatch, None)
    with pytest.raises(UserError, match=r"1\.65 GB .*\(2 devices x \(images 0\.20 \+"):
        refuse(monkeypatch, int(1.5e9), devices=2)
    with pytest.raises(UserError, match="free: use fewer or smaller images, or"):
        refuse(monkeypatch, 10**8, features=10)
    monkeypatch.setattr(parallel, "processes_here", lambda: 3)
    with pytest.raises(UserError, match=r"\(6 devices x \(images 0\.20 \+"):
        refuse(monkeypatch, int(1.5e9), devices=2)


@pytest.mark.parametrize("stage", ["train", "classify"])
def test_a_run_that_does_not_fit_takes_no_step(
    stage, tmp_path, tiny_dataset, monkeypatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    config = create_config(**{"classify.methods": ("baseline",)})

    def run(config):
        if stage == "train":
            return train.run(config, tmp_path, tiny_dataset, 0)
        data = (tiny_dataset, create_dataset(9, split="test"))
        return classify.run(config, tmp_path, data, "baseline", 0)

    steps = []
    spied = parallel.MappedStep.__call__
    monkeypatch.setattr(
        parallel.MappedStep, "__call__", lambda *a: steps.append(a) or spied(*a)
    )
    with pytest.raises(UserError, match=rf"0\.00 GB are free: lower config\.{stage}"):
        run(config)
    assert not [a for a in steps if not isinstance(a[-1], jax.core.Tracer)]
    run(create_config(check_memory=False, **{"classify.methods": ("baseline",)}))
    assert [a for a in steps if not isinstance(a[-1], jax.core.Tracer)]
    run(create_config(**{"classify.methods": ("baseline",)}))  # it is finished


@pytest.fixture(name="host")
def _host(tmp_path, monkeypatch):
    """A made-up /proc and /sys/fs/cgroup; -> what writes a file there."""

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    write("meminfo", "MemTotal: 16000000 kB\nMemAvailable:    2000 kB\n")
    return write


def free() -> int | None:
    return memory.free_bytes(DEVICES[0])


def test_free_memory_of_the_host(host, monkeypatch):
    assert free() == 2000 * 1024
    monkeypatch.setattr(memory, "_MEMINFO", pathlib.Path("/no/such/file"))
    assert free() is None


def test_free_memory_of_nested_control_groups(host):
    host("own", "0::/a/b\n")
    for group, limit in (("", "max"), ("a", "900000"), ("a/b", "1000000")):
        host(f"cgroup/{group}/memory.max", f"{limit}\n")
        host(f"cgroup/{group}/memory.current", "300000\n")
        host(f"cgroup/{group}/memory.stat", "anon 1\ninactive_file 5\nactive_file 20\n")
    assert free() == 600_025
    host("own", "0::/of/the/host\n")  # the container's own are at the top
    host("cgroup/memory.max", "500000\n")
    assert free() == 200_025
    host("cgroup/memory.max", "100\n")
    assert free() == 0


def test_free_memory_of_control_groups_of_version_1(host):
    host("own", "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n")
    host("cgroup/memory/x/memory.limit_in_bytes", "800000\n")
    host("cgroup/memory/x/memory.usage_in_bytes", "300000\n")
    host("cgroup/memory/x/memory.stat", "inactive_file 7\n")
    assert free() == 500_007


def test_free_memory_of_a_gpu():
    class Gpu:
        platform = "gpu"

        def __init__(self, stats):
            self.memory_stats = lambda: stats

    stats = {"bytes_limit": 60_000, "bytes_in_use": 10_000}
    assert memory.free_bytes(Gpu(stats)) == 50_000
    assert memory.free_bytes(Gpu(None)) is None
