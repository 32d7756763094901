"""Tests of cglo_jax/training/checkpoints.py."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.training import checkpoints, memory, parallel
from cglo_jax.training.checkpoints import Checkpoints, restore_latest_model

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
    with Checkpoints(directory) as saved:
        for step in steps:
            saved.save(step, *create_trees(step, **kwargs), META)


@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 1), (1, 4), (4, 1)])
def test_both_trees_come_back_bit_for_bit_on_any_devices(
    directory, saved_on, restored_on
):
    save(directory, 7, devices=saved_on)
    trees = create_trees(7, devices=restored_on)
    with Checkpoints(directory) as saved:
        assert saved.latest_step() == 7
        assert saved.meta(7) == META
        restored = saved.restore(7, *jax.eval_shape(lambda: trees))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(restored))
    assert_equal(restored, jax.device_get(trees))


def test_what_is_saved_is_the_state_at_that_moment(directory):
    # A step that donates the saved buffers may run before they are on disk.
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(1_000_000)
    with Checkpoints(directory) as saved:
        for step in range(1, 4):
            x = change(x)
            saved.save(step, {"x": x}, {"y": x * 2}, META)
            for _ in range(3):
                x = change(x)
        del x
    with Checkpoints(directory) as saved:
        np.testing.assert_array_equal(saved.restore_model(3)["x"], 9.0)
        np.testing.assert_array_equal(saved.restore_model(2)["x"], 5.0)


def test_restore_model_gives_numpy_and_its_meta(directory):
    save(directory, 3, devices=4)
    model, meta, step = restore_latest_model(directory, "")
    assert (step, meta) == (3, META)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(model))
    assert_equal(model, jax.device_get(create_trees(3)[0]))


def test_restore_model_decodes_nothing_else(directory, monkeypatch):
    save(directory, 3)
    load, loaded = checkpoints._load_tree, []

    def spied(path, like):
        loaded.append(path.name)
        return load(path, like)

    monkeypatch.setattr(checkpoints, "_load_tree", spied)
    restore_latest_model(directory, "")
    assert loaded == ["model"]


def test_the_two_newest_are_kept(directory):
    save(directory, 10, 20, 30, 40)
    assert {p.name for p in directory.iterdir()} == {"30", "40"}
    with Checkpoints(directory) as saved:
        assert saved.latest_step() == 40
        np.testing.assert_array_equal(
            saved.restore_model(30)["z"], create_trees(30)[0]["z"]
        )


def test_without_a_checkpoint_the_error_is_what_makes_one(directory):
    hint = "run --stage=train first"
    for _ in range(2):
        with pytest.raises(UserError, match=f"no checkpoint in .*seed-0: {hint}"):
            restore_latest_model(directory, hint)
        if directory.exists():
            break
        directory.mkdir(parents=True)  # reading made nothing


def test_what_a_killed_process_left_is_ignored_and_cleaned_up(directory):
    save(directory, 1)
    names = ["2.saving-0123abcd", "0.removed", "0.damaged", "5.damaged.removed"]
    for name in names:
        shutil.copytree(directory / "1", directory / name)
    assert restore_latest_model(directory, "")[2] == 1
    assert (directory / "2.saving-0123abcd").exists()  # a reader changes nothing
    save(directory, 2)
    assert {p.name for p in directory.iterdir()} == {"1", "2"}
    assert restore_latest_model(directory, "")[2] == 2


def test_a_folder_of_somebody_else_stays(directory):
    (directory / "best-of-monday").mkdir(parents=True)
    (directory / "0").mkdir()
    (directory / "7").mkdir()
    (directory / "7" / "notes.txt").write_text("mine")
    save(directory, 1)
    (directory / "1" / "notes.txt").write_text("mine")
    (directory / "1" / "model" / "link").symlink_to(directory / "7")
    save(directory, 2)
    (directory / "2" / "train" / "cat.jpg").write_text("mine")
    save(directory, 3, 4)
    assert {p.name for p in directory.iterdir()} == {
        *("0", "1", "2", "3", "4", "7", "best-of-monday")
    }
    for step in ("1", "7"):
        assert (directory / step / "notes.txt").read_text() == "mine"


def test_the_one_before_a_damaged_one_is_used_and_it_is_put_aside(directory, capsys):
    save(directory, 1, 2)
    file = next(p for p in (directory / "2").rglob("*") if p.parent.name == "d")
    file.write_bytes(file.read_bytes()[:-1])
    name = file.relative_to(directory / "2")
    assert restore_latest_model(directory, "")[2] == 1
    said = capsys.readouterr().err
    assert f"{directory / '2'} is damaged: {name} has " in said
    assert said.endswith("; using step 1\n")
    assert (directory / "2").exists()  # a reader changes nothing
    with Checkpoints(directory) as written:
        assert written.latest_step() == 1
        assert {p.name for p in directory.iterdir()} == {"1", "2.damaged"}
        written.save(2, *create_trees(2), META)
    assert {p.name for p in directory.iterdir()} == {"1", "2"}


def test_with_damaged_ones_only_nothing_starts_over(directory):
    save(directory, 1, 2)
    for step in "12":
        (directory / step / "manifest.json").unlink()
    before = sorted(directory.rglob("*"))
    for read_only in (True, False):
        opened = Checkpoints(directory, read_only=read_only)
        message = r"step 2: manifest.json is missing; step 1: .*--fresh"
        with pytest.raises(UserError, match=message), opened as damaged:
            damaged.latest_step()
    assert sorted(directory.rglob("*")) == before


def test_what_other_code_saved_is_refused(directory):
    save(directory, 1)
    model, train = jax.eval_shape(lambda: create_trees(1))
    smaller = {**model, "z": jax.ShapeDtypeStruct((4, 2), np.float32)}
    renamed = {**model, "codes": model["z"]}
    with Checkpoints(directory, read_only=True) as saved:
        with pytest.raises(
            UserError, match=r"float32\[5, 2\] instead of float32\[4, 2"
        ):
            saved.restore(1, smaller, train)
        with pytest.raises(UserError, match="model cannot be used"):
            saved.restore(1, renamed, train)


def test_arrays_that_do_not_fit_into_the_memory_are_not_read(directory, monkeypatch):
    save(directory, 1)
    monkeypatch.setattr(memory, "free_on_host", lambda: 100)
    with pytest.raises(UserError, match=r"the arrays of .*model take"):
        restore_latest_model(directory, "")


def test_a_save_that_fails_leaves_the_others_and_is_explained(directory, monkeypatch):
    save(directory, 1)

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "sync_tree", full)
    message = (
        f"cannot save step 2 to {directory}: No space left on device; what was saved"
    )
    with pytest.raises(UserError, match=message):
        save(directory, 2)
    assert {p.name for p in directory.iterdir()} == {"1"}


def test_the_manifest_has_the_versions_and_devices_that_saved_it(directory):
    save(directory, 1)
    with Checkpoints(directory, read_only=True) as saved:
        environment = saved.environment(1)
    assert environment["jax"] == jax.__version__
    assert environment["backend"] == "cpu"
    assert environment["threads"] == int(os.environ["NPROC"])
    assert environment["processes"] == environment["devices"] == 1
