"""Tests of cglo_jax/config/fingerprint.py."""

import json

import pytest
from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.fingerprint import (
    check_fingerprint,
    classify_fingerprint,
    describe_longer,
    find_longer,
    train_fingerprint,
)
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
    "dataset.strict",
    "dataset.background",
    "dataset.bits",  # the same images or none
    "dataset.split_file",
    "dataset.shortfall",
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
        advice = (
            "use another --workdir or the old value (a call without --config has it)"
        )
        if name.endswith(".epochs"):  # `other_value` is one more
            advice = f"run --stage={name[:-7]} first, which continues to that epoch"
        if name.endswith(".steps_per_epoch"):
            advice += f"; {name[:-16]}.epochs makes a run longer"
        assert str(error.value) == (
            f"runs/a/checkpoints was made with {name}={before[name]!r}, "
            f"this call has {now[name]!r}: {advice}"
        )


def test_check_fingerprint_reads_back_what_json_wrote():
    now = classify_fingerprint(get_config())
    check_fingerprint(json.loads(json.dumps(now)), now, "it")


def test_check_fingerprint_of_another_version():
    now = train_fingerprint(get_config())
    older = {name: value for name, value in now.items() if name != "latent.dim"}
    with pytest.raises(
        UserError,
        match=r"^it was made by a version of .* had no latent\.dim: use another --workdir$",
    ):
        check_fingerprint(older, now, "it")
    with pytest.raises(UserError, match=r"latent\.dim=128, this call has None"):
        check_fingerprint(now, older, "it")


# Longer


def lengths(epochs: int, *drops: int, part: str = "train") -> dict[str, object]:
    return {f"{part}.epochs": epochs, f"{part}.lr_drop_epochs": list(drops)}


@pytest.mark.parametrize("part", ["train", "classify"])
def test_more_epochs_that_begin_alike_are_accepted_where_they_may_be(part):
    saved = lengths(20, 10, 15, part=part)
    for now in (lengths(21, 10, 15, part=part), lengths(40, 15, 10, 20, 30, part=part)):
        assert find_longer(saved, now) == (part,)
        assert check_fingerprint(saved, now, "it", may_grow=("train", "classify")) == (
            part,
        )
        with pytest.raises(
            UserError, match=f"run --stage={part} first, which continues to that epoch"
        ):
            check_fingerprint(saved, now, "it")
        with pytest.raises(UserError, match=r"=20, this call has .*: mixmatch cannot"):
            check_fingerprint(saved, now, "it", cannot_grow="mixmatch cannot")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            lengths(10, 10, 15),
            "it was made with train.epochs=20, this call has 10: a run can be trained for more "
            + "epochs, not fewer: use 20 or more, or another --workdir",
        ),
        (
            lengths(40, 10, 30),  # the fall after 15 was taken
            "it was made with train.epochs=20, this call has 40: it cannot be trained for more "
            + "epochs, as train.lr_drop_epochs differ in the epochs that are done: give the old "
            + "epochs, too, or use another --workdir",
        ),
        (
            lengths(20, 10),
            "it was made with train.lr_drop_epochs=[10, 15], this call has [10]: use another "
            + "--workdir or the old value (a call without --config has it)",
        ),
    ],
)
def test_what_is_no_longer_run_is_refused_and_says_why(now, message):
    saved = lengths(20, 10, 15)
    assert find_longer(saved, now) == ()
    with pytest.raises(UserError) as error:
        check_fingerprint(saved, now, "it", may_grow=("train", "classify"))
    assert str(error.value) == message


def test_another_field_is_refused_of_a_longer_run_too():
    saved, now = lengths(2) | {"latent.dim": 8}, lengths(4) | {"latent.dim": 9}
    with pytest.raises(UserError, match=r"latent\.dim=8, this call has 9"):
        check_fingerprint(saved, now, "it", may_grow=("train",))


def test_what_is_new_of_a_longer_run_is_described():
    saved = lengths(20, 10, 15)
    assert describe_longer("train", saved, lengths(40, 10, 15)) == (
        "was trained for 20 epochs, continues to 40; no fall of the learning rates lies in the new "
        "part"
    )
    message = describe_longer("train", saved, lengths(40, 10, 15, 30, 20, 50))
    assert message.endswith(
        "the learning rates fall in the new part after epoch 20, 30"
    )
