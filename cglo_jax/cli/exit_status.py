"""One line and an exit status for whatever a command raises."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cglo_jax.cli import launch
from cglo_jax.errors import UserError, printable, shorten
from cglo_jax.files import storage
from cglo_jax.process import interrupts, log_file, platforms, setup, streams

if TYPE_CHECKING:
    from cglo_jax.cli.flags import Command

_BUSY = (
    "error: another call of run() is at work in this process: wait until it has ended, or start this "
    "one in a process of its own (python -m cglo_jax.main)"
)
_at_work = threading.Lock()  # held by `run_beside_others`


def parse_and_run(
    main: "Callable[[Command], None]", argv: Sequence[str], *, borrowed: bool = False
) -> int:
    """Parses a command line and runs it; prints a line if something goes wrong.

    Args:
      main: takes the command.
      borrowed: the process is not the program's own.

    Returns:
      The exit status, see `cglo_jax.main.run`.

    Raises:
      Exception: an unforeseen one; one of several processes prints it instead.
    """
    command = None
    with log_file.recording():
        try:
            from cglo_jax.cli import flags  # slow to import

            command = flags.parse(argv)
            if borrowed and command.launch:
                raise UserError(
                    "--coordinator is for processes of their own (python -m cglo_jax.main), not for "
                    "a call of run()"
                )
            main(command)
            return 0
        except interrupts.Interrupted as signal:
            return _fail(f"\ninterrupted: {_hint(command)}", signal.status)
        except (UserError, OSError, Warning) as error:
            return _fail_by_user(error, command)
        except Exception as error:  # noqa: BLE001 - is raised again, or all of it is shown
            if text := platforms.explain_memory(error):
                return _fail(f"error: {printable(text)}; {_hint(command)}")
            # Libraries turn a signal into errors of their own.
            if signum := interrupts.requested():
                return _fail(f"\ninterrupted: {_hint(command)}", 128 + signum)
            return launch.status_of(error)


def run_beside_others(main: "Callable[[Command], None]", argv: Sequence[str]) -> int:
    """Does what `parse_and_run` does in a process that others use too, and leaves it as it was."""
    if not _at_work.acquire(blocking=False):
        return _fail(_BUSY)
    try:
        with streams.mended(), interrupts.borrowed():
            from absl import logging

            verbosity = logging.get_verbosity()
            try:
                setup.prepare()
                return parse_and_run(main, argv, borrowed=True)
            finally:
                logging.set_verbosity(verbosity)
    finally:
        _at_work.release()


def _fail(text: str, status: int = 2) -> int:
    print(text, file=sys.stderr)
    return status


def _fail_by_user(
    error: UserError | OSError | Warning, command: "Command | None"
) -> int:
    """Prints the line for what a user can correct; returns the exit status."""
    if isinstance(error, UserError):
        return _fail(f"error: {printable(error)}")
    if isinstance(error, Warning):
        return _fail(f"error: {printable(describe_warning(error))}")
    if error.errno:
        text = printable(storage.explain(error))
        return _fail(f"error: {text}; mend that, and {_hint(command)}")
    return launch.status_of(error)


def _hint(command: "Command | None") -> str:
    """Returns what the same command does when it is run again."""
    if command is None:
        return "run the same command again"
    from cglo_jax.workdir import directory

    if not directory.has_saved(command.workdir):
        return "the same command starts over: nothing was saved yet"
    again = "without --fresh " if command.fresh else ""
    return f"the same command {again}continues from the last checkpoint"


def describe_warning(error: Warning, own: str = "") -> str:
    """Returns the line for a warning that Python was asked to raise as an error.

    Args:
      own: a file of the user's, whose warnings are its own: "" is returned for them.
    """
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    if last and own and os.path.abspath(last.filename) == os.path.abspath(own):
        return ""
    place = f" at {last.filename}:{last.lineno}" if last else ""
    text = shorten(in_one_line(error))
    return (
        f"a library issued a warning{place}, and Python is set to raise warnings as errors (-W "
        f"error or PYTHONWARNINGS): {type(error).__name__}: {text}; remove that setting for this "
        f"program, or add -W 'ignore::{type(error).__name__}' after it to ignore this warning"
    )


def in_one_line(error: object) -> str:
    """Returns the text of an error without line breaks."""
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - its class may be of a config file
        return "an error that says nothing"
