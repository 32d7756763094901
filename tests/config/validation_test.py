"""Tests of cglo_jax/config/validation.py."""

import pytest
from ml_collections import ConfigDict

from cglo_jax.config.checks import BELOW_1, NOT_NEGATIVE, POSITIVE, Check
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.fields import FIELDS
from cglo_jax.config.validation import validate
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())
NAN, INF = float("nan"), float("inf")
NUMBERS = [
    name
    for name, value in DEFAULTS.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]
FLOATS = [name for name in NUMBERS if isinstance(DEFAULTS[name], float)]


def having(check: Check) -> list[str]:
    return [field.name for field in FIELDS.values() if field.check is check]


# Bad values of the numbers that have none of the three common ranges.
OTHER_NUMBERS = {
    "latent.dim": [1, 0, -1],  # a sphere in R^1 is two points
    "dataset.bits": [-1, 7, 17],
    "latent.noise_dim": [0, -1],
    "latent.init_size": [-1, 1025],
    "classify.depth": [0, 4, 9, 12, 27, 29],
    "classify.replace_probability": [-0.01, 1.01],
    "classify.augment_probability": [-0.01, 1.01],
    "classify.erasing_probability": [-0.01, 1.01],
    "weak_classifier.negative_slope": [-0.01, 1.01],
    "mixmatch.ramp": [-0.01, 1.01],
    "classify.pad_value": [-1.01, 1.01],
    "report.confidence": [-0.5, 0.0, 1.0, 95.0],
    "rollback_factor": [-0.5, 0.0, 1.0, 2.0],
}
BAD_LISTS = [
    ("seeds", ()),
    ("seeds", (1, 1)),
    ("seeds", (-1,)),
    ("seeds", (0.5,)),
    ("seeds", (0, 1 << 32)),
    ("seeds", ("a",)),
    ("seeds", ([0],)),
    ("reconstruction.layers", ()),
    ("reconstruction.layers", ("conv1_2", "conv1_2")),
    ("reconstruction.layers", ("conv1_3",)),
    ("reconstruction.layers", ("pool3_pre",)),
    ("reconstruction.layers", ("pool6", "conv1_2")),
    ("reconstruction.layers", (1,)),
    ("reconstruction.layer_weights", ()),
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
    ("classify.lr_drop_epochs", (60, 60)),
    ("classify.erasing_fill", ()),
    ("classify.erasing_fill", (0.0, 0.0)),
    ("classify.erasing_fill", (0.0, 0.0, 1.1)),
    ("classify.erasing_fill", ("a",)),
    ("sample.t_values", ()),
    ("sample.t_values", (0.1, 1.1)),
    ("sample.t_values", (-0.1,)),
    ("sample.t_values", ("a",)),
    ("sample.t_values", (NAN,)),
    ("classify.methods", ()),
    ("classify.methods", ("cglo", "cglo")),
    ("classify.methods", (["cglo"],)),
    ("sample.export", ("zip",)),
    ("sample.export", ("npz", "npz")),
]


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
    if len(text) < 400:
        assert text.startswith(f"config.{name} is {shown!r}: it must be ")
    return text


@pytest.mark.parametrize("value", ["auto", "white", "black", "grey", "#80C0ff"])
def test_background(value):
    validate(changed("dataset.background", value))


@pytest.mark.parametrize("value", ["", "red", "#80c0f", "#80c0fg", "808080", "#8 0 c0"])
def test_background_that_is_none(value):
    assert error_of("dataset.background", value).endswith(
        "it must be auto, white, black, grey or a colour such as #80c0ff"
    )


def test_defaults_are_valid():
    validate(get_config())


def test_every_number_has_a_range():
    common = [n for check in (POSITIVE, NOT_NEGATIVE, BELOW_1) for n in having(check)]
    assert sorted([*common, *OTHER_NUMBERS]) == sorted(NUMBERS)


@pytest.mark.parametrize("name", having(POSITIVE))
def test_positive_numbers(name):
    kind = type(DEFAULTS[name])
    assert error_of(name, kind(0)).endswith("greater than 0")
    assert error_of(name, kind(-1)).endswith("greater than 0")
    validate(changed(name, 1e-9 if kind is float else 1))


@pytest.mark.parametrize("name", having(NOT_NEGATIVE))
def test_numbers_that_may_be_0(name):
    kind = type(DEFAULTS[name])
    assert error_of(name, kind(-1)).endswith("0 or more")
    validate(changed(name, kind(0)))


@pytest.mark.parametrize("name", having(BELOW_1))
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


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("latent.dim", None, "a whole number"),
        ("train.code_lr", None, "a number"),
        ("classify.flip", None, "true or false"),
        ("dataset.path", None, "a text"),
        ("seeds", None, "a list"),
        ("train.epochs", True, "a whole number"),
        ("train.epochs", 1 << 32, "below 2**32"),
        ("dataset.path", "a\0b", "without a null character"),
    ],
)
def test_values_of_another_type(name, value, want):
    assert error_of(name, value).endswith(f"it must be {want}")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("shots", 0, "so that every seed has all images: give --config.dataset.shots"),
        ("holdout", 9, "which would be others for each seed: use one of the two"),
    ],
)
def test_seeds_with_images_of_their_own_need_some_to_choose_from(field, value, says):
    config = changed("dataset.split_per_seed", True)
    validate(config)
    config.dataset[field] = value
    with pytest.raises(UserError) as error:
        validate(config)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    config.dataset.split_per_seed = False
    validate(config)


def test_a_long_value_is_not_repeated_in_full():
    text = error_of("dtype", "x" * 10_000)
    assert len(text) < 600 and "xxx ... xxx" in text


def test_latent_dim_is_at_least_2():
    for bad in OTHER_NUMBERS["latent.dim"]:
        assert error_of("latent.dim", bad).endswith("at least 2")


def test_noise_dim_is_free_without_noise():
    config = changed("latent.noise", "none")
    config.latent.noise_dim = 0
    validate(config)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_numbers_are_finite(name, value):
    assert error_of(name, value).endswith("finite")


def test_the_name_of_a_project_of_wandb():
    for bad in ("a/b", "a?", "a:b", "a" * 129, "a\nb"):
        assert "at most 128 characters without" in error_of("log.wandb", bad)
    for good in ("", "few images", "a" * 128):
        validate(changed("log.wandb", good))


def choices_of(name: str) -> list[str]:
    check = FIELDS[name].check
    return check.want.removeprefix("one of ").split(", ")


@pytest.mark.parametrize(
    "name",
    [f.name for f in FIELDS.values() if f.check and f.check.want[:7] == "one of "],
)
def test_choices(name):
    choices = choices_of(name)
    assert DEFAULTS[name] in choices
    for choice in choices:
        validate(changed(name, choice))
    for bad in ("", "none of them", choices[0].upper()):
        assert error_of(name, bad).endswith("one of " + ", ".join(choices))


@pytest.mark.parametrize(("name", "value"), BAD_LISTS)
def test_lists(name, value):
    error_of(name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset.size": 32, "dataset.crop": 56},
            "config.dataset.crop is 56: it must be at most dataset.size, which is 32",
        ),
        (
            {"dataset.size": 100},
            "it must be 4 or 7, doubled at least once, such as 112 or 128",
        ),
        (
            {"dataset.size": 256, "dataset.crop": 200},
            "config.dataset.crop is 200: it must be 4 or 7, doubled at least once",
        ),
        (
            {"reconstruction.layers": ("conv4_3", "pool5", "conv1_1_pre")},
            "it must be 3 numbers >= 0, one for each of reconstruction.layers",
        ),
        ({"classify.weights": ""}, "config.classify.weights is ''"),
        ({"reconstruction.weights": ""}, "config.reconstruction.weights is ''"),
        ({"classify.network": "vgg"}, "config.classify.network is 'vgg'"),
        (
            {"classify.weights": "imagenet"},
            "there are none for classify.network=wide_resnet",
        ),
        (
            {"external_weights": False},
            "config.external_weights is False, but reconstruction.weights is 'imagenet'",
        ),
        (
            {
                "external_weights": False,
                "reconstruction.loss": "laplacian",
                "classify.network": "resnet50",
                "classify.weights": "a.safetensors",
            },
            "config.external_weights is False, but classify.weights is 'a.safetensors'",
        ),
        (
            {
                "external_weights": False,
                "reconstruction.loss": "laplacian",
                "latent.init": "resnet",
            },
            "config.external_weights is False, but latent.init_weights is 'imagenet'",
        ),
    ],
)
def test_fields_that_do_not_go_together(changes, message):
    config = get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        validate(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"external_weights": False, "reconstruction.loss": "laplacian"},
        {"external_weights": False, "reconstruction.weights": "random"},
        {"classify.network": "resnet50", "classify.weights": "imagenet"},
        {
            "reconstruction.layers": ("pool5", "conv3_2_pre"),
            "reconstruction.layer_weights": (1, 0.0),
        },
        {"dataset.size": 32, "dataset.crop": 32},
        {"dataset.size": 36, "dataset.crop": 32},
        {"sample.export": ("tfds", "npz")},
    ],
)
def test_fields_that_go_together(changes):
    config = get_config()
    config.update_from_flattened_dict(changes)
    validate(config)
