"""Two processes of two CPU devices against one of four, and what a lost process does to the other."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cglo_jax import main
from cglo_jax.cli.flags import Command
from configs import digits

pytestmark = pytest.mark.usefixtures("kept_programs")
ROOT = pathlib.Path(__file__).parents[2]
STEPS = 25
FIELDS = {
    "seeds": (0,),
    "dataset.shots": 2,
    "latent.dim": 8,
    "generator.width": 8,
    "weak_classifier.width": 4,
    "train.epochs": STEPS // 5,
    "train.steps_per_epoch": 5,
    "train.batch_size": 8,
    "train.checkpoint_every_epochs": 1,
    "train.log_every_steps": 1,
    "train.lr_drop_epochs": (),
    "sample.per_class": 1,
    "sample.projection": "pca",
    "classify.methods": ("baseline", "cglo", "mixmatch"),
    "classify.width": 1,
    "classify.epochs": 2,
    "classify.steps_per_epoch": 5,
    "classify.batch_size": 8,
    "classify.lr": 0.01,
    "classify.log_every_steps": 1,
    "classify.lr_drop_epochs": (),
}
LOST = (
    "error: process {} of 2 ended before its work was done, by itself or because another one "
    "did (see what each says): start all of them again with the same commands; they continue "
    "from the last checkpoint"
)


def start(workdir, *more, **fields):
    """Starts two processes of two devices each."""
    changes = [f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items()]
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
    program = [sys.executable, "-m", "cglo_jax.main", "--config=configs/digits.py"]
    command = [*program, f"--workdir={workdir}", *changes, *more, place]
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(
            [*command, "--processes=2", f"--process={i}"],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for i in range(2)
    ]


def finish(processes):
    """Waits for the end of all; returns what each printed and told on standard error."""
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    return told


def read_losses(workdir, **tags):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    chosen = [r for r in records if tags.items() <= r.items()]
    assert [r["step"] for r in chosen] == list(range(1, len(chosen) + 1))
    return np.array([r["loss"] for r in chosen])


def run_one_of_four(workdir, stage, **fields):
    """Runs a stage here, on four devices of one process."""
    config = digits.get_config()
    config.update_from_flattened_dict({**FIELDS, **fields})
    main.main(Command(config, workdir, stage))


def wait_for_steps(workdir, processes, count):
    deadline = time.monotonic() + 120
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        assert [p.poll() for p in processes] == [None, None], processes[0].communicate()
        time.sleep(0.02)


def lose(workdir, victim, number, **fields):
    """Sends a process a signal while it trains; returns (seconds, status, line) of the other."""
    processes = start(workdir, "--stage=train", **fields)
    wait_for_steps(workdir, processes, 8)
    began = time.monotonic()
    os.kill(processes[victim].pid, number)
    other = processes[1 - victim]
    _, err = other.communicate(timeout=60)
    seconds = time.monotonic() - began
    processes[victim].kill()
    processes[victim].communicate()
    return seconds, other.returncode, err.strip().splitlines()[-1]


def test_a_killed_process_ends_the_other_and_both_started_again_finish_as_one(tmp_path):
    workdir = tmp_path / "two"
    seconds, status, line = lose(workdir, 1, signal.SIGKILL)
    assert status != 0  # 3, or JAX aborts
    assert line == LOST.format(0)
    assert seconds < 60
    assert len(read_losses(workdir)) < STEPS
    (out, err), (silent, _) = finish(start(workdir, "--stage=train"))
    assert "20 labelled training images of 10 classes" in out
    assert "train seed 0: resumed at step" in err
    assert silent == ""
    run_one_of_four(tmp_path / "one", "train")
    two, one = read_losses(workdir), read_losses(tmp_path / "one")
    assert len(two) == len(one) == STEPS
    np.testing.assert_allclose(two[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.slow
def test_all_stages_of_two_processes_are_those_of_one(tmp_path):
    fields = {"train.epochs": 4}
    two, one = tmp_path / "two", tmp_path / "one"
    (out, _), (silent, _) = finish(start(two, **fields))
    assert silent == ""
    run_one_of_four(one, "all", **fields)
    for tags in (
        {"stage": "train"},
        *({"stage": "classify", "method": m} for m in FIELDS["classify.methods"]),
    ):
        ours, theirs = read_losses(two, **tags), read_losses(one, **tags)
        assert len(ours) == len(theirs) == (20 if tags["stage"] == "train" else 10)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for method in FIELDS["classify.methods"]:
        name = f"classifiers/{method}-0/result.json"
        ours, theirs = (json.loads((w / name).read_text()) for w in (two, one))
        assert ours["top1"] == pytest.approx(theirs["top1"], abs=0.5)
        assert ours["environment"]["devices"] == 4
        assert f"classify {method} seed 0: top-1 {ours['top1']:.2f}" in out
    assert len(list(two.glob("samples/images/*/*.png"))) == 10
    assert (two / "report.md").is_file()
    assert not [p for p in two.rglob("*tmp*") if p.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_ends_the_other_within_a_minute(
    tmp_path, victim, number
):
    fields = {"train.epochs": 2000}
    seconds, status, line = lose(tmp_path / "run", victim, number, **fields)
    assert status != 0
    assert line == LOST.format(1 - victim)
    assert seconds < 60


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_process_saves_and_ends_both(tmp_path, victim):
    fields = {"train.epochs": 2000}
    workdir = tmp_path / "run"
    processes = start(workdir, **fields)
    wait_for_steps(workdir, processes, 8)
    processes[victim].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], told
    assert all(text.endswith("from the last checkpoint\n") for text in told)
    assert not (workdir / "samples").exists()
    saved = max(int(p.name) for p in (workdir / "checkpoints" / "seed-0").iterdir())
    assert len(read_losses(workdir)) == saved
