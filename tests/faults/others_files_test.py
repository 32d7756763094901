"""Whole commands on directories that hold somebody's files: nothing of theirs is changed, moved or removed."""

import os
import pathlib
import shutil
import time

import pytest

from cglo_jax.files import ownership
from tests.helpers.small_run import Run, digest_run, last_step, write_images
from tests.helpers.snapshot import snapshot

STAGES = ("all", "train", "sample", "classify", "report", "export")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("others") / "images")


@pytest.fixture(scope="module")
def reference(images):
    """The work directory of a run that nothing happened to."""
    workdir = images.parent / "whole"
    assert Run(images, workdir).finish() == 0
    return workdir


def refused(run: Run) -> str:
    """Returns the one line of a call that is refused before it reads anything."""
    assert run.finish() == 2, run.error()
    (line,) = run.error().splitlines()
    return line


def named_free(line: str) -> pathlib.Path:
    """The directory that a refusal advises, which nobody has."""
    free = pathlib.Path(line.rpartition("such as --workdir=")[2])
    assert not free.exists()
    return free


# The data set and the work directory


@pytest.mark.parametrize("stage", [*STAGES, "fresh"])
def test_images_in_the_work_directory_are_kept(tmp_path, stage):
    project = tmp_path / "birds"
    images = write_images(project / "samples")
    before = snapshot(project)
    more, given = ([], stage) if stage != "fresh" else (["--fresh"], "all")
    told = tmp_path / "told"
    line = refused(Run(images, project, *more, stage=given, told=told))
    assert line.startswith(f"error: --workdir={project} holds config.dataset.path=")
    assert named_free(line).parent == project
    assert snapshot(project) == before


def _through_links(tmp_path, project):
    (tmp_path / "link").symlink_to(project / "samples")
    return tmp_path / "link", project


def _through_dots(tmp_path, project):
    (project / "x").mkdir()
    return project / "x" / ".." / "samples", project


def _the_same(_, project):
    return project / "samples", project / "samples"


def _among_the_classes(_, project):
    return project / "samples", project / "samples" / "train" / "run"


def _among_the_classes_through_a_link(tmp_path, project):
    (tmp_path / "link").symlink_to(project / "samples" / "train")
    return project / "samples", tmp_path / "link" / "run"


def _a_class_is_a_link_into_it(tmp_path, project):
    (project / "run" / "photos").mkdir(parents=True)
    (project / "run" / "photos" / "a.png").write_bytes(b"mine")
    (project / "samples" / "train" / "dog").symlink_to(project / "run" / "photos")
    return project / "samples", project / "run"


@pytest.mark.parametrize(
    "arrange",
    [
        _through_links,
        _through_dots,
        _the_same,
        _among_the_classes,
        _among_the_classes_through_a_link,
        _a_class_is_a_link_into_it,
    ],
)
@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_a_work_directory_and_images_in_each_other_are_refused(
    tmp_path, arrange, fresh
):
    project = tmp_path / "birds"
    write_images(project / "samples")
    images, workdir = arrange(tmp_path, project)
    before = snapshot(tmp_path)
    line = refused(Run(images, workdir, *fresh, told=tmp_path.parent / "told"))
    assert line.startswith(f"error: --workdir={workdir} ")
    assert ", the data set: a run would write among the images" in line
    free = named_free(line)
    assert not free.resolve().is_relative_to(images.resolve())
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_the_directory_that_is_advised_works(tmp_path):
    project = tmp_path / "birds"
    images = write_images(project / "samples")
    free = named_free(refused(Run(images, project, told=tmp_path / "told")))
    run = Run(images, free, told=tmp_path / "told", **{"train.epochs": "1"})
    assert run.finish() == 0, run.error()


# Directories of somebody else


@pytest.mark.parametrize("stage", [*STAGES, "fresh"])
def test_a_project_folder_is_refused_and_not_changed(images, tmp_path, stage):
    project = tmp_path / "project"
    names = ["config.json", "report.md", "report.html", "skipped.txt", "lock"]
    names += ["samples/photo.txt", "exports/mine.txt", "checkpoints/seed-0/5/mine.txt"]
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("mine\n")
    before = snapshot(project)
    more, given = ([], stage) if stage != "fresh" else (["--fresh"], "all")
    line = refused(Run(images, project, *more, stage=given, told=tmp_path / "told"))
    assert line.startswith(f"error: --workdir={project} holds files that no run of ")
    assert named_free(line).parent == project
    assert snapshot(project) == before


@pytest.mark.parametrize("what", ["config.json", "metrics.jsonl", "report.md", "lock"])
def test_a_file_of_a_run_that_was_edited_is_kept(reference, images, tmp_path, what):
    workdir = shutil.copytree(reference, tmp_path / "run")
    (workdir / what).write_text("mine\n")
    before = snapshot(workdir)
    stage = "all" if what == "report.md" else "train"
    line = refused(Run(images, workdir, stage=stage, told=tmp_path / "told"))
    assert line.startswith(f"error: {workdir / what} ")
    assert "move it away" in line
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_notes_in_a_run_stay_whatever_is_done(reference, images, tmp_path):
    workdir = shutil.copytree(reference, tmp_path / "run")
    (workdir / "notes.txt").write_text("mine")
    (workdir / "photos").mkdir()
    (workdir / "photos" / "cat.jpg").write_bytes(b"mine")
    fields = {"train.epochs": "1", "classify.epochs": "1"}
    run = Run(images, workdir, "--fresh", stage="all", **fields)
    assert run.finish() == 0, run.error()
    assert "what this program did not write stayed (notes.txt, photos/" in run.error()
    assert digest_run(tmp_path / "run.old-1") == digest_run(reference)
    for _ in range(2):
        run = Run(images, workdir, stage="export", **fields)
        assert run.finish() == 0, run.error()
    assert (workdir / "notes.txt").read_text() == "mine"
    assert (workdir / "photos" / "cat.jpg").read_bytes() == b"mine"
    assert ownership.list_others(workdir) == ["notes.txt", "photos/cat.jpg"]
    (workdir / "samples" / "favourite.png").write_bytes(b"mine")
    line = refused(Run(images, workdir, stage="sample", **fields))
    assert "(favourite.png), and would be replaced as a whole: move them" in line
    assert (workdir / "samples" / "favourite.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["report.md", "config.json", "lock", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_prepared_run_writes_nothing_through_links_or_pipes(
    reference, images, tmp_path, name, kind
):
    workdir = shutil.copytree(reference, tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    with_it = workdir / name
    with_it.unlink(missing_ok=True)
    with_it.symlink_to(precious) if kind == "link" else os.mkfifo(with_it)
    stage = "report" if name == "report.md" else "train"
    line = refused(Run(images, workdir, stage=stage, told=tmp_path / "told"))
    assert line.startswith(f"error: {with_it} is a {kind}")
    assert precious.read_text() == "precious"


# A directory that is replaced while a run is in it


def test_a_run_whose_directory_was_replaced_changes_nothing_in_the_other(
    reference, images, tmp_path
):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    other = shutil.copytree(reference, tmp_path / "other")
    shutil.rmtree(
        other / "checkpoints" / "seed-0" / "40"
    )  # one left, as it would be pruned
    run = Run(images, workdir, told=tmp_path / "told", before=_slowly)
    while last_step(workdir) < 12:
        time.sleep(0.01)
        assert run.process.is_alive(), run.error()
    workdir.rename(moved)
    other.rename(workdir)
    before = snapshot(workdir)
    assert run.finish() == 2
    last = run.error().splitlines()[-1]
    assert last.startswith(f"error: --workdir={workdir} is no longer the directory of ")
    assert f"(that is {moved} now)" in last
    assert snapshot(workdir) == before
    assert Run(images, moved, told=tmp_path / "told").finish() == 0
    assert digest_run(moved) == digest_run(reference)


@pytest.mark.slow
def test_a_run_whose_directory_was_removed_ends_in_one_line(images, tmp_path):
    workdir = tmp_path / "run"
    run = Run(images, workdir, told=tmp_path / "told", before=_slowly)
    while last_step(workdir) < 4:
        time.sleep(0.01)
        assert run.process.is_alive(), run.error()
    workdir.rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    assert run.finish() == 2
    assert "is no longer the directory of this run" in run.error().splitlines()[-1]
    assert not workdir.exists()


def _slowly() -> None:
    """Lets a step take long enough for a directory to be renamed between two."""
    from cglo_jax.training import run_log

    tick = run_log.RunLog.tick

    def slow(self, step, metrics):
        time.sleep(0.02)
        tick(self, step, metrics)

    run_log.RunLog.tick = slow
