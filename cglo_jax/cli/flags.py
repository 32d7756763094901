"""Parses the flags of `python -m cglo_jax.main`; every mistake is one line."""

import contextlib
import difflib
import errno
import os
import pathlib
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from cglo_jax import __version__
from cglo_jax.cli import help as help_text
from cglo_jax.cli.exit_status import describe_warning, in_one_line
from cglo_jax.cli.launch import Launch
from cglo_jax.config import presets
from cglo_jax.config import saved as saved_config
from cglo_jax.config import values as field_values
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.validation import validate
from cglo_jax.errors import UserError, printable, shorten

# Stages that use trained results: the work directory has their configuration.
_OF_TRAINED = ("sample", "report", "export")
_LONG_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_TYPES = {
    "Non-boolean argument": "true or false",
    "invalid literal for int": "a whole number",
}
_FIELD = re.compile(r"--?(no)?config\.([^=]*)(=.*)?", re.DOTALL)


class Command(NamedTuple):
    """The parsed command line; `fresh` sets an existing run aside."""

    config: ConfigDict
    workdir: pathlib.Path
    stage: str
    fresh: bool = False
    launch: Launch | None = None


class _Given(NamedTuple):
    """The command line as typed.

    Attributes:
      fields: values of fields by their dotted names.
      flags: all other flags, by name.
      words: arguments that are not flags.
      notes: lines for people.
    """

    fields: dict[str, Any]
    flags: flags.FlagValues
    words: list[str]
    notes: list[str]


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line and checks the config; answers --help, --version, --stage=help.

    Prints notes to standard error about flags whose effect people may not expect.

    Raises:
      UserError: a flag, a file, a field or a value is wrong.
      SystemExit: help or the version was asked for, and printed.
    """
    if any(re.fullmatch(r"--?(help\w*|h|\?)(=.*)?", argument) for argument in argv[1:]):
        _print(help_text.overview(_program(argv), _width()))
        raise SystemExit(0)
    if any(re.fullmatch("--?version", argument) for argument in argv[1:]):
        _print(f"cglo-jax {__version__}\n")
        raise SystemExit(0)
    given = _read(argv)
    stage, path = given.flags.stage, given.flags.config
    if stage == "help":
        values = flatten(_load(path)) | given.fields if path else given.fields
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        _print(help_text.describe_fields(given.words, values, _width()))
        raise SystemExit(0)
    if given.words:
        raise UserError(
            f"cannot use {given.words[0]!r}: options begin with --, see --help"
        )
    config = _choose_config(given)
    _change(config, given.fields)
    validate(config)
    if given.flags.fresh:
        _check_fresh(stage, config)
    several = (
        given.flags[name].value for name in ("coordinator", "processes", "process")
    )
    launch = _find_launch(*several)
    if launch is None or not launch.process:
        for note in given.notes:
            print(f"note: {printable(note)}", file=sys.stderr, flush=True)
    return Command(config, _find_workdir(given.flags), stage, given.flags.fresh, launch)


def _define_flags() -> flags.FlagValues:
    """Defines the flags again for each call: one process may parse several command lines."""
    values, means = flags.FlagValues(), help_text.FLAGS
    flags.DEFINE_string("config", None, means["config"], values)
    flags.DEFINE_string("workdir", None, means["workdir"], values)
    stages = [*help_text.STAGES]
    flags.DEFINE_enum(
        "stage", "all", stages, means["stage"], values, case_sensitive=False
    )
    flags.DEFINE_boolean("fresh", False, means["fresh"], values)
    flags.DEFINE_string("coordinator", None, means["coordinator"], values)
    flags.DEFINE_integer("processes", None, means["processes"], flag_values=values)
    flags.DEFINE_integer("process", None, means["process"], flag_values=values)
    return values


def _read(argv: Sequence[str]) -> _Given:
    """Reads the arguments; fields and all other flags may come in any order."""
    fields, others, notes = _read_fields(argv)
    values = _define_flags()
    for name in values:
        times = sum(bool(re.match(f"--?{name}(=|$)", argument)) for argument in others)
        if times > 1 and not values[name].boolean:
            notes.append(f"--{name} is given {times} times: the last value is used")
    try:
        words = values(others)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_hint_at_field(error)) from None
    except flags.Error as error:
        text = " ".join(str(error).split())
        for of_python, ours in _TYPES.items():
            text = re.sub(rf": \(?'?{of_python}.*", f": it must be {ours}", text)
        raise UserError(shorten(text)) from None
    return _Given(fields, values, words, notes)


def _read_fields(argv: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Returns (values of fields, the other arguments, notes)."""
    defaults = flatten(get_config())
    typed: dict[str, str] = {}
    others, notes = [*argv[:1]], []
    following = list(argv[1:])
    while following:
        argument = following.pop(0)
        if argument == "--":
            others += [argument, *following]
            break
        _check_dashes(argument)
        if not (found := _FIELD.fullmatch(argument)):
            others.append(argument)
            continue
        negated, name, text = found.groups()
        _check_name(name, defaults)
        text = _find_text(name, defaults[name], negated, text, following)
        if name in typed and isinstance(defaults[name], list):
            raise UserError(
                f"config.{name} is given twice: give it once, with all its values"
            )
        if typed.get(name, text) != text:
            notes.append(
                f"--config.{name} is given twice, as {shorten(typed[name])} and {shorten(text)}: "
                "the last value is used"
            )
        typed[name] = text
    fields = {n: field_values.parse(n, text, defaults[n]) for n, text in typed.items()}
    seed = typed.get("seeds", "").strip()
    if seed.isdecimal() and int(seed):
        several = ",".join(map(str, range(min(int(seed), 3)))) + ",..." * (
            int(seed) > 3
        )
        notes.append(
            f"--config.seeds={seed} is one run, with the seed {seed}; {seed} runs are "
            f"--config.seeds={several}"
        )
    return fields, others, notes


def _find_text(
    name: str, default: Any, negated: str | None, text: str | None, following: list[str]
) -> str:
    """Returns what was typed for a field; takes it off `following` if it stands apart."""
    after = following[0] if following else None
    flag = f"--config.{name}"
    if isinstance(default, bool):
        if negated:
            if text is not None:
                raise UserError(f"--noconfig.{name} takes no value: leave out {text!r}")
            return "false"
        if text is None:  # a word of --stage=help is none of these
            apart = after is not None and field_values.is_bool_word(after)
            return following.pop(0) if apart else "true"
    elif negated:
        raise UserError(
            f"--noconfig.{name}: only a field that is true or false takes no"
        )
    if text is None:
        if after is None or re.match("--|-?-config", after):
            raise UserError(f"{flag} has no value: write {flag}=VALUE")
        text = following.pop(0)
        if text.startswith("="):
            raise UserError(f"{flag} {text}: leave out the spaces around =")
    else:
        text = text[1:]
    after = following[0] if following else None
    if after is not None and after and not after.startswith("-"):
        if not text:
            raise UserError(f"{flag}= {after}: leave out the space after =")
        if isinstance(default, list):
            raise UserError(
                f"{flag}: {after!r} stands apart: write a list without spaces, such as "
                f"{flag}={text.rstrip(',')},{after}, or in quotes"
            )
    return text


def _check_dashes(argument: str) -> None:
    if argument[:1] and argument[0] in _LONG_DASHES:
        word = argument.lstrip(_LONG_DASHES + "-")
        raise UserError(
            f"cannot use {argument!r}: its dash is one of a text program: type --{word}"
        )
    if re.match("--?flagfile", argument):
        raise UserError(
            "--flagfile is not read: write a configuration file, such as those in configs/"
        )


def _check_name(name: str, defaults: Mapping[str, Any]) -> None:
    if name in defaults:
        return
    same_leaf = [n for n in defaults if n.split(".")[-1] == name.split(".")[-1]]
    close = difflib.get_close_matches(name, list(defaults), n=1)
    hints = dict.fromkeys([*same_leaf, *close][:3])
    raise UserError(
        f"config has no field {name!r}: "
        + (
            f"did you mean {' or '.join(map(repr, hints))}?"
            if hints
            else "--stage=help lists all"
        )
    )


def _hint_at_field(error: flags.UnrecognizedFlagError) -> str:
    """Returns which flag is unknown, and how it is written if it is a field."""
    text = shorten(" ".join(str(error).split()))
    name = error.flagname.removeprefix("no")
    leaves = {n: n.split(".")[-1] for n in flatten(get_config())}
    meant = [n for n in leaves if name in (n, leaves[n], leaves[n].removesuffix("s"))]
    if not meant:
        return text
    written = " or ".join(f"--config.{n}" for n in meant[:3])
    return f"there is no flag --{error.flagname}: fields are written {written}"


def _program(argv: Sequence[str]) -> str:
    """Returns the command that starts this program."""
    name = os.path.basename(argv[0])
    return name if name.startswith("cglo-jax") else "python -m cglo_jax.main"


def _width() -> int:
    """Returns the columns of the terminal, at most as many as are easy to read."""
    return min(max(shutil.get_terminal_size().columns, 40), 100)


def _print(text: str) -> None:
    """Prints; a reader such as `head` may close the pipe."""
    with contextlib.suppress(BrokenPipeError):
        print(text, end="", flush=True)


def _choose_config(given: _Given) -> ConfigDict:
    """Returns the configuration of --config or of the run, before given fields change it.

    Raises:
      UserError: there is none, it cannot be read, or its data set is not the run's.
    """
    path, stage = given.flags.config, given.flags.stage
    named = _load(path) if path else None
    comparing = stage == "report" and given.fields.get("report.compare")
    if (path is not None and not path) or comparing:
        named = named or (get_config() if comparing and path is None else None)
        if named is None:
            raise UserError(presets.describe_missing())
        return named
    if named is not None and stage not in _OF_TRAINED:
        return named
    if named is None and given.flags.workdir is None:
        raise UserError(presets.describe_missing())
    workdir = _find_workdir(given.flags)
    saved = workdir / "config.json"
    if not saved.is_file():
        if named is not None:
            return named
        raise UserError(presets.describe_missing(str(saved)))
    try:
        own = saved_config.read(saved)
    except UserError:
        if named is not None:
            return named
        raise
    if named is None:
        given.notes.append(f"the configuration is that of {saved}")
        _check_place(own, given.fields, stage, saved)
        return own
    _compare(own, named, given, saved)
    return own


def _check_place(
    config: ConfigDict, fields: Mapping[str, Any], stage: str, saved: pathlib.Path
) -> None:
    """Checks that the run's folder of images is found from this working directory."""
    path = config.dataset.path
    if not path or "dataset.path" in fields or stage in ("report", "export"):
        return
    if not os.path.exists(os.path.expanduser(path)):
        raise UserError(
            f"{saved} has dataset.path={path!r}, which is not there when this is started in "
            f"{os.getcwd()}: start it where the run was started, or give --config.dataset.path=DIR"
        )


def _compare(
    own: ConfigDict, named: ConfigDict, given: _Given, saved: pathlib.Path
) -> None:
    """Adds a note about values of --config that are not used; refuses another data set."""
    ours, theirs, path = flatten(own), flatten(named), given.flags.config
    name = "dataset.name"
    if ours[name] != theirs[name]:
        raise UserError(
            f"{saved.parent} was made with {name}={ours[name]!r}, --config={path} has "
            f"{theirs[name]!r}: leave --config out, or use another --workdir"
        )
    differing = [
        f"{n}={ours[n]!r}"
        for n in ours
        if ours[n] != theirs[n] and n not in given.fields
    ]
    if differing:
        shown = ", ".join(differing[:3]) + ", ..." * (len(differing) > 3)
        given.notes.append(
            f"--config={path} differs from {saved} ({shown}): the values in {saved} are used, "
            "except for fields that this call gives by --config.FIELD"
        )


def _load(given: str) -> ConfigDict:
    """Reads the configuration that --config names.

    Raises:
      UserError: there is no such file, or it is wrong.
    """
    found = presets.find(given)
    path, colon, argument = found.partition(":")
    if presets.is_data(path):
        if colon:
            raise UserError(f"{path} takes no argument: leave out {':' + argument!r}")
        return saved_config.read(pathlib.Path(path))
    try:
        config = presets.run(found)
        same = isinstance(config, ConfigDict) and (
            flatten(config).keys() == flatten(get_config()).keys()
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a config file may raise anything
        raise UserError(describe_config_error(error, given, path)) from None
    if not same:
        raise UserError(
            f"{given.partition(':')[0]}: get_config() must return cglo_jax.config.get_config() "
            "with other values, no other fields"
        )
    return config.lock()


def describe_config_error(error: BaseException, given: str, file: str) -> str:
    """Returns in one line what a configuration file raised.

    Args:
      given: the value of --config.
      file: the path that it means.
    """
    path, colon, argument = given.partition(":")
    if "has no attribute 'get_config'" in in_one_line(error):
        return f"{path} has no function get_config"
    if colon and "get_config() takes 0 positional" in in_one_line(error):
        return f"{path} takes no argument: leave out {':' + argument!r}"
    if isinstance(error, UserError):
        return f"--config={given}: {error}"
    if isinstance(error, Warning) and (text := describe_warning(error, file)):
        return text
    line = _find_line(error, file)
    place = f"{path}, line {line}" if line else path
    message = shorten(in_one_line(getattr(error, "msg", error)))
    return f"{place}: {type(error).__name__}: {message}"


def _find_line(error: BaseException, path: str) -> int | None:
    """Returns the line of the file in which the error was raised, None if not there."""
    frames = traceback.extract_tb(error.__traceback__)
    file = os.path.abspath(path)
    lines = [f.lineno for f in frames if os.path.abspath(f.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return lines[-1] if lines else None


def _change(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    with config.ignore_type():  # a file may have left another; `validate` checks
        config.update_from_flattened_dict(dict(fields))


def _check_fresh(stage: str, config: ConfigDict) -> None:
    """Refuses --fresh where the call needs the run that it would set aside."""
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
    """Returns what --coordinator, --processes and --process mean; None without them."""
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


def _find_workdir(given: flags.FlagValues) -> pathlib.Path:
    """Returns --workdir, or runs/cifar100-10 for --config=configs/cifar100.py:10."""
    if given.workdir is not None:
        if not given.workdir.strip():
            raise UserError("--workdir is empty: name a directory, or leave it out")
        _check_path(path := os.path.expanduser(given.workdir))
        return pathlib.Path(path)
    if given.config is None:
        raise UserError(
            "--workdir is missing: name the directory to write to, or a --config"
        )
    path, _, argument = given.config.partition(":")
    if presets.is_data(path):
        raise UserError(
            f"--config={path} needs --workdir: {os.path.dirname(path) or '.'} to continue there, or "
            "a new one"
        )
    argument = "-" + argument.replace(",", "-") if argument else ""
    return pathlib.Path("runs") / (pathlib.Path(path).stem + argument)


def _check_path(path: str) -> None:
    """Refuses an impossible name of a work directory; Orbax writes UTF-8 names only."""
    try:
        path.encode()
        os.stat(path)
    except UnicodeEncodeError:
        raise UserError(f"--workdir={path} is not UTF-8: use another name") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"--workdir={shorten(path)} is too long a name") from None
