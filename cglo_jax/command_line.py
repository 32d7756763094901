"""The flags of `python -m cglo_jax.main`, and one clear line for each way to get them wrong."""

import difflib
import errno
import functools
import itertools
import os
import pathlib
import re
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cglo_jax import config_files
from cglo_jax.config import flatten, get_config
from cglo_jax.distributed import Launch
from cglo_jax.errors import UserError, shorten
from cglo_jax.validation import validate

_CONFIG_FLAGS = ("--config", "-config")
STAGES = ("all", "train", "sample", "classify", "report")


class Command(NamedTuple):
    """What the command line asks for."""

    config: ConfigDict
    workdir: pathlib.Path
    stage: str
    fresh: bool = False
    launch: Launch | None = None


class _Flags(NamedTuple):
    config: flags.FlagHolder
    workdir: flags.FlagHolder
    stage: flags.FlagHolder
    fresh: flags.FlagHolder
    coordinator: flags.FlagHolder
    processes: flags.FlagHolder
    process: flags.FlagHolder


@functools.cache
def _define_flags() -> _Flags:
    """Defines the flags, late: --config reads the command line at once."""
    return _Flags(
        config_flags.DEFINE_config_file(
            "config",
            None,
            "Configuration file, or the name of one that comes along, such as digits or "
            "cifar100:10. --config.latent.dim=256 changes a field; cglo_jax/config.py lists them.",
        ),
        flags.DEFINE_string(
            "workdir",
            None,
            "Directory of the run; runs/NAME of the configuration if not given.",
        ),
        flags.DEFINE_enum(
            "stage",
            "all",
            STAGES,
            "train: generator and codes; sample: images and figures; classify: classifiers with "
            "and without them; report: tables and verdict; all: these in turn, nothing trained "
            "twice.",
        ),
        flags.DEFINE_boolean(
            "fresh",
            False,
            "Start over: what is in the work directory is kept beside it, as NAME.old-1.",
        ),
        flags.DEFINE_string(
            "coordinator",
            None,
            "For several processes, such as one per host: HOST:PORT where process 0 listens, "
            "with --processes and --process; or auto where Slurm, Open MPI, Kubernetes or a TPU "
            "tell.",
        ),
        flags.DEFINE_integer("processes", None, "Their number."),
        flags.DEFINE_integer("process", None, "Which of them this one is, from 0."),
    )


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line and checks the config.

    Raises:
      UserError: a flag, a file, a field or a value is wrong.
    """
    _check_names(argv)
    found = _find_files(argv)
    app.define_help_flags()
    given = _define_flags()
    for flag in given:  # --help shows those of argv[0] only
        flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[flag.name])
    path = _config_argument(argv).partition(":")[0]
    logging.set_verbosity(logging.ERROR)  # what is warned of is refused here
    try:
        rest = flags.FLAGS(found)[1:]
        config = given.config.value
        getattr(config, "items", None)  # raises now what a file raised in its open()
        flat = flatten(config) if isinstance(config, ConfigDict) else {}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a config file may raise anything
        helped = any(a.lstrip("-").startswith("help") for a in argv[1:])
        if helped and isinstance(error, SystemExit):
            raise SystemExit(0) from None  # absl leaves with 1
        raise UserError(_explain(argv, found, error)) from None
    if not path:
        raise UserError(_no_config())
    if rest:
        raise UserError(f"cannot use {rest[0]!r}: options begin with --, see --help")
    if flat.keys() != flatten(get_config()).keys():
        raise UserError(
            f"{path}: get_config() must return cglo_jax.config.get_config() with "
            "other values, no other fields"
        )
    validate(config)
    if given.fresh.value:
        _check_fresh(given.stage.value, config)
    processes = (given.coordinator.value, given.processes.value, given.process.value)
    return Command(
        config,
        _find_workdir(given.workdir.value),
        given.stage.value,
        given.fresh.value,
        _find_launch(*processes),
    )


def _check_fresh(stage: str, config: ConfigDict) -> None:
    """Refuses to set aside what the call needs."""
    needs = f"--stage={stage}" if stage not in ("all", "train") else ""
    if config.train.only_codes:
        needs = "--config.train.only_codes"
    if needs:
        raise UserError(
            f"--fresh sets the whole run aside, and {needs} needs it: leave one of them out"
        )


def _find_launch(
    place: str | None, count: int | None, own: int | None
) -> Launch | None:
    """--coordinator, --processes and --process; None without them."""
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


def _find_workdir(given: str | None) -> pathlib.Path:
    """--workdir, or runs/cifar100-10 for --config=configs/cifar100.py:10."""
    if given:
        _check_path(path := os.path.expanduser(given))
        return pathlib.Path(path)
    path, _, argument = config_flags.get_config_filename(
        flags.FLAGS["config"]
    ).partition(":")
    argument = "-" + argument.replace(",", "-") if argument else ""
    return pathlib.Path("runs") / (pathlib.Path(path).stem + argument)


def _check_path(path: str) -> None:
    """Refuses a work directory that could be no directory; Orbax writes UTF-8 names only."""
    try:
        path.encode()
        os.stat(path)
    except UnicodeEncodeError:
        raise UserError(f"--workdir={path} is not UTF-8: use another name") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"--workdir={shorten(path)} is too long a name") from None


def _no_config() -> str:
    names = ", ".join(config_files.names())
    return (
        f"no --config: give a configuration file, or one of {names}; --help tells more"
    )


def _find_files(argv: Sequence[str]) -> list[str]:
    """The arguments with paths instead of the names of configurations that come along."""
    found = [*argv[:1]]
    for before, argument in itertools.pairwise(argv):
        if given := re.match("--?config=", argument):
            argument = given[0] + config_files.find(argument.removeprefix(given[0]))
        elif before in _CONFIG_FLAGS:
            argument = config_files.find(argument)
        found.append(argument)
    return found


def _config_argument(argv: Sequence[str]) -> str:
    """The value of --config=FILE or --config FILE, "" if there is none."""
    value = ""
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        if re.match("--?config=", argument):
            value = argument.partition("=")[2]
        elif argument in _CONFIG_FLAGS:
            value = following
    return value


def _check_names(argv: Sequence[str]) -> None:
    """Checks which flags are given, before any is parsed."""
    defaults = flatten(get_config())
    names, lists = list(defaults), set()
    for argument in argv[1:]:
        if re.match("--?flagfile", argument):
            raise UserError(
                "--flagfile is not read: write a configuration file, such as those in configs/"
            )
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
        if given and isinstance(defaults[name], list):
            if name in lists:  # ml_collections would join them
                raise UserError(
                    f"config.{name} is given twice: give it once, with all its values"
                )
            lists.add(name)


# What Python says of a value that is not of a field's type, and what people read.
_TYPES = {
    "invalid literal for int": "a whole number",
    "Exceeds the limit": "a smaller number",  # of thousands of digits
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


def _explain(argv: Sequence[str], found: Sequence[str], error: BaseException) -> str:
    """Turns what absl, ml_collections and config files raise into one line.

    Args:
      found: `argv` with the files that were read.
    """
    text, given = _text(error), _config_argument(argv)
    if "Path to config file is an empty string" in text:
        return _no_config()
    value = re.match(r"flag --(config\.[\w.]+)=(.*?): ", text)
    for saying, wanted in _TYPES.items():
        if value and saying in text:
            return f"{value[1]} is {shorten(repr(value[2]))}: it must be {wanted}"
    if "before a value for --config" in text or (not given and "'config." in text):
        return "fields can only be changed after --config=FILE"
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    path, colon, argument = given.partition(":")
    if "has no attribute 'get_config'" in _text(chain[-1]):
        return f"{path} has no function get_config"
    if colon and "get_config() takes 0 positional" in _text(chain[-1]):
        return f"{path} takes no argument: leave out {':' + argument!r}"
    if own := [raised for raised in chain if isinstance(raised, UserError)]:
        return f"--config={given}: {own[-1]}"  # those before it quote its traceback
    for raised in chain:
        if line := _line(raised, _config_argument(found).partition(":")[0]):
            message = shorten(_text(getattr(raised, "msg", raised)))
            return f"{path}, line {line}: {type(raised).__name__}: {message}"
    if isinstance(error, flags.Error):
        return shorten(text)
    return f"{path}: {type(error).__name__}: {shorten(text)}"


def _text(error: object) -> str:
    """What an error says, in one line."""
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - it may be of the config file, too
        return "an error that says nothing"


def _line(error: BaseException, path: str) -> int | None:
    """The line of the file `path` in which the error was raised, None if not there."""
    frames = traceback.extract_tb(error.__traceback__)
    file = os.path.abspath(path)
    lines = [f.lineno for f in frames if os.path.abspath(f.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return lines[-1] if lines else None
