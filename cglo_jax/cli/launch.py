"""Starts and ends several processes of one run together, on one host or many.

Every process runs the same program on its own devices; `training.parallel` distributes arrays.
"""

import collections
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NamedTuple, NoReturn

from cglo_jax.errors import UserError
from cglo_jax.process import platforms
from cglo_jax.process import setup as process

LOST = 3  # exit status: another process ended
_START_S = 300.0  # seconds for all processes to start in
# Seconds without a sign of life after which a process is taken for dead. A process that is
# killed is noticed at once by those that wait for its part of a sum.
_HEARTBEAT_S = 30
_SHUTDOWN_S = 30
# Seconds for which process 0 stays after an error, so that others can print theirs: they are
# aborted when it ends.
_GRACE_S = 2
# Words of JAX's errors when another process is gone: Gloo, NCCL and its coordination service.
_SIGNS = ("Gloo", "remote process exited", "oordination", "heartbeat", "Barrier failed")
_reporter: "_Reporter | None" = None  # of a process that is one of several


class Launch(NamedTuple):
    """Which of several processes this one is.

    Attributes:
      coordinator: HOST:PORT where process 0 listens, or "auto": the cluster provides it.
      processes: their number; None for "auto".
      process: the number of this one, from 0; None for "auto".
    """

    coordinator: str
    processes: int | None = None
    process: int | None = None


class _Reporter:
    """A child process that prints a line if this process ends without `dismiss`.

    When another process is lost, JAX aborts this one from C++, where nothing can be caught.
    """

    def __init__(self, line: str):
        reading, self._writing = os.pipe()
        if os.fork():
            os.close(reading)
            return
        os.close(self._writing)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if not os.read(reading, 1):
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, f"{line}\n".encode())
        os._exit(0)

    def dismiss(self) -> None:
        os.write(self._writing, b".")


def start(launch: Launch | None, within_s: float = _START_S) -> None:
    """Joins this process to the others; before JAX is imported, for it forks.

    After it only process 0 prints to standard output; `leave` must end the program. So the process
    must be a program's own, without threads of others.

    Args:
      launch: None: there are no others.
      within_s: seconds for all to start in; a process that is missing then ends the others.

    Raises:
      UserError: there is no such cluster, the port is taken, devices differ in number, or this
        process was not begun by a program of ours.
    """
    global _reporter
    if launch is None:
        return
    if not process.is_ours():
        raise UserError(
            "--coordinator: several processes of a run are programs of their own: start each by "
            "python -m cglo_jax.main"
        )
    name = "this process"
    if launch.processes is not None:
        name = f"process {launch.process} of {launch.processes}"
    _reporter = _Reporter(
        f"error: {name} ended before its work was done, by itself or because another one did "
        "(see what each says): start all of them again with the same commands; they continue "
        "from the last checkpoint"
    )
    if launch.process == 0:
        _check_port(launch)
    shown, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # C++ prints its connections there
    os.close(nowhere)
    first = True
    try:
        _connect(launch, name, within_s)
        first = _meet()
    finally:
        if first:
            os.dup2(shown, 1)
        os.close(shown)


def _check_port(launch: Launch) -> None:
    """Checks that process 0 can listen at its port; JAX crashes where it cannot."""
    port = int(launch.coordinator.rpartition(":")[2])
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--coordinator={launch.coordinator}: this host cannot listen there ({error}): "
            "choose another port"
        ) from None


def _connect(launch: Launch, name: str, within_s: float) -> None:
    jax = platforms.import_jax()

    def give_up() -> None:
        where = "the cluster's" if launch.coordinator == "auto" else launch.coordinator
        text = (
            f"error: {name} waited {within_s:g} s for the others at the coordinator {where}: "
            "start all of them, process 0 on that host, with a port that the others can reach"
        )
        print(text, file=sys.stderr, flush=True)
        dismiss()
        os._exit(2)

    # JAX has a limit of its own, and aborts.
    timer = threading.Timer(within_s, give_up)
    timer.daemon = True
    timer.start()
    automatic = launch.coordinator == "auto"
    # It would take SIGTERM away from us.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            None if automatic else launch.coordinator,
            launch.processes,
            launch.process,
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=int(within_s) + 60,
            heartbeat_timeout_seconds=_HEARTBEAT_S,
            shutdown_timeout_seconds=_SHUTDOWN_S,
        )
        platforms.start()  # processes exchange their devices
    except UserError:
        raise
    except ValueError:
        raise UserError(
            "--coordinator=auto: JAX knows of no cluster here (Slurm, Open MPI, Kubernetes, Cloud "
            "TPU): give --coordinator=HOST:PORT --processes=N --process=I"
        ) from None
    except RuntimeError as error:
        raise UserError(
            f"--coordinator={launch.coordinator}: {' '.join(str(error).split())}"
        ) from None
    finally:
        timer.cancel()


def _meet() -> bool:
    """Connects the devices of all processes: on CPU none may be 30 s late for that.

    Returns:
      Whether this is the first process.

    Raises:
      UserError: processes have unequally many devices, which `jax.pmap` does not take.
    """
    import jax
    import jax.numpy as jnp

    counts = collections.Counter(d.process_index for d in jax.devices())
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"process {i} {n}" for i, n in sorted(counts.items()))
        raise UserError(f"processes must have equally many devices: {shown}")
    add = jax.pmap(lambda x: jax.lax.psum(x, "all"), "all", devices=jax.devices())
    jax.block_until_ready(add(jnp.zeros(jax.local_device_count())))
    return jax.process_index() == 0


def dismiss() -> None:
    """Lets this process end without the reporter's line."""
    if _reporter is not None:
        _reporter.dismiss()


def status_of(error: Exception) -> int:
    """Prints an error that no user caused and returns the exit status.

    Raises:
      Exception: the error, where this process is the only one.
    """
    if _reporter is None:
        raise error
    import jax

    lost = isinstance(error, jax.errors.JaxRuntimeError)
    if lost and any(sign in str(error) for sign in _SIGNS):
        return LOST
    traceback.print_exception(error)
    return 1


def leave(status: int) -> NoReturn:
    """Ends the program: with the others if all went well, else without waiting for them."""
    if _reporter is None:
        sys.exit(status)
    if status == 0:
        status = _end_together()
    if status != LOST:
        dismiss()
    sys.stdout.flush()
    sys.stderr.flush()
    if status == 0:
        sys.exit(0)
    if _is_coordinator() and status != LOST:
        time.sleep(_GRACE_S)
    os._exit(status)  # JAX would wait for the others


def _is_coordinator() -> bool:
    from jax._src.distributed import global_state

    return global_state.service is not None


def _end_together() -> int:
    import jax

    from cglo_jax.training import parallel

    try:
        parallel.barrier("end")
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
        return LOST
    return 0
