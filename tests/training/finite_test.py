"""Tests of cglo_jax/training/finite.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.training.finite import NotFinite, Watch

STATE = {
    "codes": {"z": jnp.array([1.0, -7.0])},
    "step": jnp.int32(3),
    "none": jnp.zeros((0,)),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_array_of_a_state_is_checked_and_named(bad, dtype):
    watch = Watch()
    watch.note({"loss": jnp.ones(())}, 3)
    watch.check(STATE, 3)
    for place in ((0, 0), (1, 2)):
        array = jnp.zeros((2, 3), dtype).at[place].set(bad)
        watch.note({"loss": jnp.ones(())}, 4)
        with pytest.raises(
            NotFinite, match=r"the state's a\.b has a (nan|inf) at step 4"
        ):
            watch.check({**STATE, "a": {"b": array}}, 4)


def test_the_first_step_and_metric_are_told_though_later_ones_are_bad_too():
    watch = Watch()
    for step in range(10, 20, 2):
        rec, kl = (np.nan if step >= 14 else 1.0), (np.inf if step >= 16 else 1.0)
        watch.note({"rec": jnp.float32(rec), "kl": jnp.float32(kl)}, step)
    with pytest.raises(NotFinite, match="rec is not finite since step 14"):
        watch.check(STATE, 18)


def test_calls_may_have_different_metrics():
    watch = Watch()
    watch.note({"loss": jnp.ones(()), "weak_loss": jnp.float32(np.nan)}, 1)
    watch.note({"loss": jnp.ones(())}, 2)
    with pytest.raises(NotFinite, match="weak_loss is not finite since step 1"):
        watch.check(STATE, 2)


def test_a_check_begins_anew():
    watch = Watch()
    for step in (2, 4):
        watch.note({"loss": jnp.ones(())}, step)
        watch.check(STATE, step)
    watch.note({"loss": jnp.float32(np.nan)}, 6)
    with pytest.raises(NotFinite, match="since step 6"):
        watch.check(STATE, 6)


def test_noting_waits_for_nothing_and_copies_nothing():
    watch, loss = Watch(), jnp.ones(())
    watch.note({"loss": loss}, 1)
    watch.note({"loss": loss}, 2)  # both programs are compiled
    with jax.transfer_guard("disallow"):
        watch.note({"loss": loss}, 3)
