"""Reads the configuration of a run back from its work directory."""

import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.validation import validate
from cglo_jax.errors import UserError
from cglo_jax.files import readback
from cglo_jax.files.readback import Fields, Unusable


def find_workdir(workdir: str | os.PathLike) -> pathlib.Path:
    """Returns the absolute path of the work directory of a run.

    Raises:
      UserError: there is no config.json in it.
    """
    path = pathlib.Path(os.path.expanduser(workdir)).absolute()
    if not os.path.isfile(path / "config.json"):
        what = "no config.json in" if path.is_dir() else "no folder"
        raise UserError(f"there is {what} {path}: name the --workdir of a run")
    return path


def restore_config(workdir: pathlib.Path, fingerprint: Mapping[str, Any]) -> ConfigDict:
    """Returns the configuration of a trained result in a work directory, see `read`."""
    return read(workdir / "config.json", fingerprint)


def read(
    path: pathlib.Path, fingerprint: Mapping[str, Any] = MappingProxyType({})
) -> ConfigDict:
    """Returns the configuration that a config.json holds, fields by their dotted names.

    Args:
      path: the file's path.
      fingerprint: fields whose values replace the values of the file, which the newest call wrote.

    Raises:
      UserError: the file is damaged or of another version, or a value is not allowed.
    """
    config = get_config()
    known = flatten(config)
    advice = "put the file back that was there, or use the version that wrote it"

    def check(saved: Fields) -> None:
        if strange := sorted(saved.keys() - known.keys()):
            raise ValueError(f"this version knows no {strange[0]}")

    saved = readback.read_json(path, Fields, advice, check)
    saved |= {name: v for name, v in fingerprint.items() if name in known}
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in saved.items()
    }
    try:
        config.update_from_flattened_dict(fields)
        validate(config)
    except (ValueError, TypeError) as error:
        raise Unusable(path, error, advice) from None
    return config
