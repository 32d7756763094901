"""A disk that is full at any point of a save: the checkpoint before is intact, the error one line."""

import contextlib
import os
import pathlib
import resource
import subprocess

import numpy as np
import pytest

from cglo_jax.errors import UserError
from cglo_jax.training.checkpoints import Checkpoints
from tests.helpers.small_run import Run, digest_run, digest_step, write_images

POINTS = 20
SIZE = 2 << 20


def save(directory, step, size=60_000):
    rng = np.random.default_rng(step)
    with Checkpoints(directory) as saved:
        model = {"z": rng.standard_normal(size, np.float32)}
        saved.save(step, model, {"step": np.int32(step)}, {})


def digest(directory, step):
    with Checkpoints(directory, read_only=True) as saved:
        assert saved.latest_step() == step
        return digest_step(saved, step)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: pathlib.Path, left: int) -> pathlib.Path:
    """Fills a disk but for `left` bytes."""
    file = disk / "filled"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    file.write_bytes(bytes(max(0, free - left)))
    return file


def test_a_full_disk_at_20_points_of_a_save(disk):
    directory = disk / "seed-0"
    save(directory, 1)
    expected = digest(directory, 1)
    needed = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    failed = 0
    for i in range(POINTS):
        filled = fill(disk, left=i * needed // POINTS)
        with pytest.raises(UserError) as error:
            save(directory, 2)
        text = str(error.value)
        assert text.startswith(f"cannot save step 2 to {directory}: No space left")
        assert "\n" not in text
        assert {p.name for p in directory.iterdir()} == {"1"}
        assert digest(directory, 1) == expected
        failed += 1
        filled.unlink()
    assert failed == POINTS
    save(directory, 2)  # with space again
    digest(directory, 2)


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Lets nothing in this process write longer files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_quota_at_20_points_of_a_save(tmp_path):
    directory = tmp_path / "seed-0"
    save(directory, 1)
    expected = digest(directory, 1)
    longest = max(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    for i in range(POINTS):
        with (
            files_of_at_most(i * longest // POINTS),
            pytest.raises(UserError, match=r"cannot save step 2 to .*: File too large"),
        ):
            save(directory, 2)
        assert {p.name for p in directory.iterdir()} == {"1"}
        assert digest(directory, 1) == expected


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_space(disk, tmp_path):
    images = write_images(tmp_path / "images")
    whole = tmp_path / "whole"
    assert Run(images, whole).finish() == 0
    workdir = disk / "run"
    told = tmp_path / "run.err"
    filled = fill(disk, left=200_000)
    run = Run(images, workdir, told=told)
    assert run.finish() == 2, run.error()
    (line,) = [x for x in run.error().splitlines() if "error" in x]
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert "Traceback" not in run.error()
    filled.unlink()
    run = Run(images, workdir, told=told)
    assert run.finish() == 0, run.error()
    assert digest_run(workdir) == digest_run(whole)


def test_a_work_directory_that_cannot_be_written_to(tmp_path, disk):
    images = write_images(tmp_path / "images")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    told = tmp_path / "run.err"
    run = Run(images, disk / "run", told=told)
    assert run.finish() == 2
    line = run.error().splitlines()[-1]
    assert (
        line
        == f"error: cannot write to --workdir={disk / 'run'} (Read-only file system): use another"
    )
