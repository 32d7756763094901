"""SIGKILL at random times; the same command again until the run is done: it is the same run."""

import random
import time

import pytest
from small_run import STEPS, Run, digest_run, digest_state, write_images

FAST, LONG = 10, 50


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("kills") / "images")


@pytest.fixture(scope="module")
def reference(images):
    """(what an uninterrupted run leaves, how many seconds one takes)."""
    for name in ("compiled", "whole"):
        began = time.monotonic()
        assert Run(images, images.parent / name).finish() == 0
    return digest_run(images.parent / "whole"), time.monotonic() - began


def kill_and_restart(images, workdir, reference, seed: int, most: int) -> int:
    """Kills up to `most` calls at random times, then lets one end; returns how many it killed."""
    expected, seconds = reference
    rng, killed, before = random.Random(seed), 0, 0
    for left in range(most, 0, -1):
        run = Run(images, workdir)
        run.process.join(rng.uniform(0, seconds / left))
        run.process.kill()
        if (status := run.finish()) == 0:
            break
        assert status == -9
        killed += 1
        step, _ = digest_state(workdir / "checkpoints" / "seed-0")
        assert before <= step <= STEPS
        before = step
    run = Run(images, workdir)
    assert run.finish() == 0, run.error()
    assert digest_run(workdir) == expected
    return killed


@pytest.mark.parametrize("seed", range(FAST // 2))
def test_a_killed_run_is_in_the_end_the_uninterrupted_one(
    images, reference, tmp_path, seed
):
    assert kill_and_restart(images, tmp_path / "run", reference, seed, 2) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(LONG // 5))
def test_a_run_killed_again_and_again(images, reference, tmp_path, seed):
    assert kill_and_restart(images, tmp_path / "run", reference, 100 + seed, 5) > 0


def test_the_comparison_sees_another_run(images, reference):
    other = images.parent / "other"
    assert Run(images, other, seeds="(1,)").finish() == 0
    assert digest_run(other)["metrics"] != reference[0]["metrics"]
    own, _ = digest_state(images.parent / "whole" / "checkpoints" / "seed-0")
    assert own == STEPS
