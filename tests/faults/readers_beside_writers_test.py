"""Readers of a work directory in which a run goes on: every number is right, or said to be missing."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from cglo_jax.errors import UserError
from cglo_jax.files import readback
from cglo_jax.report import samples
from cglo_jax.training import checkpoints, logged, manifest
from cglo_jax.training.checkpoints import Checkpoints, restore_latest_model
from cglo_jax.workdir import results
from tests.helpers.report_workdir import NEAREST, put_lines

BUSY = "being made at this moment"
# Swaps what is in samples/ for other sets of files, as stage sample does, until it is ended.
SWAP = """
import itertools, os, pathlib, shutil, sys, time
folder, *sets = map(pathlib.Path, sys.argv[1:])
print("started", flush=True)
for i, new in enumerate(itertools.cycle(sets)):
    made, old = folder / f".new-{i}", folder / f".old-{i}"
    shutil.copytree(new, made)
    old.mkdir()
    for path in list(folder.iterdir()):
        if not path.name.startswith("."):
            path.rename(old / path.name)
    for path in list(made.iterdir()):
        path.rename(folder / path.name)
    made.rmdir()
    shutil.rmtree(old)
    time.sleep(.001 * (i % 4))
"""


def put_set(folder: pathlib.Path, n: int) -> pathlib.Path:
    """Samples in which every number is n, and the pictures are n pixels wide."""
    (folder / "images" / "plain").mkdir(parents=True)
    for i in range(n):
        (folder / "images" / "plain" / f"{i:05d}.png").write_bytes(b"")
    lines = [
        {"file": f"images/plain/{i:05d}.png", "seed": 0, "checkpoint_step": 6}
        for i in range(n)
    ]
    put_lines(folder / "manifest.jsonl", lines)
    (folder / "nearest.json").write_text(json.dumps({**NEAREST, "checked": n}))
    for name in ("reconstructions", "nearest", "codes"):
        Image.new("RGB", (n, 8)).save(folder / f"{name}.png")
    return folder


def read_numbers(workdir: pathlib.Path) -> set[int] | str:
    """Every number that the section tells of samples, or that they are being made."""
    section = samples.samples(workdir)
    text = " ".join(b.text for b in section.content if b.kind == "text")
    if BUSY in text:
        assert len(section.content) == 1
        return BUSY
    pictures = [block.size[0] for block in section.content if block.kind == "picture"]
    assert len(pictures) == 3 and "the synthetic images" not in text
    return {int(n) for n in re.findall(r"(\d+) synthetic images", text)} | {*pictures}


def stress(workdir: pathlib.Path, times: int) -> list[set[int] | str]:
    sets = [put_set(workdir / f"set-{n}", n) for n in (30, 50)]
    shutil.copytree(sets[0], workdir / "samples")
    command = [sys.executable, "-I", "-S", "-c", SWAP, workdir / "samples", *sets]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"started\n"
        told, end = [], time.monotonic() + 60  # a writer may be slow
        try:
            while len(told) < times or {30} not in told or {50} not in told:
                assert time.monotonic() < end
                told.append(read_numbers(workdir))
            return told
        finally:
            assert writer.poll() is None
            writer.kill()


@pytest.mark.parametrize("times", [40, pytest.param(800, marks=pytest.mark.slow)])
def test_samples_are_read_of_one_set(tmp_path, times):
    told = stress(tmp_path, times)
    assert all(numbers in ({30}, {50}, BUSY) for numbers in told)


def test_samples_that_are_being_replaced_for_long_are_said_to_be(tmp_path, monkeypatch):
    put_set(tmp_path / "samples", 30)
    assert read_numbers(tmp_path) == {30}
    (tmp_path / "samples" / ".new-1").mkdir()  # made beside the old ones
    assert read_numbers(tmp_path) == {30}
    monkeypatch.setattr(readback, "_PATIENCE", 0.05)
    (tmp_path / "samples" / ".old-1").mkdir()
    assert read_numbers(tmp_path) == BUSY
    (tmp_path / "samples" / "manifest.jsonl").rename(
        tmp_path / "samples" / ".old-1" / "m"
    )
    assert read_numbers(tmp_path) == BUSY


def test_a_damaged_sample_is_told_once_it_stays(tmp_path, monkeypatch):
    put_set(tmp_path / "samples", 30)
    path, content = tmp_path / "samples" / "nearest.json", json.dumps(NEAREST)
    path.write_text("{")
    with pytest.raises(UserError, match=r"nearest\.json"):
        read_numbers(tmp_path)
    read_json = readback.read_json

    def mend_meanwhile(*args):
        try:
            return read_json(*args)
        finally:
            if path.read_text() == "{":
                path.unlink()
                path.write_text(content.replace("60", "30"))

    monkeypatch.setattr(readback, "read_json", mend_meanwhile)
    assert read_numbers(tmp_path) == {30}


# Lines and results


def test_lines_that_are_appended_meanwhile_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = {"stage": "train", "seed": 0, "loss": 1.0}
    text = "".join(json.dumps({**line, "step": s}) + "\n" for s in range(3))
    path.write_text(text + '{"stage": "tr')
    read = logged.read_metrics(tmp_path)
    first = next(read)
    with path.open("a") as file:  # the writer goes on, and the half line has an end
        file.write('ain", "seed": 0, "step": 3, "loss": 1.0}\n' + text)
    assert [first["step"], *(r["step"] for r in read)] == [0, 1, 2]
    assert len(list(logged.read_metrics(tmp_path))) == 7


def test_a_result_that_goes_away_while_the_others_are_read(
    workdir, config, monkeypatch
):
    names = readback.list_names(workdir / "classifiers")

    def list_more(folder):
        return [*names, "cglo-9"]  # --fresh set it aside, or it is being trained

    monkeypatch.setattr(readback, "list_names", list_more)
    assert len(results.find_results(workdir)) == len(names) == 6


# Checkpoints


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("once") / "seed-0"
    with Checkpoints(directory) as saved:
        model = {"z": np.full((24, 8), 7, np.float32)}
        for step in (1, 2):
            saved.save(step, model, {"step": np.int32(step)}, {"rate": 1.0})
    return directory


@pytest.fixture
def directory(saved_once, tmp_path):
    return shutil.copytree(saved_once, tmp_path / "seed-0")


def go_on(directory: pathlib.Path, step: int) -> None:
    """Saves the next step and removes the oldest of three, as `Checkpoints` does."""
    temporary = directory / f"{step}.saving"
    shutil.copytree(directory / str(step - 1), temporary)
    old = json.loads((temporary / manifest.NAME).read_text())
    (temporary / manifest.NAME).unlink()
    manifest.write(temporary, step, old["meta"], old["environment"])
    os.replace(temporary, directory / str(step))
    removed = directory / f"{step - 2}.removed"
    os.replace(directory / str(step - 2), removed)
    shutil.rmtree(removed)


def after_calls(monkeypatch, module, name, act, calls=(1,), before=True):
    """Lets `act` happen before, or after, some of the calls of a function."""
    function, made = getattr(module, name), []

    def wrapped(*args, **kwargs):
        made.append(None)
        if before and len(made) in calls:
            act()
        value = function(*args, **kwargs)
        if not before and len(made) in calls:
            act()
        return value

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize(
    ("module", "name", "before"),
    [
        (manifest, "verify", True),
        (manifest, "_describe", True),
        (checkpoints, "_load_tree", True),
        (checkpoints, "_load_tree", False),
    ],
)
def test_a_step_that_is_removed_while_it_is_read(
    directory, monkeypatch, capsys, module, name, before
):
    def run():
        for step in (3, 4):
            go_on(directory, step)

    after_calls(monkeypatch, module, name, run, before=before)
    model, _, step = restore_latest_model(directory, "")
    assert step == 4
    np.testing.assert_array_equal(model["z"], 7)
    assert capsys.readouterr().err == ""  # nothing is called damaged


def test_a_reader_gives_up_in_the_end_and_moves_nothing(directory, monkeypatch):
    steps = iter(range(3, 1000))

    def run():
        for _ in range(2):
            go_on(directory, next(steps))

    after_calls(monkeypatch, checkpoints, "_load_tree", run, calls=range(1000))
    with pytest.raises(UserError) as error:
        restore_latest_model(directory, "")
    assert "removed while it was read" in str(error.value)
    assert "move" not in str(error.value).replace("removed", "")


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_loads_beside_a_run_that_saves(directory, seconds):
    script = (
        "import itertools, pathlib, sys, time; sys.path.insert(0, sys.argv[2]);"
        "from readers_beside_writers_test import go_on; print('started', flush=True);"
        # A run that saves is slower than one that only saves.
        "[(go_on(pathlib.Path(sys.argv[1]), step), time.sleep(.03)) for step in itertools.count(3)]"
    )
    here = pathlib.Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *sys.path])
    command = [sys.executable, "-c", script, directory, here]
    environment = {**os.environ, "PYTHONPATH": paths}
    last, loads = 0, 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as writer:
        assert writer.stdout.readline() == b"started\n"
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end or loads < 4 or last < 4:
                assert time.monotonic() < end + 60
                model, _, step = restore_latest_model(directory, "")
                np.testing.assert_array_equal(model["z"], 7)
                assert step >= last
                last, loads = step, loads + 1
        finally:
            assert writer.poll() is None
            writer.kill()
