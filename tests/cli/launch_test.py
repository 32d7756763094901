"""Tests of cglo_jax/cli/launch.py, in processes of their own: mistakes in starting several."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from cglo_jax.cli import launch
from cglo_jax.errors import UserError
from cglo_jax.process import setup as process

HOST = "127.0.0.1"
ROOT = pathlib.Path(__file__).parents[2]
START = """
import sys
from cglo_jax.cli import launch as distributed
from cglo_jax.process import interrupts
from cglo_jax.process import setup as process
from cglo_jax.errors import UserError
interrupts.install(leaving=distributed.dismiss)
process.own()
launch = distributed.Launch(sys.argv[1], *map(int, sys.argv[2:4]))
try:
    distributed.start(launch, within_s=8)
    from cglo_jax.training import parallel, processes
    print(parallel.processes_here(), "here", flush=True)
    processes.check_equal("flags", sys.argv[4])
    status = 0
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    status = 2
except Exception as error:
    status = distributed.status_of(error)
distributed.leave(status)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def begin(*arguments, devices=1):
    flags = (
        f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    )
    cluster = ("SLURM_", "OMPI_", "KUBERNETES_", "JAX_COORDINATOR")
    env = {k: v for k, v in os.environ.items() if not k.startswith(cluster)}
    return subprocess.Popen(
        [sys.executable, "-c", START, *map(str, arguments)],
        cwd=ROOT,
        env=env | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(*processes):
    """Returns (status, printed, lines on standard error) of each."""
    outputs = [process.communicate(timeout=100) for process in processes]
    return [
        (process.returncode, out, err.splitlines())
        for process, (out, err) in zip(processes, outputs, strict=True)
    ]


def begin_two(first, second, devices=(1, 1)):
    """Starts two processes that compare these flags."""
    place = f"{HOST}:{free_port()}"
    return [
        begin(place, 2, i, given, devices=count)
        for i, (given, count) in enumerate(zip((first, second), devices, strict=True))
    ]


def test_processes_that_agree_start_and_end_and_the_first_prints():
    assert end(*begin_two("a", "a")) == [(0, "2 here\n", []), (0, "", [])]


def test_other_flags_are_refused_by_all():
    line = (
        "error: process 1 has flags other than process 0's: all must be started with the same "
        "flags and see the same files"
    )
    assert end(*begin_two("a", "b")) == [(2, "2 here\n", [line]), (2, "", [line])]


def test_unequal_numbers_of_devices_are_refused_by_all():
    line = "error: processes must have equally many devices: process 0 1, process 1 2"
    both = end(*begin_two("a", "a", devices=(1, 2)))
    assert [(status, err) for status, _, err in both] == [(2, [line])] * 2


def test_a_process_waits_for_the_others_so_long_and_no_longer():
    place = f"{HOST}:{free_port()}"
    alone = [begin(place, 2, 0, "a"), begin(f"{HOST}:{free_port()}", 2, 1, "a")]
    for i, (status, _, err) in enumerate(end(*alone)):
        assert status == 2
        (line,) = err
        assert line.startswith(f"error: process {i} of 2 waited 8 s for the others at ")


def test_a_signal_while_it_waits_for_the_others_is_printed_once():
    port = free_port()
    process = begin(f"{HOST}:{port}", 2, 0, "a")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    lines = ["", "SIGTERM: left, there was nothing to save"]
    assert end(process) == [(143, "", lines)]


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        place = f"{HOST}:{taken.getsockname()[1]}"
        ((status, _, (line,)),) = end(begin(place, 2, 0, "a"))
    assert status == 2
    assert line.startswith(
        f"error: --coordinator={place}: this host cannot listen there ("
    )
    assert line.endswith("): choose another port")


def test_without_a_cluster_auto_says_what_to_give():
    ((status, _, (line,)),) = end(begin("auto"))
    assert status == 2
    assert line.startswith(
        "error: --coordinator=auto: JAX knows of no cluster here (Slu"
    )


def test_alone_nothing_is_started_and_errors_are_raised():
    launch.start(None)
    error = jax.errors.JaxRuntimeError("Gloo all-reduce failed")
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"):
        launch.status_of(error)
    with pytest.raises(SystemExit) as left:
        launch.leave(2)
    assert left.value.code == 2


def test_the_process_of_somebody_else_is_not_made_one_of_several():
    with pytest.raises(UserError, match="start each by python"):
        launch.start(launch.Launch(f"{HOST}:{free_port()}", 2, 1))


def test_standard_output_is_as_before_when_the_start_fails(monkeypatch):
    def fail(*_: object) -> None:
        os.write(1, b"as C++ does")
        raise UserError("no such cluster")

    monkeypatch.setattr(process, "_ours", True)
    monkeypatch.setattr(launch, "_Reporter", lambda line: None)
    monkeypatch.setattr(launch, "_reporter", None)
    monkeypatch.setattr(launch, "_connect", fail)
    before = os.fstat(1), os.listdir("/proc/self/fd")
    with pytest.raises(UserError, match="no such cluster"):
        launch.start(launch.Launch(f"{HOST}:{free_port()}", 2, 1))
    assert os.path.samestat(os.fstat(1), before[0])
    assert os.listdir("/proc/self/fd") == before[1]
