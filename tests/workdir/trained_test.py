"""Tests of cglo_jax/workdir/trained.py."""

import dataclasses
import functools
import hashlib

import jax
import numpy as np
import pytest

from cglo_jax.errors import UserError
from cglo_jax.stages import train
from cglo_jax.workdir import trained
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset


def test_restore_model_returns_generator_and_codes(tmp_path):
    config, dataset = create_config(), create_dataset()
    state = train.run(config, tmp_path, dataset, 0)
    cglo = trained.restore(config, tmp_path, dataset, 0)
    assert cglo.step == 6
    expected, rest = train.split_state(state)
    assert_trees_equal({**cglo.variables, "z": cglo.z}, jax.device_get(expected))
    np.testing.assert_array_equal(cglo.ids, trained.hash_ids(dataset.ids))
    np.testing.assert_array_equal(cglo.labels, dataset.labels)
    assert cglo.shape == (8, 8, 1)
    assert_trees_equal(train.merge_state(expected, rest), state)
    with pytest.raises(UserError, match=r"seed-1.*--stage=train"):
        trained.restore(config, tmp_path, dataset, 1)


def test_restore_model_refuses_what_is_not_trained_to_its_end_if_asked_to(tmp_path):
    config, dataset = create_config(), create_dataset(20, unlabelled=8)  # 3 + 1 steps
    train.run(config, tmp_path, dataset, 0)
    restore = functools.partial(trained.restore, config, tmp_path, dataset, 0)
    assert restore(complete=True).step == 8
    directory = trained.checkpoint_dir(tmp_path, 0)
    (directory / "8").rename(tmp_path / "moved")
    assert restore().step == 4
    with pytest.raises(UserError) as error:
        restore(complete=True)
    assert str(error.value) == (
        f"{directory} is at step 4 of 8: run --stage=train first, it continues from there"
    )


def test_ids_are_hashed_one_by_one_and_copies_told_apart():
    ids = trained.hash_ids(["cat", "dog", "cat"])
    assert ids.shape == (3, 16)
    for row, text in zip(ids, ("cat/0", "dog/0", "cat/1"), strict=True):
        assert row.tobytes() == hashlib.sha256(text.encode()).digest()[:16]
    assert trained.hash_ids([]).shape == (0, 16)


def test_images_that_the_generator_learnt_are_known_wherever_they_are_now():
    learnt, added, unseen = (create_dataset(2, seed=s).ids for s in (1, 2, 3))
    test_set = dataclasses.replace(create_dataset(6), ids=(*learnt, *added, *unseen))
    ids = trained.hash_ids([*added, learnt[1]])
    found = trained.find_unseen(test_set, ids).tolist()
    assert found == [True, False, False, False, True, True]
    found = trained.find_unseen(test_set, ids, trained.hash_ids(learnt)).tolist()
    assert found == [False, False, False, False, True, True]


def test_codes_have_a_directory_for_their_images_and_their_generator(tmp_path):
    def directory(dataset, model):
        return trained.codes_dir(tmp_path, 3, dataset, model)

    model = {"params": {"a": np.arange(3.0)}, "batch_stats": {"b": np.zeros(2)}}
    one = directory(create_dataset(), model)
    assert one.is_relative_to(tmp_path / "codes" / "seed-3")
    assert directory(create_dataset(), {**model, "z": np.ones(1)}) == one
    others = [
        directory(create_dataset(seed=1), model),
        directory(create_dataset(), {**model, "params": {"a": np.ones(3)}}),
        directory(create_dataset(), {**model, "batch_stats": {"b": np.ones(2)}}),
    ]
    assert len({one, *others}) == 4
    assert others[0].parent == one.parent
