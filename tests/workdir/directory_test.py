"""Tests of cglo_jax/workdir/directory.py and files/lock.py."""

import json
import os

import pytest

from cglo_jax.config.defaults import flatten
from cglo_jax.errors import UserError
from cglo_jax.files import lock, ownership
from cglo_jax.workdir import directory
from tests.helpers.tiny import create_config


def test_create_writes_the_config(tmp_path):
    config = create_config(**{"latent.dim": 16})
    workdir = tmp_path / "runs" / "a"
    directory.create(config, workdir)
    fields = json.loads((workdir / "config.json").read_text())
    assert fields == flatten(config)
    assert fields["latent.dim"] == 16
    assert fields["seeds"] == [0]


def test_create_refuses_another_config_and_keeps_the_old(tmp_path):
    old = create_config()
    directory.create(old, tmp_path)
    other = create_config(**{"latent.dim": 16})
    directory.create(other, tmp_path)  # nothing was made yet
    directory.create(old, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    (tmp_path / "checkpoints" / "seed-0" / "3").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"latent\.dim=8, this call has 16: use another"
    ):
        directory.create(other, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    # Fields of later stages are free until there is a result, and those of no result always.
    slower = create_config(**{"classify.lr": 0.01, "seeds": (3, 4)})
    directory.create(slower, tmp_path)
    (tmp_path / "classifiers" / "cglo-0").mkdir(parents=True)
    (tmp_path / "classifiers" / "cglo-0" / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"classify\.lr=0\.01, this call has 0\.1: "):
        directory.create(old, tmp_path)
    slower.seeds, slower.sample.per_class = (5,), 3
    directory.create(slower, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["seeds"] == [5]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        UserError, match=r"config\.json cannot be used .*: put the file back"
    ):
        directory.create(slower, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{"
    (tmp_path / "config.json").rename(tmp_path / "mine.json")  # as the line advises
    directory.create(slower, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == fields


def test_samples_leave_what_they_do_not_read_as_the_results_have_it(tmp_path):
    made = create_config()
    directory.create(made, tmp_path)
    (tmp_path / "classifiers" / "cglo-0").mkdir(parents=True)
    (tmp_path / "classifiers" / "cglo-0" / "result.json").write_text("{}")
    other = create_config(**{"classify.lr": 0.01, "mixmatch.ema": 0.5, "seeds": (7,)})
    other.classify.methods = ("cutout",)
    for stage in ("sample", "train"):
        directory.check(other, tmp_path, stage)
        directory.create(other, tmp_path, stage)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields == flatten(made) | {"seeds": [7]}
    directory.create(made, tmp_path, "classify")  # is not refused for what samples had
    for stage in ("classify", "report", "all"):
        with pytest.raises(UserError, match=r"classify\.lr=0\.1, this call has 0\.01"):
            directory.check(other, tmp_path, stage)


def test_samples_with_another_t_than_the_results_are_refused(tmp_path):
    directory.create(create_config(), tmp_path)
    (tmp_path / "classifiers" / "cglo-0").mkdir(parents=True)
    (tmp_path / "classifiers" / "cglo-0" / "result.json").write_text("{}")
    other = create_config(**{"sample.t_values": (0.5,)})
    with pytest.raises(UserError, match=r"sample\.t_values="):
        directory.check(other, tmp_path, "sample")


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=rf"--workdir={file} is no folder: use another"):
        directory.create(create_config(), file)
    below = file / "below"
    with pytest.raises(UserError, match=rf"to --workdir={below} \(.+\): use another"):
        directory.create(create_config(), below)


def test_one_run_at_a_time_and_the_other_is_refused_with_its_owner(tmp_path):
    config = create_config()
    with directory.hold(config, tmp_path):
        message = f"in use by process {os.getpid()} on "
        with pytest.raises(UserError, match=message), directory.hold(config, tmp_path):
            pass
        with pytest.raises(UserError, match="in use by process"):
            directory.set_aside(tmp_path)
    with directory.hold(config, tmp_path):
        pass


def test_a_holder_that_has_not_said_who_it_is(tmp_path):
    with lock.hold(tmp_path):
        os.truncate(tmp_path / "lock", 0)
        message = "in use by another process: wait"
        with pytest.raises(UserError, match=message), lock.hold(tmp_path):
            pass


def test_a_lock_that_was_set_aside_meanwhile_is_not_held(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    workdir.mkdir()
    flock = lock.fcntl.flock

    def set_aside(file, how):
        workdir.rename(tmp_path / "run.old-1")
        workdir.mkdir()
        flock(file, how)

    monkeypatch.setattr(lock.fcntl, "flock", set_aside)
    with pytest.raises(UserError, match="in use by"), lock.hold(workdir):
        pass


def test_what_a_link_leads_to_is_set_aside_and_the_link_stays(tmp_path):
    disk, link = tmp_path / "disk" / "run", tmp_path / "link"
    directory.create(create_config(), disk)
    link.symlink_to(disk)
    old = tmp_path / "disk" / "run.old-1"
    assert directory.set_aside(link) == (old, [])
    assert link.is_symlink()
    assert sorted(os.listdir(disk)) == [ownership.RECORD, "lock"]
    assert sorted(os.listdir(old)) == [ownership.RECORD, "config.json"]
    directory.create(create_config(), link)
    assert (disk / "config.json").exists()


def test_the_current_directory_is_not_set_aside(tmp_path, monkeypatch):
    for workdir in (tmp_path, tmp_path / "below"):
        ownership.claim(workdir)
    monkeypatch.chdir(tmp_path / "below")
    for workdir in (tmp_path, tmp_path / "below" / "."):
        with pytest.raises(UserError, match="in which this command was started"):
            directory.set_aside(workdir)


def test_an_old_run_is_set_aside_whole(tmp_path):
    workdir = tmp_path / "run"
    assert directory.set_aside(workdir) is None
    for number in (1, 2):
        ownership.write(workdir, "report.md", str(number))
        old = tmp_path / f"run.old-{number}"
        assert directory.set_aside(workdir) == (old, [])
        assert (old / "report.md").read_text() == str(number)
        assert not workdir.exists()


@pytest.mark.parametrize(
    "checkpoint",
    [
        "checkpoints/seed-0/12",
        "classifiers/cglo-0/checkpoints/12",
        "codes/seed-0/generator-ab/images-cd/12",
    ],
)
def test_has_saved_knows_a_checkpoint_from_what_is_none(tmp_path, checkpoint):
    assert not directory.has_saved(tmp_path / "none")
    for suffix in (".saving", ".damaged"):
        (tmp_path / f"{checkpoint}{suffix}").mkdir(parents=True)
    assert not directory.has_saved(tmp_path)
    (tmp_path / checkpoint).mkdir()
    assert directory.has_saved(tmp_path)


def test_a_workdir_among_the_images_is_refused(tmp_path):
    for workdir in (
        tmp_path,
        tmp_path / "cat" / "run",
        tmp_path / "dog" / ".." / "run",
    ):
        config = create_config(**{"dataset.path": str(tmp_path)})
        with pytest.raises(UserError) as error:
            directory.check_place(config, workdir)
        free = tmp_path.parent / "cglo-run"
        assert str(error.value) == (
            f"--workdir={workdir} lies in config.dataset.path={tmp_path}, the data set: a run would "
            f"write among the images; use another, such as --workdir={free}"
        )
    beside = tmp_path.with_name(f"{tmp_path.name}-run")
    directory.check_place(create_config(**{"dataset.path": str(tmp_path)}), beside)


def test_a_workdir_that_cannot_be_set_aside_says_why(tmp_path, monkeypatch):
    def rename(*_):
        raise PermissionError(1, "Operation not permitted")

    ownership.claim(tmp_path / "run")
    monkeypatch.setattr(directory.storage, "rename", rename)
    with pytest.raises(UserError) as error:
        directory.set_aside(tmp_path / "run")
    assert str(error.value) == (
        f"cannot set --workdir={tmp_path / 'run'} aside as run.old-1 (Operation not permitted): "
        "use another --workdir"
    )
