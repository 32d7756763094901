"""Tests of cglo_jax/fingerprints.py."""

import json

import pytest
from ml_collections import ConfigDict

from cglo_jax.config import flatten, get_config
from cglo_jax.errors import UserError
from cglo_jax.fingerprints import (
    check_fingerprint,
    classify_fingerprint,
    train_fingerprint,
)

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
    "dataset.strict",
    "dataset.background",
    "dataset.bits",  # the same images or none
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
    "report.compare",
    "report.confidence",
    "log.wandb",
}


def changed(name: str, value: object) -> ConfigDict:
    config = get_config()
    config.update_from_flattened_dict({name: value})
    return config


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
    train = [train_fingerprint(config) for config in (old, new)]
    classify = [classify_fingerprint(config) for config in (old, new)]
    assert (classify[0] == classify[1]) == (name in FREE)
    later = name.startswith(("sample.", "classify.", "mixmatch.", "report."))
    assert (train[0] == train[1]) == (later or name in FREE)
    for before, now in (train, classify):
        if before == now:
            check_fingerprint(before, now, "it")
            continue
        with pytest.raises(UserError) as error:
            check_fingerprint(before, now, "runs/a/checkpoints")
        length = name.split(".")[-1] in ("epochs", "steps_per_epoch")
        assert str(error.value) == (
            f"runs/a/checkpoints was made with {name}={before[name]!r}, "
            f"this call has {now[name]!r}: use another --workdir or the old value"
            + ("; a run cannot be made longer or shorter" if length else "")
        )


def test_check_fingerprint_reads_back_what_json_wrote():
    now = classify_fingerprint(get_config())
    check_fingerprint(json.loads(json.dumps(now)), now, "it")


def test_check_fingerprint_of_another_version():
    now = train_fingerprint(get_config())
    older = {name: value for name, value in now.items() if name != "latent.dim"}
    with pytest.raises(UserError, match=r"it was made with latent\.dim=None"):
        check_fingerprint(older, now, "it")
    with pytest.raises(UserError, match=r"latent\.dim=128, this call has None"):
        check_fingerprint(now, older, "it")
