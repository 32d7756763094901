"""Tests of cglo_jax/process/numerics.py: equal results, to the bit, whatever others set in JAX."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cglo_jax
from cglo_jax.process import numerics
from cglo_jax.stages import train
from cglo_jax.training import manifest
from cglo_jax.workdir import directory
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset

# Enough steps for batch norm's running statistics: before, all images look the same.
CONFIG = create_config(**{"train.steps_per_epoch": 20, "train.log_every_steps": 10})
OTHERS = {
    "enable_x64": True,
    "default_prng_impl": "rbg",
    "threefry_partitionable": False,
    "enable_custom_prng": True,
    "debug_key_reuse": True,
    "default_matmul_precision": "bfloat16",
    "softmax_custom_jvp": True,
    "numpy_dtype_promotion": "strict",
    "debug_nans": True,
    "debug_infs": True,
    "disable_jit": True,
    "transfer_guard": "disallow",
}


@contextlib.contextmanager
def setting(name: str, value: object):
    """Sets it for the whole process, as an environment variable or another program does."""
    if name == "transfer_guard":
        with jax.transfer_guard(value):
            yield
        return
    before = getattr(jax.config, f"jax_{name}")
    jax.config.update(f"jax_{name}", value)
    try:
        yield
        assert getattr(jax.config, f"jax_{name}") == value  # is left as it was
    finally:
        jax.config.update(f"jax_{name}", before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(work directory, state, images) of a run where nothing is set."""
    workdir = tmp_path_factory.mktemp("made")
    directory.create(CONFIG, workdir)
    state = train.run(CONFIG, workdir, create_dataset(), 0)
    return workdir, jax.device_get(state), cglo_jax.load(workdir).sample("class 1", 3)


def test_every_setting_of_ours_is_tried():
    assert OTHERS.keys() == numerics.SETTINGS.keys()
    for name in OTHERS:  # and JAX's defaults are what we take
        if name != "transfer_guard":
            assert getattr(jax.config, f"jax_{name}") == numerics.SETTINGS[name]


@pytest.mark.parametrize("name", [*OTHERS, "random_seed_offset"])
def test_training_and_sampling_are_the_same_to_the_bit(made, tmp_path, name):
    workdir, state, images = made
    with setting(name, OTHERS.get(name, 7)):
        again = train.run(CONFIG, tmp_path, create_dataset(), 0)
        model = cglo_jax.load(workdir)
        sampled = model.sample("class 1", 3)
    assert_trees_equal(state, jax.device_get(again))
    metrics = [(d / "metrics.jsonl").read_bytes() for d in (workdir, tmp_path)]
    assert metrics[0] == metrics[1]
    np.testing.assert_array_equal(sampled, images)
    assert model.z.dtype == np.float32


def test_keys_of_another_generator_are_used_as_they_are(made):
    model = cglo_jax.load(made[0])
    raw, typed = jax.random.PRNGKey(5), jax.random.key(5)
    same = model.sample(0, 2, key=5)
    for key in (raw, typed):
        np.testing.assert_array_equal(model.sample(0, 2, key=key), same)
    with setting("default_prng_impl", "rbg"):
        raw, typed = jax.random.PRNGKey(5), jax.random.key(5)
        ones = [model.sample(0, 2, key=key) for key in (raw, typed)]
    np.testing.assert_array_equal(*ones)
    assert (ones[0] != same).any()


def test_settings_of_others_count_outside():
    with setting("enable_x64", True):
        with numerics.ours():
            assert jnp.arange(2.0).dtype == jnp.float32
        assert jnp.arange(2.0).dtype == jnp.float64


def test_flags_of_the_compiler_are_recorded(monkeypatch):
    monkeypatch.delenv("JAX_OPTIMIZATION_LEVEL", raising=False)
    ours = "--xla_cpu_experimental_ynn_fusion_type=X --xla_force_host_platform_device_count=4"
    monkeypatch.setenv("XLA_FLAGS", ours)
    assert numerics.describe_flags() == ""
    assert "flags" not in manifest.describe_environment(1)
    monkeypatch.setenv("XLA_FLAGS", f"{ours} --xla_b=1 --xla_a=2")
    monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", "O1")
    flags = "--xla_a=2 --xla_b=1 JAX_OPTIMIZATION_LEVEL=O1"
    assert manifest.describe_environment(1)["flags"] == flags
