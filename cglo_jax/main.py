"""Trains cGLO, samples from it, classifies with and without it, reports whether it helped.

python -m cglo_jax.main --config=configs/digits.py --workdir=runs/digits --stage=all
"""

import sys
from typing import TYPE_CHECKING, NoReturn

from cglo_jax.cli import exit_status, launch
from cglo_jax.process import interrupts, numerics, platforms, setup, streams

if TYPE_CHECKING:
    from cglo_jax.cli.flags import Command


def main(command: "Command") -> None:
    """Runs the stages that the command asks for."""
    launch.start(command.launch)
    platforms.start()
    with numerics.ours():
        from cglo_jax.stages import run  # imports JAX

        config, workdir, stage, fresh, several = command
        run.run_command(config, workdir, stage, fresh=fresh, several=bool(several))


def program() -> NoReturn:
    """Runs the command line in a process of its own, and ends it; see `run`."""
    streams.mend()  # first of all: it may start without standard streams
    interrupts.install(leaving=launch.dismiss)
    setup.start()
    launch.leave(exit_status.parse_and_run(main, sys.argv))


def run() -> NoReturn:
    """Runs the command line in `sys.argv`: one line and a status for what can go wrong.

    For notebooks, threads and other programs: it can be called again, sets no signal handlers that
    stay, and never ends the process. One call at a time; several processes are for `program`.

    Raises:
      SystemExit: with 0; 2 for a user's error or a file that cannot be written; 3 if another process
        of the run ended (see `cli.launch`); 129 if the terminal was closed, 130 after Ctrl-C, 143
        after SIGTERM.
    """
    sys.exit(exit_status.run_beside_others(main, sys.argv))


if __name__ == "__main__":
    program()
