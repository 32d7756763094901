"""Tests of cglo_jax/training/batches.py."""

import functools

import jax
import numpy as np

from cglo_jax.cglo.algorithm import Schedule, total_steps
from cglo_jax.training import batches as order
from cglo_jax.training import parallel
from cglo_jax.training.batches import BatchOrder
from tests.helpers.tiny import create_config, create_dataset


def test_batch_order_takes_all_images_and_none_twice_in_a_batch():
    members = np.arange(100, 111)  # 11: three batches of 3, two left over each pass
    order = BatchOrder(jax.random.key(0), members, 3)
    batches = [order(step) for step in range(30)]
    for batch in batches:
        assert batch.dtype == np.int32
        assert len(set(batch.tolist())) == 3
    for start in range(0, 30, 3):
        assert len(set(np.concatenate(batches[start : start + 3]).tolist())) == 9
    assert set(np.concatenate(batches).tolist()) == set(members.tolist())
    assert np.stack(batches[:3]).tolist() != np.stack(batches[3:6]).tolist()


def test_batch_order_is_a_function_of_key_and_step():
    create = functools.partial(BatchOrder, members=np.arange(10), batch_size=4)
    order = create(jax.random.key(3))
    forward = [order(step) for step in range(12)]
    for step in (11, 0, 7, 6, 7, 3):
        np.testing.assert_array_equal(create(jax.random.key(3))(step), forward[step])
        np.testing.assert_array_equal(order(step), forward[step])
    other = create(jax.random.key(4))
    assert any((other(step) != forward[step]).any() for step in range(12))


def test_schedule_takes_a_labelled_then_an_unlabelled_pass_each_epoch():
    dataset = create_dataset(20, unlabelled=11)  # 9 labelled
    config = create_config(**{"train.batch_size": 4})
    devices = jax.local_devices()[:1]
    schedule = Schedule(config, dataset, jax.random.key(0), devices)
    assert (schedule.total, schedule.steps_per_epoch) == (12, 6)
    assert total_steps(config, dataset) == 12
    plan = [schedule(step) for step in range(12)]
    assert [labelled for labelled, _ in plan] == ([True] * 3 + [False] * 3) * 2
    for labelled, indices in plan:
        assert len(set(indices.tolist())) == 4
        assert ((dataset.labels[indices] >= 0) == labelled).all()
    np.testing.assert_array_equal(schedule(4)[1], plan[4][1])


def test_schedule_without_unlabelled_images_has_labelled_steps_only():
    schedule = Schedule(
        create_config(), create_dataset(), jax.random.key(0), jax.local_devices()[:1]
    )
    assert schedule.total == 6
    assert all(schedule(step)[0] for step in range(6))


def test_orders_are_drawn_on_the_hosts_device_wherever_the_key_is(monkeypatch):
    assert parallel.host_device().platform == "cpu"
    host, other = jax.local_devices()[3], jax.local_devices()[2]
    monkeypatch.setattr(parallel, "host_device", lambda: host)
    permute, places = order._permute, []

    def watched(*args):
        drawn = permute(*args)
        places.append(drawn.devices())
        return drawn

    monkeypatch.setattr(order, "_permute", watched)
    batches = BatchOrder(jax.device_put(jax.random.key(3), other), np.arange(10), 5)
    assert sorted(np.concatenate([batches(0), batches(1)])) == list(range(10))
    batches(2)
    assert places == [{host}] * 2
