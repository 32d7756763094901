"""Tests of cglo_jax/training/parallel.py on four CPU devices (conftest.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.errors import UserError
from cglo_jax.training import parallel

FOUR = jax.local_devices()[:4]


def test_choose_devices_takes_the_first_or_all():
    assert parallel.choose_devices(2) == FOUR[:2]
    assert parallel.choose_devices(0) == jax.local_devices()
    with pytest.raises(UserError, match=r"config\.devices is 5, .* has 4 cpu"):
        parallel.choose_devices(5)


@pytest.mark.parametrize(
    ("batch_size", "available", "devices", "expected"),
    [(8, 100, 4, 8), (8, 8, 4, 8), (8, 7, 4, 4), (8, 7, 1, 7), (128, 50, 2, 50)],
)
def test_per_device_batch_is_divisible_and_not_more_than_there_is(
    batch_size, available, devices, expected
):
    size = parallel.per_device(batch_size, available, FOUR[:devices], "x.batch_size")
    assert size == expected


def test_a_batch_that_is_cut_is_told_of_once(capfd):
    parallel._print_once.cache_clear()
    for _ in range(3):
        assert parallel.per_device(8, 7, FOUR, "x.batch_size") == 4
        assert parallel.per_device(4, 7, FOUR, "x.batch_size") == 4
    assert capfd.readouterr().out == (
        "config.x.batch_size is 8, but there are 7 images for 4 device(s): a batch has 4\n"
    )


def test_per_device_refuses_what_cannot_be_divided():
    with pytest.raises(UserError, match=r"config\.x\.batch_size is 6: .* 4 devices"):
        parallel.per_device(6, 100, FOUR, "x.batch_size")
    with pytest.raises(UserError, match=r"3 images .* 4 devices: .*--config\.devices"):
        parallel.per_device(8, 3, FOUR, "x.batch_size")


def test_replicate_puts_everything_on_every_device():
    tree = {"a": np.arange(3.0), "b": {}, "key": jax.random.key(0)}
    placed = parallel.replicate(tree, FOUR)
    assert placed["a"].sharding.is_fully_replicated
    assert placed["a"].sharding.device_set == set(FOUR)
    np.testing.assert_array_equal(placed["a"], tree["a"])
    assert placed["key"].sharding.device_set == set(FOUR)


def test_shard_splits_a_batch_in_order():
    batch = np.arange(24).reshape(8, 3)
    sharded = parallel.shard(batch, FOUR)
    np.testing.assert_array_equal(sharded, batch.reshape(4, 2, 3))
    for part in sharded.addressable_shards:
        place = FOUR.index(part.device)
        np.testing.assert_array_equal(part.data[0], batch[2 * place : 2 * place + 2])


def create(key, *, n, scale=1.0):
    return {"x": scale * jax.random.normal(key, (n,)), "step": jnp.zeros((), jnp.int32)}


def test_create_replicated_compiles_once_for_equal_constants(compilations):
    keys = jax.random.split(jax.random.key(0), 3)
    first = parallel.create_replicated(create, FOUR, keys[0], n=5)
    assert first["x"].sharding.device_set == set(FOUR)
    assert first["x"].sharding.is_fully_replicated
    before = len(compilations)
    second = parallel.create_replicated(create, FOUR, keys[1], n=5)
    assert len(compilations) == before
    assert (first["x"] != second["x"]).all()
    np.testing.assert_allclose(second["x"], create(keys[1], n=5)["x"], rtol=1e-6)
    parallel.create_replicated(create, FOUR, keys[0], n=6)
    assert len(compilations) > before


def step(state, shared, batch):
    """A pmean over all devices, a place, and a gather."""
    mean = jax.lax.pmean((shared["weight"] * batch).mean(), parallel.AXIS)
    gathered = jax.lax.all_gather(batch, parallel.AXIS, tiled=True)
    return {"sum": state["sum"] + mean}, {"batch": gathered}


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_mapped_step_takes_and_gives_plain_state_and_donates_it(devices):
    devices = FOUR[:devices]
    batch = np.arange(8, dtype=np.float32)
    state = parallel.create_replicated(lambda: {"sum": jnp.ones(())}, devices)
    shared = parallel.replicate({"weight": np.float32(2)}, devices)
    mapped = parallel.MappedStep(step, devices)
    new, metrics = mapped(state, shared, parallel.shard(batch, devices))
    assert new["sum"].shape == ()
    assert float(new["sum"]) == 1 + 2 * batch.mean()
    np.testing.assert_array_equal(metrics["batch"], batch)
    assert state["sum"].is_deleted()
    assert not shared["weight"].is_deleted()
    again, _ = mapped(new, shared, parallel.shard(batch, devices))
    assert float(again["sum"]) == 1 + 4 * batch.mean()


@pytest.mark.parametrize("devices", [1, 4])
def test_several_steps_in_one_call_are_the_steps_one_by_one(devices):
    devices = FOUR[:devices]
    batches = np.arange(24, dtype=np.float32).reshape(3, 8)
    create = functools.partial(
        parallel.create_replicated, lambda: {"sum": jnp.ones(())}, devices
    )
    shared = parallel.replicate({"weight": np.float32(2)}, devices)
    mapped = parallel.MappedStep(step, devices)
    one, other = create(), create()
    for batch in batches:
        one, metrics = mapped(one, shared, parallel.shard(batch, devices))
    new, last = mapped.several(other, shared, parallel.shard_steps(batches, devices))
    assert float(new["sum"]) == float(one["sum"]) == 1 + 2 * batches.mean(1).sum()
    np.testing.assert_array_equal(last["batch"], metrics["batch"])
    assert other["sum"].is_deleted()


class Kind:
    """Takes steps of a list: each appends its batch."""

    def __init__(self, name):
        self.name = name

    def __call__(self, state, shared, batch):
        return [*state, (self.name, np.asarray(batch).ravel().tolist())], "one"

    def several(self, state, shared, batches):
        taken = np.asarray(batches)[0].tolist()  # of the one device
        return [*state, *((self.name, batch) for batch in taken)], "several"


@pytest.mark.parametrize(
    ("per_call", "calls"),
    [
        (1, [1] * 10),
        (3, [3, 1, 1, 3, 1, 1]),  # 0-4 are of one kind, 5-9 of another
        (0, [1] * 10),  # on CPU
    ],
)
def test_steps_are_taken_together_where_one_program_takes_them(per_call, calls):
    first, second, asked, created = Kind("first"), Kind("second"), [], []

    def choose(step):
        asked.append(step)
        return first if step < 5 else second, np.array([step, -step])

    def create_shared(step_fn, state, batch, several):
        created.append((step_fn, state, batch.shape, several))
        return np.zeros(3)

    take_steps = parallel.create_take_steps(choose, create_shared, FOUR[:1], per_call)
    state, step, counts = [], 0, []
    while step < 10:
        state, metrics, taken = take_steps(state, step, 10 - step)
        assert metrics == ("several" if taken > 1 else "one")
        counts.append(taken)
        step += taken
    assert counts == calls
    assert asked == list(range(10))
    assert state == [("first" if i < 5 else "second", [i, -i]) for i in range(10)]
    several = per_call > 1
    assert created == [(first, [], (1, 3, 2) if several else (1, 2), several)]


def test_pmap_batch_returns_the_rows_of_all_devices_in_order():
    compute = parallel.pmap_batch(lambda weight, batch: weight * batch, FOUR)
    batch = np.arange(8.0, dtype=np.float32).reshape(8, 1)
    result = compute(np.float32(3), parallel.shard(batch, FOUR))
    np.testing.assert_array_equal(result, 3 * batch)


def test_of_several_processes_each_takes_the_rows_of_its_own_devices(monkeypatch):
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    processes = [0, 1, 0, 1]
    monkeypatch.setattr(parallel, "_sharding", lambda devices, *axes: FOUR[0])
    devices = [Device(i) for i in processes]
    batch = np.arange(8).reshape(8, 1)
    own = parallel.shard(batch, devices)
    np.testing.assert_array_equal(own, [[[0], [1]], [[4], [5]]])
    of_steps = parallel.shard_steps(np.stack([batch, batch + 8]), devices)
    np.testing.assert_array_equal(of_steps[1], [[[4], [5]], [[12], [13]]])


def test_several_processes_use_all_devices_and_say_so(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert parallel.choose_devices(0) == jax.devices()
    with pytest.raises(UserError, match=r"config\.devices is 2: several processes use"):
        parallel.choose_devices(2)
    with pytest.raises(UserError, match=r"3 images .* 4 devices: use fewer processes"):
        parallel.per_device(8, 3, FOUR, "x.batch_size")


def test_one_process_is_the_first_and_waits_for_nobody():
    assert parallel.is_first_process()
    parallel.barrier("here")
    assert parallel.gather_strings("here", "a") == ["a"]


@pytest.mark.parametrize("n", [1, 4, 7, 8])
def test_batches_of_one_shape(n):
    images = np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3)
    shapes = []

    def function(batch):
        shapes.append(batch.shape)
        return batch.sum((1, 2)), {"first": batch[:, 0].astype(float)}

    sums, made = parallel.map_batches(function, images, 4)
    assert shapes == [(4, 2, 3)] * -(-n // 4)
    np.testing.assert_array_equal(sums, images.sum((1, 2)))
    np.testing.assert_array_equal(made["first"], images[:, 0])
