"""The flags of `python -m cglo_jax.main`, and one clear line for each way to get them wrong."""

import difflib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from cglo_jax.config import flatten, get_config, validate
from cglo_jax.errors import UserError

STAGES = ("all", "train", "sample", "classify", "report")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, such as configs/digits.py or configs/cifar100.py:10. "
    "--config.latent.dim=256 changes a field; cglo_jax/config.py lists them.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; runs/NAME of the configuration if not given.",
)
_STAGE = flags.DEFINE_enum(
    "stage",
    "all",
    STAGES,
    "train: generator and codes; sample: images and figures; classify: classifiers with "
    "and without them; report: tables and verdict; all: these in turn, none of it twice.",
)


class Command(NamedTuple):
    """What the command line asks for."""

    config: ConfigDict
    workdir: pathlib.Path
    stage: str


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line and checks the config.

    Raises:
      UserError: a flag, a file, a field or a value is wrong.
    """
    app.define_help_flags()
    _check_field_names(argv)
    try:
        rest = flags.FLAGS(list(argv))[1:]
    except (flags.Error, OSError, AttributeError, KeyError, ValueError) as error:
        raise UserError(_explain(argv, error)) from None
    if rest:
        raise UserError(f"cannot use {rest[0]!r}: options begin with --, see --help")
    if _CONFIG.value is None:
        raise UserError("no --config: try --config=configs/digits.py, or --help")
    validate(_CONFIG.value)
    return Command(_CONFIG.value, _workdir(), _STAGE.value)


def _workdir() -> pathlib.Path:
    """--workdir, or runs/cifar100-10 for --config=configs/cifar100.py:10."""
    if _WORKDIR.value:
        return pathlib.Path(_WORKDIR.value)
    path, _, argument = config_flags.get_config_filename(
        flags.FLAGS["config"]
    ).partition(":")
    argument = "-" + argument.replace(",", "-") if argument else ""
    return pathlib.Path("runs") / (pathlib.Path(path).stem + argument)


def _check_field_names(argv: Sequence[str]) -> None:
    names = list(flatten(get_config()))
    for argument in argv[1:]:
        if argument.startswith("--config."):
            name = argument.removeprefix("--config.").partition("=")[0]
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                same_leaf = [
                    n for n in names if n.split(".")[-1] == name.split(".")[-1]
                ]
                hint = [*close, *same_leaf, None][0]
                raise UserError(
                    f"config has no field {name!r}: "
                    + (f"did you mean {hint!r}?" if hint else "see cglo_jax/config.py")
                )


def _explain(argv: Sequence[str], error: Exception) -> str:
    """Turns what absl and ml_collections raise into one line."""
    given = next((a for a in argv if a.startswith("--config=")), "--config")
    text = str(error)
    if "No such file" in text:
        path = given.removeprefix("--config=").partition(":")[0]
        return f"there is no configuration file {path!r}"
    if "Error whilst parsing config file" in text or "Traceback" in text:
        last = [line for line in text.splitlines() if line.strip()][-1]
        return f"{given}: {last.removeprefix('cglo_jax.errors.UserError: ')}"
    if "config." in text and "Unknown command line flag" in text:
        return "fields can only be changed after --config=FILE"
    return " ".join(text.split())
