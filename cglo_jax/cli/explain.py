"""One clear line for what a configuration file raises."""

import os
import traceback

from cglo_jax.errors import UserError, shorten


def explain(error: BaseException, given: str, file: str) -> str:
    """Returns in one line what a configuration file raised.

    Args:
      given: the value of --config. file: the path of the file that it means.
    """
    path, colon, argument = given.partition(":")
    if "has no attribute 'get_config'" in _text(error):
        return f"{path} has no function get_config"
    if colon and "get_config() takes 0 positional" in _text(error):
        return f"{path} takes no argument: leave out {':' + argument!r}"
    if isinstance(error, UserError):
        return f"--config={given}: {error}"
    if isinstance(error, Warning) and (told := explain_warning(error, file)):
        return told
    line = _line(error, file)
    place = f"{path}, line {line}" if line else path
    message = shorten(_text(getattr(error, "msg", error)))
    return f"{place}: {type(error).__name__}: {message}"


def explain_warning(error: Warning, own: str = "") -> str:
    """Returns the line for a warning that Python was told to make an error of.

    Args:
      own: a file of the user's, whose warnings are its own: "" is returned for them.
    """
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    if last and own and os.path.abspath(last.filename) == os.path.abspath(own):
        return ""
    place = f" at {last.filename}:{last.lineno}" if last else ""
    return (
        f"a library warned{place}, and Python makes errors of warnings here (-W error or "
        f"PYTHONWARNINGS): {type(error).__name__}: {shorten(_text(error))}; leave that out for this "
        f"program, or ignore this one: -W 'ignore::{type(error).__name__}' after it"
    )


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
