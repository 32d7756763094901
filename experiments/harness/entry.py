"""How every experiment is started from the command line."""

import sys
from collections.abc import Callable

from cglo_jax.errors import UserError, printable
from cglo_jax.process import setup


def run(main: Callable[[], int | None]) -> None:
    """Prepares the process, calls `main` and exits with the status that it returns, None being 0.

    A user's error is one line and status 2, an interrupt one line and status 130.
    """
    setup.start()
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
