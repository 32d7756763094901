"""The flags of `python -m cglo_jax.main`, and one clear line for each way to get them wrong."""

import contextlib
import difflib
import errno
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from cglo_jax import config_files, help_text
from cglo_jax.config import flatten, get_config
from cglo_jax.distributed import Launch
from cglo_jax.errors import UserError, shorten
from cglo_jax.explain import explain
from cglo_jax.validation import validate

_CONFIG_FLAGS = ("--config", "-config")


class Command(NamedTuple):
    """What the command line asks for."""

    config: ConfigDict
    workdir: pathlib.Path
    stage: str
    fresh: bool = False
    launch: Launch | None = None


class _Flags(NamedTuple):
    parsed: flags.FlagValues
    config: flags.FlagHolder
    workdir: flags.FlagHolder
    stage: flags.FlagHolder
    fresh: flags.FlagHolder
    coordinator: flags.FlagHolder
    processes: flags.FlagHolder
    process: flags.FlagHolder


def _define_flags(argv: Sequence[str]) -> _Flags:
    """Defines the flags of one call, late: --config reads the command line at once."""
    means, parsed = help_text.FLAGS, flags.FlagValues()
    given = {"flag_values": parsed}
    read = {**given, "sys_argv": [*argv]}
    return _Flags(
        parsed,
        config_flags.DEFINE_config_file("config", None, means["config"], **read),
        flags.DEFINE_string("workdir", None, means["workdir"], **given),
        flags.DEFINE_enum("stage", "all", [*help_text.STAGES], means["stage"], **given),
        flags.DEFINE_boolean("fresh", False, means["fresh"], **given),
        flags.DEFINE_string("coordinator", None, means["coordinator"], **given),
        flags.DEFINE_integer("processes", None, means["processes"], **given),
        flags.DEFINE_integer("process", None, means["process"], **given),
    )


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line and checks the config; answers --help and --stage=help.

    Raises:
      UserError: a flag, a file, a field or a value is wrong.
      SystemExit: help was asked for, and printed.
    """
    if any(re.fullmatch(r"--?(help\w*|h|\?)", argument) for argument in argv[1:]):
        _print(help_text.overview(_program(argv), _width()))
        raise SystemExit(0)
    _check_names(argv)
    found = _find_files(argv)
    given, words, flat = _parse_flags(argv, found)
    config, path = given.config.value, _config_argument(argv).partition(":")[0]
    if given.stage.value == "help":
        _print(help_text.describe_fields(words, flat, _width()))
        raise SystemExit(0)
    if not path:
        raise UserError(config_files.tell_missing())
    if words:
        raise UserError(f"cannot use {words[0]!r}: options begin with --, see --help")
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
        _find_workdir(given),
        given.stage.value,
        given.fresh.value,
        _find_launch(*processes),
    )


def _parse_flags(
    argv: Sequence[str], found: Sequence[str]
) -> tuple[_Flags, list[str], dict[str, Any]]:
    """The flags, what is none, and the fields of the configuration by name, {} if it has none.

    Args:
      found: `argv` with the files that its configurations mean.
    """
    logging.set_verbosity(logging.ERROR)  # what is warned of is refused here
    given = _define_flags(found)
    try:
        words = given.parsed(found)[1:]
        config = given.config.value
        getattr(config, "items", None)  # raises now what a file raised in its open()
        return given, words, flatten(config) if isinstance(config, ConfigDict) else {}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a config file may raise anything
        file = _config_argument(found).partition(":")[0]
        raise UserError(explain(error, _config_argument(argv), file)) from None


def _program(argv: Sequence[str]) -> str:
    """What people type to start this program."""
    name = os.path.basename(argv[0])
    return name if name.startswith("cglo-jax") else "python -m cglo_jax.main"


def _width() -> int:
    """The columns of the terminal, as many as can be read."""
    return min(max(shutil.get_terminal_size().columns, 40), 100)


def _print(text: str) -> None:
    """Prints to a reader that may leave, such as `head`."""
    with contextlib.suppress(BrokenPipeError):
        print(text, end="", flush=True)


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


def _find_workdir(given: _Flags) -> pathlib.Path:
    """--workdir, or runs/cifar100-10 for --config=configs/cifar100.py:10."""
    if workdir := given.workdir.value:
        _check_path(path := os.path.expanduser(workdir))
        return pathlib.Path(path)
    path, _, argument = config_flags.get_config_filename(
        given.parsed["config"]
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
                    else "--stage=help lists all"
                )
            )
        if given and isinstance(defaults[name], list):
            if name in lists:  # ml_collections would join them
                raise UserError(
                    f"config.{name} is given twice: give it once, with all its values"
                )
            lists.add(name)
