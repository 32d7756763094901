"""Tests of cglo_jax/checkpoints.py."""

import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cglo_jax import parallel
from cglo_jax.checkpoints import Checkpoints, restore_latest_model
from cglo_jax.errors import UserError

META = {"fingerprint": {"latent.dim": 8, "train.lr_drop_epochs": [1, 2]}, "images": "a"}


def create_trees(seed: int = 0, devices: int = 1):
    """Returns (model, train) as the trainers save them: dicts and optax states."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    params = {"dense": {"kernel": draw(3, 4), "bias": draw(4)}}
    sgd = optax.chain(optax.add_decayed_weights(1e-4), optax.trace(0.9))
    model = {"params": params, "batch_stats": {}, "z": draw(5, 2)}
    train = {
        "step": np.int32(seed),
        "params": jax.tree.map(lambda x: x.astype(jnp.bfloat16), params),
        "opt_state": {"adam": optax.scale_by_adam().init(params)},
        "sgd": sgd.init(params),
    }
    devices = jax.local_devices()[:devices]
    return parallel.replicate((model, train), devices)


def assert_equal(one, other):
    """Equal in structure, types and every bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints" / "seed-0"


def save(directory, *steps, **kwargs):
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, *create_trees(step, **kwargs), META)


@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 1), (1, 4), (4, 1)])
def test_both_trees_come_back_bit_for_bit_on_any_devices(
    directory, saved_on, restored_on
):
    save(directory, 7, devices=saved_on)
    devices = jax.local_devices()[:restored_on]
    trees = create_trees(7)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest_step() == 7
        assert checkpoints.meta(7) == META
        restored = checkpoints.restore(7, *parallel.replicated_like(trees, devices))
    assert_equal(restored, trees)
    assert restored[0]["z"].sharding.device_set == set(devices)


def test_what_is_saved_is_the_state_at_that_moment(directory):
    # A step that donates the saved buffers may run before they are on disk.
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(1_000_000)
    with Checkpoints(directory) as checkpoints:
        for step in range(1, 4):
            x = change(x)
            checkpoints.save(step, {"x": x}, {"y": x * 2}, META)
            for _ in range(3):
                x = change(x)
        del x
    with Checkpoints(directory) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore_model(3)["x"], 9.0)
        np.testing.assert_array_equal(checkpoints.restore_model(2)["x"], 5.0)


def test_restore_model_gives_numpy_and_never_opens_the_rest(directory):
    save(directory, 3, devices=4)
    assert (directory / "3" / "train").is_dir()
    shutil.rmtree(directory / "3" / "train")
    model, meta, step = restore_latest_model(directory, "")
    assert (step, meta) == (3, META)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(model))
    assert_equal(model, jax.device_get(create_trees(3)[0]))


def test_an_interrupt_while_saving_is_raised_and_not_logged(
    directory, monkeypatch, caplog
):
    save(directory, 1)
    join = threading.Thread.join

    def interrupted(thread, *args, **kwargs):
        if "finalize" in thread.name:
            monkeypatch.setattr(threading.Thread, "join", join)
            raise KeyboardInterrupt
        join(thread, *args, **kwargs)

    with pytest.raises(KeyboardInterrupt), Checkpoints(directory) as checkpoints:
        checkpoints.save(2, *create_trees(2), META)
        monkeypatch.setattr(threading.Thread, "join", interrupted)
        checkpoints.save(3, *create_trees(3), META)  # waits for the one before
    assert caplog.records == []
    assert restore_latest_model(directory, "")[2] == 2


def test_the_two_newest_are_kept(directory):
    save(directory, 10, 20, 30, 40)
    assert {p.name for p in directory.iterdir()} == {"30", "40"}
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest_step() == 40
        np.testing.assert_array_equal(
            checkpoints.restore_model(30)["z"], create_trees(30)[0]["z"]
        )


def test_without_a_checkpoint_the_error_says_what_makes_one(directory):
    hint = "run --stage=train first"
    with pytest.raises(UserError, match=f"no checkpoint in .*seed-0: {hint}"):
        restore_latest_model(directory, hint)
    assert not directory.exists()  # reading makes nothing
    directory.mkdir(parents=True)
    with pytest.raises(UserError, match=f"no complete checkpoint in .*seed-0: {hint}"):
        restore_latest_model(directory, hint)


def test_a_half_written_checkpoint_is_ignored_and_cleaned_up(directory):
    save(directory, 1)
    # Orbax writes here and renames when all is on disk.
    half = directory / "2.orbax-checkpoint-tmp"
    shutil.copytree(directory / "1", half)
    (half / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(half / "train")
    assert restore_latest_model(directory, "")[2] == 1
    assert half.exists()  # a reader changes nothing
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, *create_trees(2), META)
    assert not half.exists()
    assert restore_latest_model(directory, "")[2] == 2
