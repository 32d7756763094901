"""Tests of cglo_jax/training/batches.py."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cglo_jax.cglo.algorithm import (
    Schedule,
    create_spec,
    steps_per_epoch,
    total_steps,
)
from cglo_jax.config.defaults import get_config
from cglo_jax.data.dataset import Dataset
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


@pytest.mark.parametrize("last", ["labelled", "unlabelled"])
def test_an_epoch_has_a_pass_of_each_kind_and_ends_on_the_one_asked_for(last):
    dataset = create_dataset(20, unlabelled=11)  # 9 labelled
    config = create_config(**{"train.batch_size": 4, "train.epoch_ends_on": last})
    devices = jax.local_devices()[:1]
    schedule = Schedule(config, dataset, jax.random.key(0), devices)
    assert (schedule.total, schedule.steps_per_epoch) == (12, 6)
    assert total_steps(config, dataset) == 12
    plan = [schedule(step) for step in range(12)]
    kinds = [last != "labelled"] * 3 + [last == "labelled"] * 3
    assert [labelled for labelled, _ in plan] == kinds * 2
    for labelled, indices in plan:
        assert len(set(indices.tolist())) == 4
        assert ((dataset.labels[indices] >= 0) == labelled).all()
    np.testing.assert_array_equal(schedule(4)[1], plan[4][1])
    # Either kind has its images in one order, whenever its turn is.
    alone = create_config(**{"train.batch_size": 4, "train.epochs": 4})
    without = dataclasses.replace(
        dataset, images=dataset.images[:9], labels=dataset.labels[:9]
    )
    alone = Schedule(alone, without, jax.random.key(0), devices)
    turns = [indices for labelled, indices in plan if labelled]
    np.testing.assert_array_equal([alone(step)[1] for step in range(6)], turns)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "fields", "steps"),
    [
        # CIFAR-100 at 10 per class, 10 unlabelled ones per class and the test images, batches of 128.
        (1000, 11000, {}, (390, 86)),
        (1000, 11000, {"steps_per_epoch": 0}, (8, 86)),  # the authors': 8, 8 and 79
        (1000, 11000, {"unlabelled_steps": 4290}, (390, 4290)),
        (1000, 0, {"steps_per_epoch": 0, "unlabelled_steps": 9}, (8, 0)),
        (100, 28, {"steps_per_epoch": 0}, (1, 1)),
    ],
)
def test_steps_of_an_epoch(labelled, unlabelled, fields, steps):
    config = get_config()
    config.train.update(fields)
    labels = np.repeat([0, -1], [labelled, unlabelled]).astype(np.int32)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    dataset = Dataset(images, labels, ("a",), ("",) * len(labels), "train")
    schedule = Schedule(config, dataset, jax.random.key(0), jax.local_devices()[:1])
    assert (schedule.labelled_steps, schedule.unlabelled_steps) == steps
    assert schedule.steps_per_epoch == steps_per_epoch(config, dataset) == sum(steps)
    assert schedule.total == total_steps(config, dataset) == 200 * sum(steps)
    spec = create_spec(config, dataset)
    assert spec.lr_drops == ((70 * sum(steps), 0.5), (140 * sum(steps), 0.5))
    kinds = [schedule(step)[0] for step in range(sum(steps))]
    assert kinds == [False] * steps[1] + [True] * steps[0]


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
