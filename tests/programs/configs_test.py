"""Every file in configs/: loads, is valid, and takes the arguments it says it takes."""

import importlib.util
import inspect
import math
import pathlib
import re
import types

import pytest
from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.validation import validate
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())
CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def load(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("a_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(config: ConfigDict) -> None:
    """Asserts that it is the defaults with other values, none of them impossible."""
    validate(config)
    assert flatten(config).keys() == DEFAULTS.keys()
    for name, value in flatten(config).items():
        assert type(value) is type(DEFAULTS[name]), name
    config.lock()


# The forms of argument that get_config's docstring offers, such as 'SHOTS,cpu'.
FORMS = {
    path: re.findall(r"'(SHOTS[^']*)'", load(path).get_config.__doc__)
    for path in CONFIGS
}
TAKES_SHOTS = [path for path in CONFIGS if FORMS[path]]


def test_there_are_configs():
    assert "digits" in [path.stem for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_and_is_valid(path):
    module = load(path)
    assert module.__doc__
    parameters = inspect.signature(module.get_config).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    assert needed == [] or FORMS[path]
    check(module.get_config(*(["10"] if needed else [])))
    assert flatten(get_config()) == DEFAULTS  # a config changes no other


@pytest.mark.parametrize("path", TAKES_SHOTS, ids=lambda path: path.stem)
def test_takes_every_form_of_argument(path):
    for form in FORMS[path]:
        for shots in (1, 5, 10, 100):
            config = load(path).get_config(form.replace("SHOTS", str(shots)))
            check(config)
            assert config.dataset.shots == shots


@pytest.mark.parametrize("path", TAKES_SHOTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("argument", ["ten", "0", "-1", "1.5", "", "10,nope", ",10"])
def test_refuses_other_arguments(path, argument):
    with pytest.raises(UserError) as error:
        validate(load(path).get_config(argument))
    assert "\n" not in str(error.value)


def test_batches_and_epochs_are_the_papers():
    for name, size, steps in (
        ("cifar10", 128, 50000 // 128),
        ("cifar100", 128, 50000 // 128),
        ("cub", 16, math.ceil(5994 / 16)),
    ):
        (path,) = (p for p in CONFIGS if p.stem == name)
        config = load(path).get_config("30")
        for part in (config.train, config.classify):
            assert (part.epochs, part.batch_size) == (200, size)
            assert part.steps_per_epoch == steps
    assert (config.dataset.size, config.dataset.crop) == (256, 224)
    c = config.classify
    assert (c.network, c.weights, c.cutout_size) == ("resnet50", "imagenet", 112)
    assert (c.lr, c.momentum, c.weight_decay, c.lr_drop) == (1e-3, 0.9, 1e-5, 0.9)
    assert list(c.lr_drop_epochs) == list(range(2, 200, 2))
