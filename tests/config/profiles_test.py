"""Tests of cglo_jax/config/profiles.py."""

import pytest

from cglo_jax.config import profiles
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.validation import validate
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())


def set_by(profile: str, /, **dataset: object) -> dict[str, object]:
    """The fields that a profile sets, by dotted name, for a configuration of that data set."""
    config = get_config()
    config.dataset.update(dataset)
    before = flatten(config)
    config = profiles.apply_profile(config, profile)
    validate(config)
    flat = flatten(config)
    return {field: flat[field] for field in flat if flat[field] != before[field]}


def test_profiles_are_valid_and_of_the_fields_types():
    for name, changes in profiles.PROFILES.items():
        found = set_by(name, name="folder")  # which none of their commands is for
        assert found.keys() == changes.keys()  # a profile states differences
        for field, value in changes.items():
            assert type(found[field]) is type(DEFAULTS[field])
            assert found[field] == (list(value) if isinstance(value, tuple) else value)


OF_CIFAR = {"dataset.transductive": True, "dataset.split_per_seed": True}


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"name": "digits"}, {**OF_CIFAR, "dataset.unlabelled": 100}),
        ({"name": "digits", "classes": 3}, {**OF_CIFAR, "dataset.unlabelled": 30}),
        (
            {"name": "cifar100"},
            {
                **OF_CIFAR,
                "dataset.unlabelled": 1000,
                "classify.cutout_size": 5,
                "classify.erasing_fill": [0.014, -0.026, -0.118],
            },
        ),
        ({"name": "cifar100", "classes": 10}, {**OF_CIFAR, "dataset.unlabelled": 100}),
        (
            {"name": "caltech_birds2011", "size": 256, "crop": 224},
            {
                "dataset.transductive": True,
                "latent.noise": "none",
                "classify.cutout_size": 5,
                "classify.erasing_fill": [-0.03, -0.088, -0.188],
            },
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if "name" in value else "",
)
def test_the_authors_commands_for_a_data_set(dataset, expected):
    found = set_by("authors", **dataset)
    of_data = {f: v for f, v in found.items() if f not in profiles.PROFILES["authors"]}
    assert expected.items() <= of_data.items()
    cifar = dataset["name"] == "cifar100"
    assert of_data.keys() - expected.keys() <= (
        {"classify.cutout_size", "classify.erasing_fill"} if cifar else set()
    )
    assert not set_by("paper", **dataset)


@pytest.mark.parametrize(
    ("size", "crop", "last"),
    [(32, 0, "conv3_2_pre"), (36, 32, "conv3_2_pre"), (256, 224, "pool5")],
)
def test_the_authors_taps_are_of_the_images_side(size, crop, last):
    config = get_config()
    config.dataset.name = "caltech_birds2011" if crop == 224 else "cifar100"
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
