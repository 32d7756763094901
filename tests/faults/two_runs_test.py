"""Two runs that want one work directory: exactly one goes on, the other names it."""

import multiprocessing

import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import lock
from tests.helpers.small_run import Run, digest_run, write_images

PAIRS = 20


def take(folder, together, ended, told) -> None:
    """Tries to hold the lock at the same moment as another process, and says what came of it."""
    together.wait()
    try:
        with lock.hold(folder):
            told.put("held")
            ended.wait()  # both have said it
    except UserError as error:
        told.put(str(error))
        ended.wait()


def test_of_twenty_pairs_one_each_goes_on_and_the_other_names_it(tmp_path):
    context = multiprocessing.get_context("forkserver")
    for i in range(PAIRS):
        folder = tmp_path / str(i)
        folder.mkdir()
        together, ended, told = context.Barrier(2), context.Barrier(3), context.Queue()
        pair = [
            context.Process(target=take, args=(folder, together, ended, told))
            for _ in range(2)
        ]
        for process in pair:
            process.start()
        first, second = sorted((told.get(timeout=30) for _ in pair), reverse=True)
        ended.wait(30)
        for process in pair:
            process.join(30)
        assert first == "held"
        assert second.startswith(f"--workdir={folder} is in use by ")
        pids = [str(process.pid) for process in pair]
        assert any(f"process {pid} on" in second for pid in pids) or "another" in second
        with lock.hold(folder):  # it ended with its holder
            pass


@pytest.mark.slow
def test_two_whole_runs_on_one_work_directory(tmp_path):
    images = write_images(tmp_path / "images")
    assert Run(images, tmp_path / "alone").finish() == 0
    workdir = tmp_path / "run"
    runs = [Run(images, workdir, told=tmp_path / f"{i}.err") for i in range(2)]
    statuses = sorted(run.finish() for run in runs)
    assert statuses == [0, 2]
    refused = next(run for run in runs if run.process.exitcode == 2)
    assert f"error: --workdir={workdir} is in use by process " in refused.error()
    assert digest_run(workdir) == digest_run(tmp_path / "alone")
