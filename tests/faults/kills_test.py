"""SIGKILL at random times; the same command again until the run is done: it is the same run."""

import random
import time

import pytest

from tests.helpers.small_run import (
    STEPS,
    Run,
    digest_run,
    digest_state,
    last_step,
    write_images,
)

FAST, LONG = 1, 11  # runs, each killed five times


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


def kill(run, workdir, rng: random.Random, seconds: float, at: float) -> bool:
    """Kills a call: at 0 at any time, else about when it has taken that share of all steps."""
    if at:
        while run.process.is_alive() and last_step(workdir) < at * STEPS:
            time.sleep(0.005)
        run.process.join(rng.uniform(0, 0.05))
    else:
        run.process.join(rng.uniform(0, 0.7 * seconds))
    run.process.kill()
    status = run.finish()
    assert status in (0, -9)
    return status == -9


def kill_and_restart(images, folder, reference, seed: int, count: int) -> None:
    """Kills a run so many times, then lets it end; tries again if one ended too early."""
    expected, seconds = reference
    rng = random.Random(seed)
    for attempt in range(3):
        workdir, before, killed = folder / f"run-{attempt}", 0, 0
        for i in range(count):
            at = 0.8 * (i + rng.random()) / count if i else 0
            killed += kill(Run(images, workdir), workdir, rng, seconds, at)
            step, _ = digest_state(workdir / "checkpoints" / "seed-0")
            assert before <= step <= STEPS
            before = step
        run = Run(images, workdir)
        assert run.finish() == 0, run.error()
        assert digest_run(workdir) == expected
        if killed == count:
            return
    pytest.fail(f"none of three runs could be killed {count} times")


@pytest.mark.parametrize("seed", range(FAST))
def test_a_killed_run_is_in_the_end_the_uninterrupted_one(
    images, reference, tmp_path, seed
):
    kill_and_restart(images, tmp_path, reference, seed, 5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(LONG))
def test_a_run_killed_again_and_again(images, reference, tmp_path, seed):
    kill_and_restart(images, tmp_path, reference, 100 + seed, 5)


def test_the_comparison_sees_another_run(images, reference):
    other = images.parent / "other"
    assert Run(images, other, seeds="(1,)").finish() == 0
    assert digest_run(other)["metrics"] != reference[0]["metrics"]
    own, _ = digest_state(images.parent / "whole" / "checkpoints" / "seed-0")
    assert own == STEPS
