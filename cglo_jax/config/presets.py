"""Finds and runs what --config names: a Python file, the name of one in configs/, or a config.json."""

import difflib
import importlib.util
import os
import pathlib
import sys
from typing import Any

from cglo_jax.errors import UserError, shorten

_PACKAGE = pathlib.Path(__file__).parents[1]
_MODULE = "config_config"


def _folder() -> pathlib.Path:
    """Returns configs/, which is in an installed package and beside the package in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the configurations in configs/, without .py."""
    return sorted(path.stem for path in _folder().glob("*.py"))


def find(given: str) -> str:
    """Returns the path that --config=`given` means, with its ':argument' if it has one.

    An existing .py or .json file takes precedence over a name.

    Raises:
      UserError: there is neither, or the file is neither .py nor .json.
    """
    path, colon, argument = given.partition(":")
    if path.startswith("--"):
        raise UserError(f"--config has no value: {given} follows it")
    if os.path.isfile(path) and (path.endswith(".py") or is_data(path)):
        return given
    if path in names():
        return f"{_folder() / path}.py{colon}{argument}"
    if os.path.isfile(path):
        raise UserError(
            f"--config={shorten(path)} is not a configuration: a Python file (.py) with a function "
            "get_config is one, and the config.json of a work directory"
        )
    if os.path.isfile(data := os.path.join(path, "config.json")):
        hint = (
            f"{path} is a work directory: use --config={data}, or only --workdir={path}"
        )
    elif os.path.isfile(f"{path}.py"):
        hint = f"did you mean {path}.py?"
    else:
        close = difflib.get_close_matches(pathlib.Path(path).stem, names(), n=1)
        guess = f"did you mean {close[0]!r}? Or " if close and "/" not in path else ""
        hint = f"{guess}give a file that exists, or one of {', '.join(names())}"
    raise UserError(f"there is no configuration file {shorten(repr(path))}: {hint}")


def is_data(path: str) -> bool:
    """Whether a configuration is a config.json of a work directory, not a Python file."""
    return path.lower().endswith(".json")


def run(found: str) -> Any:
    """Runs a Python configuration and returns what its get_config() returns.

    Args:
      found: its path, with its ':argument' if it has one, as `find` returns it.

    Raises:
      Exception: whatever the file raises.
    """
    path, *argument = found.split(":", 1)
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # as an import does
    spec.loader.exec_module(module)
    return module.get_config(*argument)


def describe_missing(looked_for: str = "") -> str:
    """Returns the line for a call without --config.

    Args:
      looked_for: a config.json that is not there.
    """
    also = f", and there is no {looked_for}" if looked_for else ""
    return (
        f"no --config{also}: give a configuration file, or one of {', '.join(names())}, or the "
        "--workdir of a run, which has its own; see --help"
    )
