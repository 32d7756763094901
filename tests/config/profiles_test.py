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


@pytest.mark.parametrize(
    ("size", "crop", "last"),
    [(32, 0, "conv3_2_pre"), (36, 32, "conv3_2_pre"), (256, 224, "pool5")],
)
def test_the_authors_taps_are_of_the_images_side(size, crop, last):
    config = get_config()
    config.dataset.size, config.dataset.crop = size, crop
    config = profiles.apply_profile(config, "authors")
    layers = config.reconstruction.layers
    assert layers[:2] == ("conv1_2", "conv2_2") and layers[-1] == last
    assert config.reconstruction.layer_weights == (1.0,) * len(layers)
    assert ("conv4_3" in layers) == (last == "pool5")
    assert config.latent.dim == 512
    validate(config)


def test_no_such_profile():
    with pytest.raises(UserError, match="no profile 'autors': use paper or authors"):
        profiles.apply_profile(get_config(), "autors")
