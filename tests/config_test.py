"""Tests of cglo_jax/config.py."""

import ast
import inspect
import io
import json
import tokenize

import pytest
from ml_collections import ConfigDict

from cglo_jax import config as config_lib
from cglo_jax.config import flatten, get_config, validate
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())
NAN, INF = float("nan"), float("inf")
NUMBERS = [
    name
    for name, value in DEFAULTS.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]
FLOATS = [name for name in NUMBERS if isinstance(DEFAULTS[name], float)]
# Bad values of the numbers that are in none of config.py's three lists.
OTHER_NUMBERS = {
    "latent.noise_dim": [0, -1],
    "classify.depth": [0, 4, 9, 12, 27, 29],
    "classify.replace_probability": [-0.01, 1.01],
    "classify.pad_value": [-1.01, 1.01],
    "report.confidence": [-0.5, 0.0, 1.0, 95.0],
}
BAD_LISTS = [
    ("seeds", ()),
    ("seeds", (1, 1)),
    ("seeds", (-1,)),
    ("seeds", (0.5,)),
    ("seeds", ("a",)),
    ("seeds", ([0],)),
    ("reconstruction.layer_weights", (1.0,) * 4),
    ("reconstruction.layer_weights", (1.0,) * 6),
    ("reconstruction.layer_weights", (1.0, 1.0, 1.0, 1.0, -0.1)),
    ("reconstruction.layer_weights", (1.0, 1.0, 1.0, 1.0, "a")),
    ("reconstruction.layer_weights", (1.0, 1.0, 1.0, 1.0, NAN)),
    ("reconstruction.layer_weights", (1.0, 1.0, 1.0, 1.0, INF)),
    ("train.lr_drop_epochs", (0,)),
    ("train.lr_drop_epochs", (1.5,)),
    ("train.lr_drop_epochs", ("",)),
    ("classify.lr_drop_epochs", (60, -1)),
    ("sample.t_values", ()),
    ("sample.t_values", (0.1, 1.1)),
    ("sample.t_values", (-0.1,)),
    ("sample.t_values", ("a",)),
    ("sample.t_values", (NAN,)),
    ("classify.methods", ()),
    ("classify.methods", ("baseline", "cutoff")),
    ("classify.methods", ("cglo", "cglo")),
    ("classify.methods", ("baseline,cglo",)),
    ("classify.methods", (["cglo"],)),
]
# By hand: what one may change and go on in the same work directory.
FREE = {
    "seeds",
    "devices",
    "dataset.data_dir",
    "train.checkpoint_every_epochs",
    "train.log_every_steps",
    "sample.per_class",
    "sample.seed",
    "sample.projection",
    "classify.methods",
    "classify.checkpoint_every_epochs",
    "classify.log_every_steps",
    "report.confidence",
}


def changed(name: str, value: object) -> ConfigDict:
    config = get_config()
    config.update_from_flattened_dict({name: value})
    return config


def error_of(name: str, value: object) -> str:
    """Returns the one line with which `value` is refused."""
    with pytest.raises(UserError) as error:
        validate(changed(name, value))
    text = str(error.value)
    assert "\n" not in text
    shown = list(value) if isinstance(value, tuple) else value
    assert text.startswith(f"config.{name} is {shown!r}: it must be ")
    return text


# The defaults


def test_defaults_are_valid_and_locked():
    config = get_config()
    validate(config)
    with pytest.raises(AttributeError, match="dmi"):
        config.latent.dmi = 3
    with pytest.raises(TypeError, match="dim"):
        config.latent.dim = "many"
    config.latent.dim = 3
    assert get_config().latent.dim == 128  # nothing is shared between calls


def test_every_field_has_a_comment():
    source = inspect.getsource(get_config)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    commented = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):
            name = ast.unparse(node.targets[0]).removeprefix("config.")
            lines = range(node.lineno, node.end_lineno + 1)
            commented[name] = any(line in comments for line in lines)
    assert commented == dict.fromkeys(DEFAULTS, True)


def test_flatten_by_hand():
    config = ConfigDict({"a": 1, "b": {"c": (2, 3), "d": {"e": "f"}}})
    assert flatten(config) == {"a": 1, "b.c": [2, 3], "b.d.e": "f"}
    assert json.loads(json.dumps(DEFAULTS)) == DEFAULTS


# Values


def test_every_number_has_a_range():
    lists = config_lib._POSITIVE, config_lib._NOT_NEGATIVE, config_lib._BELOW_ONE
    checked = [*sum(lists, ()), *OTHER_NUMBERS]
    assert sorted(checked) == sorted(NUMBERS)


@pytest.mark.parametrize("name", config_lib._POSITIVE)
def test_positive_numbers(name):
    kind = type(DEFAULTS[name])
    assert error_of(name, kind(0)).endswith("greater than 0")
    assert error_of(name, kind(-1)).endswith("greater than 0")
    if name != "latent.dim":  # a sphere in R^1 is two points
        validate(changed(name, 1e-9 if kind is float else 1))


@pytest.mark.parametrize("name", config_lib._NOT_NEGATIVE)
def test_numbers_that_may_be_0(name):
    kind = type(DEFAULTS[name])
    assert error_of(name, kind(-1)).endswith("0 or more")
    validate(changed(name, kind(0)))


@pytest.mark.parametrize("name", config_lib._BELOW_ONE)
def test_numbers_below_1(name):
    for bad in (-0.001, 1.0, 2.0):
        assert error_of(name, bad).endswith("at least 0 and below 1")
    for good in (0.0, 0.999):
        validate(changed(name, good))


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_other_numbers(name):
    for bad in OTHER_NUMBERS[name]:
        error_of(name, bad)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("latent.dim", 2),
        ("classify.depth", 10),
        ("classify.depth", 40),
        ("classify.replace_probability", 0.0),
        ("classify.replace_probability", 1.0),
        ("classify.pad_value", -1.0),
        ("sample.t_values", (0.0, 1.0)),
        ("sample.t_values", (1,)),
        ("seeds", (7,)),
        ("train.lr_drop_epochs", ()),
        ("reconstruction.layer_weights", (0, 0, 1, 0.5, 0)),
        ("classify.methods", ("pixelmix",)),
    ],
)
def test_values_at_the_edge(name, good):
    validate(changed(name, good))


def test_latent_dim_of_1():
    assert error_of("latent.dim", 1).endswith("at least 2")


def test_noise_dim_is_free_without_noise():
    config = changed("latent.noise", "none")
    config.latent.noise_dim = 0
    validate(config)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_numbers_are_finite(name, value):
    assert error_of(name, value).endswith("finite")


@pytest.mark.parametrize("name", config_lib._CHOICES)
def test_choices(name):
    choices = config_lib._CHOICES[name]
    assert DEFAULTS[name] in choices
    for choice in choices:
        validate(changed(name, choice))
    for bad in ("", "none of them", choices[0].upper()):
        assert error_of(name, bad).endswith("one of " + ", ".join(choices))


@pytest.mark.parametrize(("name", "value"), BAD_LISTS)
def test_lists(name, value):
    error_of(name, value)


# Fingerprints


def other_value(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return (*value, value[-1])
    return value + ("x" if isinstance(value, str) else 1)


@pytest.mark.parametrize("name", DEFAULTS)
def test_fingerprints(name):
    old, new = get_config(), changed(name, other_value(DEFAULTS[name]))
    train = [config_lib.train_fingerprint(config) for config in (old, new)]
    classify = [config_lib.classify_fingerprint(config) for config in (old, new)]
    assert (classify[0] == classify[1]) == (name in FREE)
    later = name.startswith(("sample.", "classify.", "report."))
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
