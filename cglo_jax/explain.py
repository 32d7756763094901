"""One clear line for what absl, ml_collections and configuration files raise."""

import os
import re
import traceback

from absl import flags

from cglo_jax import config_files
from cglo_jax.errors import UserError, shorten

# What Python says of a value that is not of a field's type, and what people read.
_TYPES = {
    "invalid literal for int": "a whole number",
    "Exceeds the limit": "a smaller number",  # of thousands of digits
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


def explain(error: BaseException, given: str, file: str) -> str:
    """Returns in one line what absl, ml_collections or a config file raised.

    Args:
      given: the value of --config, "" if there is none. file: the path of the file that it means.
    """
    text = _text(error)
    if "Path to config file is an empty string" in text:
        return config_files.tell_missing()
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
        if line := _line(raised, file):
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
