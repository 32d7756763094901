"""Tests of cglo_jax/config/profiles.py."""

import pytest

from cglo_jax.config import profiles
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.validation import validate
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())


def test_profiles_are_valid_and_of_the_fields_types():
    for name, changes in profiles.PROFILES.items():
        config = profiles.apply_profile(get_config(), name)
        validate(config)
        flat = flatten(config)
        for field, value in changes.items():
            assert type(flat[field]) is type(DEFAULTS[field])
            assert flat[field] == (list(value) if isinstance(value, tuple) else value)
            assert flat[field] != DEFAULTS[field]  # a profile states differences
        assert {f for f in flat if flat[f] != DEFAULTS[f]} == changes.keys()


def test_the_authors_take_all_taps_at_224_pixels():
    config = get_config()
    config.dataset.size, config.dataset.crop = 256, 224
    config = profiles.apply_profile(config, "authors")
    assert config.reconstruction.layer_weights == (1.0,) * 5
    assert config.latent.dim == 512


def test_no_such_profile():
    with pytest.raises(UserError, match="no profile 'autors': use paper or authors"):
        profiles.apply_profile(get_config(), "autors")
