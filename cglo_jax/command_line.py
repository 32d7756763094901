"""The flags of `python -m cglo_jax.main`, and one clear line for each way to get them wrong."""

import difflib
import itertools
import os
import pathlib
import re
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from cglo_jax.config import flatten, get_config
from cglo_jax.distributed import Launch
from cglo_jax.errors import UserError
from cglo_jax.validation import validate

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
    "and without them; report: tables and verdict; all: these in turn, nothing trained twice.",
)
_FRESH = flags.DEFINE_boolean(
    "fresh",
    False,
    "Start over: what is in the work directory is kept beside it, as NAME.old-1.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "For several processes, such as one per host: HOST:PORT where process 0 listens, with "
    "--processes and --process; or auto where Slurm, Open MPI, Kubernetes or a TPU tell.",
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Their number.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")

_NO_CONFIG = "no --config: try --config=configs/digits.py, or --help"


class Command(NamedTuple):
    """What the command line asks for."""

    config: ConfigDict
    workdir: pathlib.Path
    stage: str
    fresh: bool = False
    launch: Launch | None = None


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line and checks the config.

    Raises:
      UserError: a flag, a file, a field or a value is wrong.
    """
    app.define_help_flags()
    shown = (_CONFIG, _WORKDIR, _STAGE, _FRESH, _COORDINATOR, _PROCESSES, _PROCESS)
    for flag in shown:  # --help shows those of argv[0] only
        flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[flag.name])
    _check_field_names(argv)
    path = _config_argument(argv).partition(":")[0]
    if path and not pathlib.Path(path).is_file():
        raise UserError(f"there is no configuration file {path!r}")
    try:
        rest = flags.FLAGS(list(argv))[1:]
        config = _CONFIG.value
        flat = flatten(config) if config else {}
    except SystemExit:
        if any(a.lstrip("-").startswith("help") for a in argv[1:]):
            raise SystemExit(0) from None  # absl leaves with 1
        raise
    except Exception as error:  # noqa: BLE001 - a config file may raise anything
        raise UserError(_explain(argv, error)) from None
    if not path:
        raise UserError(_NO_CONFIG)
    if rest:
        raise UserError(f"cannot use {rest[0]!r}: options begin with --, see --help")
    if flat.keys() != flatten(get_config()).keys():
        raise UserError(
            f"{path}: get_config() must return cglo_jax.config.get_config() with "
            "other values, no other fields"
        )
    validate(config)
    if _FRESH.value and _STAGE.value not in ("all", "train"):
        raise UserError(
            f"--fresh sets the whole run aside, and --stage={_STAGE.value} needs it: use "
            "--stage=all or --stage=train"
        )
    return Command(config, _workdir(), _STAGE.value, _FRESH.value, _launch())


def _launch() -> Launch | None:
    """--coordinator, --processes and --process; None without them."""
    place, count, own = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    if place == "auto":
        if (count, own) != (None, None):
            raise UserError("--coordinator=auto takes no --processes and no --process")
        return Launch("auto")
    given = [value is not None for value in (place, count, own)]
    if not any(given):
        return None
    if not all(given):
        raise UserError(
            "several processes need all of --coordinator=HOST:PORT --processes=N --process=I, "
            "or --coordinator=auto alone"
        )
    if not re.fullmatch(r".+:\d{1,5}", place):
        raise UserError(f"--coordinator={place}: it must be HOST:PORT, or auto")
    if not 0 <= own < count:
        raise UserError(
            f"--process={own}: it must be from 0 to --processes={count} minus 1"
        )
    return Launch(place, count, own)


def _workdir() -> pathlib.Path:
    """--workdir, or runs/cifar100-10 for --config=configs/cifar100.py:10."""
    if _WORKDIR.value:
        return pathlib.Path(_WORKDIR.value).expanduser()
    path, _, argument = config_flags.get_config_filename(
        flags.FLAGS["config"]
    ).partition(":")
    argument = "-" + argument.replace(",", "-") if argument else ""
    return pathlib.Path("runs") / (pathlib.Path(path).stem + argument)


def _config_argument(argv: Sequence[str]) -> str:
    """The value of --config=FILE or --config FILE, "" if there is none."""
    value = ""
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        if re.match("--?config=", argument):
            value = argument.partition("=")[2]
        elif argument in ("--config", "-config"):
            value = following
    return value


def _check_field_names(argv: Sequence[str]) -> None:
    names = list(flatten(get_config()))
    for argument in argv[1:]:
        given = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if given and (name := given[1]) not in names:
            same_leaf = [n for n in names if n.split(".")[-1] == name.split(".")[-1]]
            close = difflib.get_close_matches(name, names, n=1)
            hints = dict.fromkeys([*same_leaf, *close][:3])
            raise UserError(
                f"config has no field {name!r}: "
                + (
                    f"did you mean {' or '.join(map(repr, hints))}?"
                    if hints
                    else "see cglo_jax/config.py"
                )
            )


# What Python says of a value that is not of a field's type, and what people read.
_TYPES = {
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


def _explain(argv: Sequence[str], error: Exception) -> str:
    """Turns what absl, ml_collections and config files raise into one line."""
    text, given = " ".join(str(error).split()), _config_argument(argv)
    if "Path to config file is an empty string" in text:
        return _NO_CONFIG
    value = re.match(r"flag --(config\.[\w.]+)=(.*?): ", text)
    for saying, wanted in _TYPES.items():
        if value and saying in text:
            return f"{value[1]} is {value[2]!r}: it must be {wanted}"
    if "before a value for --config" in text or (not given and "'config." in text):
        return "fields can only be changed after --config=FILE"
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    path, _, argument = given.partition(":")
    if "has no attribute 'get_config'" in str(chain[-1]):
        return f"{path} has no function get_config"
    if argument and "get_config() takes 0 positional" in str(chain[-1]):
        return f"{path} takes no argument: leave out {':' + argument!r}"
    if own := [raised for raised in chain if isinstance(raised, UserError)]:
        return f"--config={given}: {own[-1]}"  # those before it quote its traceback
    for raised in chain:
        if place := _place(raised, path):
            message = " ".join(str(getattr(raised, "msg", raised)).split())
            return f"{place}: {type(raised).__name__}: {message}"
    return text


def _place(error: BaseException, path: str) -> str:
    """Where in the file `path` the error was raised, "" if not there."""
    frames = traceback.extract_tb(error.__traceback__)
    file = os.path.abspath(path)
    lines = [f.lineno for f in frames if os.path.abspath(f.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return f"{path}, line {lines[-1]}" if lines else ""
