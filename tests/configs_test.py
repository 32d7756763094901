"""Every file in configs/: loads, is valid, and takes the arguments it says it takes."""

import importlib.util
import inspect
import pathlib
import types

import pytest
from ml_collections import ConfigDict

from cglo_jax.config import flatten, get_config, validate
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())
CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


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


TAKES_SHOTS = [
    p for p in CONFIGS if "shots" in inspect.signature(load(p).get_config).parameters
]


def test_there_are_configs():
    assert "digits" in [path.stem for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_and_is_valid(path):
    module = load(path)
    assert module.__doc__
    parameters = inspect.signature(module.get_config).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    assert needed in ([], ["shots"])
    check(module.get_config(*(["10"] if needed else [])))
    assert flatten(get_config()) == DEFAULTS  # a config changes no other


@pytest.mark.parametrize("path", TAKES_SHOTS, ids=lambda path: path.stem)
def test_takes_shots(path):
    for shots in ("5", "10", "30"):
        config = load(path).get_config(shots)
        check(config)
        assert config.dataset.shots == int(shots)


@pytest.mark.parametrize("path", TAKES_SHOTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("argument", ["ten", "0", "-1", "1.5", ""])
def test_refuses_other_arguments(path, argument):
    with pytest.raises((UserError, ValueError)):
        validate(load(path).get_config(argument))
