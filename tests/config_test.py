"""Tests of cglo_jax/config.py."""

import ast
import inspect
import io
import json
import tokenize

import pytest
from ml_collections import ConfigDict

from cglo_jax import config as config_lib
from cglo_jax.config import flatten, get_config
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())
# By hand: what one may change and go on in the same work directory.
FREE = {
    "seeds",
    "devices",
    "steps_per_call",
    "check_memory",
    "rollbacks",
    "rollback_factor",
    "external_weights",
    # Where it lies; its content is compared otherwise.
    "dataset.data_dir",
    "dataset.path",
    "dataset.strict",  # the same images or none
    "dataset.split_file",
    "reconstruction.weights",
    "latent.init_weights",
    "classify.weights",
    "reconstruction.cache_gb",  # of the same features
    "train.only_codes",
    "train.checkpoint_every_epochs",
    "train.log_every_steps",
    "sample.per_class",
    "sample.seed",
    "sample.projection",
    "sample.export",
    "classify.methods",
    "classify.checkpoint_every_epochs",
    "classify.log_every_steps",
    "report.confidence",
}


def changed(name: str, value: object) -> ConfigDict:
    config = get_config()
    config.update_from_flattened_dict({name: value})
    return config


# The defaults


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


# Fingerprints


def other_value(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return (*value, value[-1] if value else "npz")
    return value + ("x" if isinstance(value, str) else 1)


@pytest.mark.parametrize("name", DEFAULTS)
def test_fingerprints(name):
    old, new = get_config(), changed(name, other_value(DEFAULTS[name]))
    train = [config_lib.train_fingerprint(config) for config in (old, new)]
    classify = [config_lib.classify_fingerprint(config) for config in (old, new)]
    assert (classify[0] == classify[1]) == (name in FREE)
    later = name.startswith(("sample.", "classify.", "mixmatch.", "report."))
    assert (train[0] == train[1]) == (later or name in FREE)
    for before, now in (train, classify):
        if before == now:
            config_lib.check_fingerprint(before, now, "it")
            continue
        with pytest.raises(UserError) as error:
            config_lib.check_fingerprint(before, now, "runs/a/checkpoints")
        assert str(error.value) == (
            f"runs/a/checkpoints was made with {name}={before[name]!r}, "
            f"this call has {now[name]!r}: use another --workdir or the old value"
        )


def test_check_fingerprint_reads_back_what_json_wrote():
    now = config_lib.classify_fingerprint(get_config())
    config_lib.check_fingerprint(json.loads(json.dumps(now)), now, "it")


def test_check_fingerprint_of_another_version():
    now = config_lib.train_fingerprint(get_config())
    older = {name: value for name, value in now.items() if name != "latent.dim"}
    with pytest.raises(UserError, match=r"it was made with latent\.dim=None"):
        config_lib.check_fingerprint(older, now, "it")
    with pytest.raises(UserError, match=r"latent\.dim=128, this call has None"):
        config_lib.check_fingerprint(now, older, "it")
