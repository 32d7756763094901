"""Tests of cglo_jax/config.py."""

import ast
import inspect
import io
import json
import tokenize

import pytest
from ml_collections import ConfigDict

from cglo_jax.config import flatten, get_config

DEFAULTS = flatten(get_config())


def test_defaults_are_locked():
    config = get_config()
    with pytest.raises(AttributeError, match="dmi"):
        config.latent.dmi = 3
    with pytest.raises(TypeError, match="dim"):
        config.latent.dim = "many"
    config.latent.dim = 3
    assert get_config().latent.dim == 128  # nothing is shared between calls


def test_every_field_has_a_comment():
    source = inspect.getsource(get_config)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [t for t in tokens if t.type == tokenize.COMMENT]
    beside = {t.start[0] for t in comments if not t.line.strip().startswith("#")}
    above = {t.start[0] + 1 for t in comments if t.line.strip().startswith("#")}
    commented = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):
            name = ast.unparse(node.targets[0]).removeprefix("config.")
            commented[name] = node.lineno in above or node.end_lineno in beside
    assert commented == dict.fromkeys(DEFAULTS, True)


def test_flatten_by_hand():
    config = ConfigDict({"a": 1, "b": {"c": (2, 3), "d": {"e": "f"}}})
    assert flatten(config) == {"a": 1, "b.c": [2, 3], "b.d.e": "f"}
    assert json.loads(json.dumps(DEFAULTS)) == DEFAULTS
