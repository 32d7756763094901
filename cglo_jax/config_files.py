"""The configuration file that --config names: a file of one's own, or one that comes along."""

import os
import pathlib

from cglo_jax.errors import UserError, shorten

_PACKAGE = pathlib.Path(__file__).parent


def _folder() -> pathlib.Path:
    """configs/, which lies in an installed package, and beside the package in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the files that come along: those in configs/, without .py."""
    return sorted(path.stem for path in _folder().glob("*.py"))


def find(given: str) -> str:
    """Returns the path that --config=`given` means, with its ':argument' if it has one.

    A file that exists counts before a name that comes along.

    Raises:
      UserError: it is neither.
    """
    path, colon, argument = given.partition(":")
    if not path or os.path.isfile(path):
        return given
    if path in names():
        return f"{_folder() / path}.py{colon}{argument}"
    raise UserError(
        f"there is no configuration file {shorten(repr(path))}: give a file that exists, or one "
        f"of {', '.join(names())}"
    )


def tell_missing() -> str:
    """Returns the line for a call without --config."""
    return (
        f"no --config: give a configuration file, or one of {', '.join(names())}; --help tells "
        "more"
    )
