"""Runs whose standard streams are closed, full, broken or without the letters: as all others."""

import io
import os
import re
import sys

import pytest

from tests.helpers.small_run import Run, digest_run, write_images

SHORT = {"train.epochs": "1"}


def closed() -> None:
    """As of a daemon: the next opened file would have number 1."""
    for number in range(3):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None


def unwritable(number: int) -> None:
    for descriptor in (1, 2):
        os.dup2(number, descriptor)


def full() -> None:
    unwritable(os.open("/dev/full", os.O_WRONLY))


def unread() -> None:
    """As of `head` that has ended."""
    read, write = os.pipe()
    os.close(read)
    unwritable(write)


def without_the_letters() -> None:
    """As with PYTHONIOENCODING=ascii."""
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("streams") / "images")
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "caf\u00e9 \u540d\u524d")
    return folder


def read_log(workdir) -> list[str]:
    """Returns the lines after the first without what differs from run to run."""
    text = (workdir / "log.txt").read_text(encoding="utf-8")
    first, *lines = [line[20:] for line in text.splitlines()]
    assert first.startswith("started: main.py --config=configs/folder.py --workdir=")
    return without_times(lines)


def without_times(lines: list[str]) -> list[str]:
    kept = [line for line in lines if line and "compiled and took" not in line]
    return [re.sub(r"in \d+ s \(.*?\)", "in 1 s", line) for line in kept]


@pytest.fixture(scope="module")
def reference(images):
    run = Run(images, images.parent / "whole", **SHORT)
    assert run.finish(120) == 0, run.error()
    lines = read_log(images.parent / "whole")
    assert without_times(run.error().splitlines()) == lines
    assert any("caf\u00e9 \u540d\u524d" in line for line in lines)
    return digest_run(images.parent / "whole"), lines


LONGER = [full, unread, without_the_letters]
LONGER = [pytest.param(before, marks=pytest.mark.slow) for before in LONGER]


@pytest.mark.parametrize("before", [closed, *LONGER])
def test_a_run_is_the_same_whatever_becomes_of_what_it_prints(
    images, reference, tmp_path, before
):
    run = Run(images, tmp_path / "other", before=before, **SHORT)
    assert run.finish() == 0, run.error()
    assert (digest_run(tmp_path / "other"), read_log(tmp_path / "other")) == reference
    if before is without_the_letters:
        assert r"caf\xe9 \u540d\u524d" in run.error()


@pytest.mark.slow
@pytest.mark.parametrize("before", [closed, full])
def test_an_error_has_its_status_and_is_in_the_log(images, tmp_path, before):
    fields = {**SHORT, "train.generator_lr": "1e30", "train.code_lr": "1e30"}
    run = Run(images, tmp_path / "run", before=before, **fields)
    assert run.finish() == 2, run.error()
    assert "error: train seed 0: " in read_log(tmp_path / "run")[-1]
