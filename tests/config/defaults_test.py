"""Tests of cglo_jax/config/defaults.py."""

import json

import pytest
from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten, get_config

DEFAULTS = flatten(get_config())


def test_defaults_are_locked():
    config = get_config()
    with pytest.raises(AttributeError, match="dmi"):
        config.latent.dmi = 3
    with pytest.raises(TypeError, match="dim"):
        config.latent.dim = "many"
    config.latent.dim = 3
    assert get_config().latent.dim == 128  # nothing is shared between calls


def test_flatten_by_hand():
    config = ConfigDict({"a": 1, "b": {"c": (2, 3), "d": {"e": "f"}}})
    assert flatten(config) == {"a": 1, "b.c": [2, 3], "b.d.e": "f"}
    assert json.loads(json.dumps(DEFAULTS)) == DEFAULTS
