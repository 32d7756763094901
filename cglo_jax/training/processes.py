"""What several processes of a run must agree on; `cli.launch` starts them."""

import contextlib
import pathlib

import jax

from cglo_jax.errors import UserError
from cglo_jax.files import readback
from cglo_jax.training import parallel


def describe() -> str:
    """Returns one line for people: how many processes and devices there are."""
    kind = jax.devices()[0].device_kind
    return f"{jax.process_count()} processes, {jax.device_count()} devices ({kind})"


def check_equal(what: str, value: str) -> None:
    """Checks that a value is the same in all processes.

    Raises:
      UserError: it is not; raised in all of them.
    """
    everyones = parallel.gather_strings(what, value)
    for i, other in enumerate(everyones):
        if other != everyones[0]:
            raise UserError(
                f"process {i} has {what} other than process 0's: all must be started with the "
                "same flags and see the same files"
            )


def check_workdir(workdir: pathlib.Path) -> None:
    """Checks that all processes see the lock that process 0 just took.

    Raises:
      UserError: they do not; raised in all of them.
    """
    parallel.barrier("the lock is taken")
    holder = ""
    with contextlib.suppress(OSError, readback.Unusable):
        holder = readback.read_bytes(workdir / "lock").decode(errors="replace")
    check_equal(f"a --workdir={workdir}", holder)
