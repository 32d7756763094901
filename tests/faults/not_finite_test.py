"""NaN and infinity in an image, a code, a moment or a loss: found in one log interval, never saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm
from cglo_jax.errors import UserError
from cglo_jax.stages import train
from cglo_jax.training import checkpoints, loop
from cglo_jax.workdir import trained
from tests.helpers.tiny import create_config, create_dataset

AT, LOG_EVERY = 7, 3  # the step that is spoiled, and steps between checks
BAD = [np.nan, np.inf, -np.inf]


def spoil(tree, bad):
    """Puts one bad value into a tree's first array of floats."""
    leaves, structure = jax.tree.flatten(tree)
    for i, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            place = (0,) * leaf.ndim
            leaves[i] = jax.device_put(leaf.at[place].set(bad), leaf.sharding)
            break
    return jax.tree.unflatten(structure, leaves)


def in_codes(state, bad):
    return state.replace(codes=state.codes.replace(z=spoil(state.codes.z, bad)))


def in_moment_of_codes(state, bad):
    codes = state.codes.replace(opt_state=spoil(state.codes.opt_state, bad))
    return state.replace(codes=codes)


def in_moment(state, bad):
    return state.replace(opt_state=spoil(state.opt_state, bad))


def in_statistics(state, bad):
    return state.replace(batch_stats=spoil(state.batch_stats, bad))


def in_params(state, bad):
    return state.replace(params=spoil(state.params, bad))


PLACES = [in_codes, in_moment_of_codes, in_moment, in_statistics, in_params]


def run(tmp_path, monkeypatch, change, **fields):
    """Trains; `change` gets (state, metrics) after the step AT. Returns the error's line."""
    create_take_steps = loop._create_take_steps

    def create(job, lr_scale):
        take_steps = create_take_steps(job, lr_scale)

        def take(state, step, most):
            state, metrics, taken = take_steps(state, step, most)
            if step == AT and lr_scale == 1:
                state, metrics = change(state, metrics)
            return state, metrics, taken

        return take

    monkeypatch.setattr(loop, "_create_take_steps", create)
    config = create_config(
        **{
            "train.epochs": 20,
            "train.steps_per_epoch": 1,
            "train.checkpoint_every_epochs": 2,
            "train.log_every_steps": LOG_EVERY,
            **fields,
        }
    )
    train.run(config, tmp_path, create_dataset(), 0)


def check_saved(tmp_path, newest) -> None:
    """Every checkpoint on disk is finite."""
    directory = trained.checkpoint_dir(tmp_path, 0)
    with checkpoints.Checkpoints(directory, read_only=True) as saved:
        assert saved.latest_step() == newest
        for step in saved._steps():
            for item in ("model", "train"):
                for leaf in jax.tree.leaves(saved._load(step, item, None)):
                    assert np.isfinite(leaf.astype(np.float64)).all()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", PLACES)
def test_in_the_state(tmp_path, monkeypatch, place, bad):
    with pytest.raises(UserError) as error:
        run(tmp_path, monkeypatch, lambda s, m: (place(s, bad), m))
    # Step 8 is saved, so it is checked though it is not logged.
    assert str(error.value).startswith("train seed 0: the state's ")
    assert " at step 8; nothing was saved since the last checkpoint" in str(error.value)
    check_saved(tmp_path, newest=6)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("term", ["loss", "reconstruction"])
def test_in_a_loss_even_if_it_is_gone_at_the_next_step(
    tmp_path, monkeypatch, term, bad
):
    def change(state, metrics):
        return state, {**metrics, term: metrics[term] * bad}

    fields = {"train.checkpoint_every_epochs": 20}
    with pytest.raises(UserError, match=f"seed 0: {term} is not finite since step 8;"):
        run(tmp_path, monkeypatch, change, **fields)
    assert not trained.checkpoint_dir(tmp_path, 0).exists()


@pytest.mark.parametrize("bad", BAD)
def test_in_an_image(tmp_path, monkeypatch, bad):
    """Images are bytes; here a device makes a bad pixel of one of them."""
    real = algorithm.create_shared

    def create_shared(*args, **kwargs):
        shared = real(*args, **kwargs)
        images = np.asarray(shared.images, np.float32)
        images[5, 0, 0] = bad
        return shared._replace(images=images)

    monkeypatch.setattr(algorithm, "create_shared", create_shared)
    fields = {"train.checkpoint_every_epochs": 6}
    with pytest.raises(UserError, match=r"is not finite since step [123];"):
        run(tmp_path, monkeypatch, lambda *both: both, **fields)
    assert not trained.checkpoint_dir(tmp_path, 0).exists()


def test_with_rollbacks_the_run_ends_well(tmp_path, monkeypatch, capsys):
    run(tmp_path, monkeypatch, lambda s, m: (in_codes(s, np.nan), m), rollbacks=1)
    check_saved(tmp_path, newest=20)
    assert "the state's codes.z has a nan at step 8" in capsys.readouterr().err


def test_without_spoiling_it_is_a_good_run(tmp_path, monkeypatch):
    run(tmp_path, monkeypatch, lambda *both: both)
    check_saved(tmp_path, newest=20)
