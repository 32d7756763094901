"""Tests of cglo_jax/config/cifar.py: both data sets have one protocol."""

import pytest

from cglo_jax.config import cifar
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.profiles import apply_profile
from configs import cifar10, cifar100


@pytest.mark.parametrize("argument", ["10", "25,authors", "50,scratch", "100,cpu"])
def test_both_have_one_protocol(argument):
    ten, hundred = (of.get_config(argument) for of in (cifar10, cifar100))
    assert ten.dataset.name == "cifar10" and hundred.dataset.name == "cifar100"
    shots, _, variant = argument.partition(",")
    assert ten.dataset.shots == hundred.dataset.shots == int(shots)
    if variant != "authors":  # whose commands' numbers depend on the data set
        hundred.dataset.name = "cifar10"
        assert flatten(ten) == flatten(hundred)


def test_the_papers_protocol_is_the_defaults():
    expected = get_config()
    expected.dataset.update({"name": "cifar10", "shots": 25})
    config = cifar.create("cifar10", "25")
    assert flatten(config) == flatten(expected)
    for part in (config.train, config.classify):
        assert part.batch_size == 128
        assert part.steps_per_epoch == 50000 // 128 == 390
    authors = cifar.create("cifar10", "25,authors")
    assert flatten(authors) == flatten(apply_profile(expected, "authors"))
