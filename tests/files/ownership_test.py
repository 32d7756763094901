"""Tests of cglo_jax/files/ownership.py: what is not this program's is never touched."""

import functools
import json
import multiprocessing
import os
import pathlib
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import lock, ownership, storage
from tests.helpers.snapshot import snapshot

TAGS = {"stage": "train", "seed": 0}


def error_of(call, *args) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def in_process(target, *args) -> int:
    """Calls a function in a process of its own; returns that process's exit status."""
    process = multiprocessing.get_context("forkserver").Process(
        target=target, args=args
    )
    process.start()
    process.join(60)
    return process.exitcode


def replace(root: pathlib.Path, name: str, files: dict[str, str]) -> None:
    with ownership.replacing(root, name) as new:
        for file, text in files.items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_text(text)


# Folders


@pytest.mark.parametrize("prepare", ["absent", "empty", "finder", "cut off"])
def test_a_new_or_empty_folder_is_claimed_and_stays_claimed(tmp_path, prepare):
    root = tmp_path / "a" / "run"
    if prepare != "absent":
        root.mkdir(parents=True)
    if prepare == "finder":
        for name in (".DS_Store", "Thumbs.db"):
            (root / name).write_bytes(b"theirs")
    if prepare == "cut off":  # killed before the first line was written
        (root / ownership.RECORD).write_bytes(b'{"program": "cg')
    ownership.claim(root)
    (root / "notes.txt").write_text("mine")
    ownership.claim(root)
    ownership.check_claimable(root)
    assert ownership.is_claimed(root)
    assert (root / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "names", [["photo.jpg"], [".git"], ["config.json"], ["lock"], ["a/b/c"], ["x" * 9]]
)
def test_a_folder_of_somebody_else_is_refused_and_not_changed(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = snapshot(tmp_path)
    for call in (
        lambda: ownership.claim(tmp_path),
        lambda: ownership.write(tmp_path, "config.json", "ours"),
        lambda: ownership.Log(tmp_path, "metrics.jsonl"),
        lambda: ownership.note(tmp_path, "x"),
        lambda: replace(tmp_path, "samples", {"a": "ours"}),
    ):
        text = error_of(call)
        assert text.startswith(f"--workdir={tmp_path} holds files that no run of ")
        assert names[0].split("/")[0] in text
    assert snapshot(tmp_path) == before


def test_a_file_or_a_link_to_nothing_is_no_work_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert "is no folder: use another" in error_of(ownership.claim, tmp_path / "file")
    assert "is a link to nothing: use" in error_of(ownership.claim, tmp_path / "link")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "content",
    [b"mine\n", b"[]\n", b'{"program": "else", "id": "1"}\n', b"\0\n", b"{}\n"],
)
def test_a_record_that_is_none_of_ours_is_refused(tmp_path, content):
    (tmp_path / ownership.RECORD).write_bytes(content)
    assert "is not of this program, or damaged" in error_of(ownership.claim, tmp_path)
    assert (tmp_path / ownership.RECORD).read_bytes() == content


def test_a_record_that_is_a_link_or_a_pipe_is_refused(tmp_path):
    ownership.claim(tmp_path / "real")
    record = tmp_path / "real" / ownership.RECORD
    for name, make in (("link", record), ("pipe", None)):
        root = tmp_path / name
        root.mkdir()
        if make:
            (root / ownership.RECORD).symlink_to(make)
        else:
            os.mkfifo(root / ownership.RECORD)
        assert f"is a {name}, where a file of this" in error_of(ownership.claim, root)
    assert record.read_text().count("\n") == 1


# Files


def test_files_are_replaced_as_long_as_they_are_as_written(tmp_path):
    for text in ("one", "two", "two", "three"):
        ownership.write(tmp_path, "a/report.md", text)
        assert (tmp_path / "a" / "report.md").read_text() == text
    (tmp_path / "a" / "report.md").write_text("one")  # put back from a copy
    ownership.write(tmp_path, "a/report.md", "four")
    ownership.remove(tmp_path, "a/report.md")
    assert not (tmp_path / "a" / "report.md").exists()
    ownership.remove(tmp_path, "a/report.md")
    assert {p.name for p in tmp_path.rglob("*")} == {"a", ownership.RECORD}


@pytest.mark.parametrize("change", ["edited", "theirs", "link", "pipe", "folder"])
def test_what_was_changed_or_is_somebody_elses_is_not_replaced(tmp_path, change):
    root, target = tmp_path / "run", tmp_path / "target"
    target.write_text("precious")
    ownership.claim(root)
    path = root / "report.md"
    if change == "edited":
        ownership.write(root, "report.md", "ours")
        path.write_text("ours, and notes of mine")
    elif change == "theirs":
        path.write_text("mine")
    elif change == "link":
        path.symlink_to(target)
    elif change == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()

    def look():  # at all but the time at which a file was read
        stats = (path.lstat() for path in sorted(root.iterdir()))
        return [
            (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for s in stats
        ]

    before = look()
    calls = [
        lambda: ownership.write(root, "report.md", "new"),
        lambda: ownership.check(root, "report.md"),
        lambda: ownership.remove(root, "report.md"),
        lambda: ownership.Log(root, "report.md"),
    ]
    for call in calls:
        text = error_of(call)
        assert text.startswith(f"{path} ")
        assert "move it away" in text
    assert look() == before
    assert target.read_text() == "precious"


def test_temporary_names_cannot_be_foreseen_and_do_not_stay(tmp_path, monkeypatch):
    seen, beside = [], storage.write_beside

    def watched(path, content, name):
        seen.append(name)
        beside(path, content, name)

    monkeypatch.setattr(storage, "write_beside", watched)
    for _ in range(2):
        ownership.write(tmp_path, "report.md", "text")
    assert len({name for name in seen if len(name) > 30}) == 2
    assert in_process(_write_and_die, tmp_path) == 9
    (left,) = [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]
    (tmp_path / ".mine.tmp").write_text("mine")
    ownership.clean(tmp_path)
    assert not left.exists()
    assert (tmp_path / ".mine.tmp").read_text() == "mine"
    ownership.write(tmp_path, "report.md", "again")
    assert (tmp_path / "report.md").read_text() == "again"


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_leaves_files_that_the_next_call_may_replace(tmp_path, every):
    """A child process ends at each of its file operations in turn."""
    for stop in range(0, 200, every):
        root = tmp_path / str(stop)
        ownership.write(root, "report.md", "old")
        with ownership.Log(root, "metrics.jsonl") as log:
            for step in range(3):
                log.append({**TAGS, "step": step})
        replace(root, "samples", {"images/0.png": "old", "codes.png": "old"})
        ended = in_process(_change_and_die, root, stop)
        assert ownership.list_others(root) == []
        ownership.clean(root)
        ownership.write(root, "report.md", "newest")
        with ownership.Log(root, "metrics.jsonl") as log:
            assert [r["step"] for r in storage.read_records(log.path)] in (
                *([0, 1, 2], [0, 1]),
            )
            log.drop(TAGS, after_step=0)
        replace(root, "samples", {"images/2.png": "newest"})
        names = {n for n in snapshot(root) if not n.endswith(ownership.RECORD)}
        assert names == {
            *("report.md", "metrics.jsonl", "samples"),
            *("samples/images", "samples/images/2.png"),
        }
        if ended == 0:
            break
    assert 30 < stop < 190


def _change_and_die(root: pathlib.Path, stop: int) -> None:
    _die_after(stop)
    ownership.write(root, "report.md", "new")
    with ownership.Log(root, "metrics.jsonl") as log:
        log.drop(TAGS, after_step=1)
        log.append({**TAGS, "step": 2})
    replace(root, "samples", {"images/1.png": "new", "codes.png": "new"})


def _write_and_die(root: pathlib.Path) -> None:
    os.replace = lambda *_: os._exit(9)
    ownership.write(root, "report.md", "killed")


def _die_after(count: int) -> None:
    """Ends this process before its file operation number `count`."""
    left = [count]
    for name in ("open", "replace", "unlink", "rmdir", "mkdir", "fsync"):

        def dying(real, *args, **kwargs):
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return real(*args, **kwargs)

        setattr(os, name, functools.partial(dying, getattr(os, name)))


def test_records_of_several_processes_are_all_kept(tmp_path):
    ownership.claim(tmp_path)
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(in_process, _write_many, tmp_path, i) for i in range(4)]
    assert [call.result() for call in calls] == [0] * 4
    assert ownership.list_others(tmp_path) == []
    assert len(list(tmp_path.rglob("*.txt"))) == 100


def _write_many(root: pathlib.Path, i: int) -> None:
    for j in range(25):
        ownership.write(root, f"{i}/{j}.txt", "text" * j)


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\..\\out", ""])
def test_a_record_names_nothing_outside_its_folder(tmp_path, name):
    root, out = tmp_path / "run", tmp_path / "out"
    ownership.claim(root)
    out.write_text("mine")
    line = {"path": name, "temporary": name, "size": 4, "sha256": "?"}
    storage.append_record(root / ownership.RECORD, line)
    ownership.clean(root)
    assert out.read_text() == "mine"


# Logs


def test_a_log_goes_on_where_it_was_whatever_ended_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with ownership.Log(tmp_path, "metrics.jsonl") as log:
        log.append({**TAGS, "step": 1})
    killed = ownership.Log(tmp_path, "metrics.jsonl")
    killed.append({**TAGS, "step": 2})
    with path.open("a") as file:
        file.write('{"stage": "tr')  # cut off
    with ownership.Log(tmp_path, "metrics.jsonl") as log:
        log.append({**TAGS, "step": 3})
    assert [r["step"] for r in storage.read_records(path)] == [1, 2, 3]


def test_drop_removes_later_lines_with_these_tags_only(tmp_path):
    other = {"stage": "train", "seed": 1}
    records = [{**tags, "step": s} for s in (1, 2, 3) for tags in (TAGS, other)]
    with ownership.Log(tmp_path, "metrics.jsonl") as log:
        for record in records:
            log.append(record)
        log.drop(TAGS, after_step=1)
        log.append({**TAGS, "step": 2, "again": True})
    kept = [r for r in records if r["seed"] == 1 or r["step"] == 1]
    expected = [*kept, {**TAGS, "step": 2, "again": True}]
    assert storage.read_records(log.path) == expected


def test_a_log_that_somebody_changed_is_not_touched(tmp_path):
    with ownership.Log(tmp_path, "metrics.jsonl") as log:
        log.append({**TAGS, "step": 1})
        log.append({**TAGS, "step": 2})
    text = log.path.read_text().replace('"step": 1', '"step": 7')
    log.path.write_text(text)
    line = error_of(ownership.Log, tmp_path, "metrics.jsonl")
    assert line.startswith(f"{log.path} was changed since this program wrote it")
    assert log.path.read_text() == text
    log.path.rename(tmp_path / "mine.jsonl")  # as the line advises
    with ownership.Log(tmp_path, "metrics.jsonl") as log:
        log.append({**TAGS, "step": 2})
        # In the middle of a run: an editor writes the file anew.
        log.path.write_text("mine\n")
        assert "was changed while" in error_of(log.append, {**TAGS, "step": 3})
    assert log.path.read_text() == "mine\n"


# Folders that are replaced


def test_a_folder_is_replaced_and_a_build_that_fails_changes_nothing(tmp_path):
    samples = tmp_path / "samples"
    for text in ("one", "two"):
        replace(tmp_path, "samples", {"images/cat/0.png": text, "codes.png": text})
        assert (samples / "images" / "cat" / "0.png").read_text() == text
    before = snapshot(samples)
    with (
        pytest.raises(ZeroDivisionError),
        ownership.replacing(tmp_path, "samples") as new,
    ):
        (new / "images").mkdir()
        (new / "images" / "half").write_text("half")
        raise ZeroDivisionError
    after = snapshot(samples)
    assert after.pop(ownership.RECORD).startswith(before.pop(ownership.RECORD))
    assert after == before
    replace(tmp_path, "samples", {"other.png": "three"})
    assert set(snapshot(samples)) == {"other.png", ownership.RECORD}
    assert ownership.list_others(tmp_path) == []


@pytest.mark.parametrize("change", ["added", "changed", "link", "added below"])
def test_a_folder_with_files_of_somebody_else_is_left_as_it_is(tmp_path, change):
    replace(tmp_path, "samples", {"images/cat/0.png": "ours", "codes.png": "ours"})
    samples = tmp_path / "samples"
    if change == "added":
        (samples / "photo.jpg").write_text("mine")
    elif change == "changed":
        (samples / "codes.png").write_text("painted over")
    elif change == "link":
        (samples / "codes.png").unlink()
        (samples / "codes.png").symlink_to("/etc/passwd")
    else:
        (samples / "images" / "cat" / "mine.png").write_text("mine")
    before = snapshot(tmp_path)
    text = error_of(ownership.check_replaceable, tmp_path, "samples")
    assert text.startswith(f"{samples} has files that this program did not write")
    assert error_of(replace, tmp_path, "samples", {"a": "new"}) == text
    assert snapshot(tmp_path) == before


def test_what_comes_while_a_folder_is_built_or_exchanged_is_kept(tmp_path, monkeypatch):
    replace(tmp_path, "samples", {"codes.png": "one"})
    samples = tmp_path / "samples"
    with (
        pytest.raises(UserError, match=r"mine\.txt"),
        ownership.replacing(tmp_path, "samples") as new,
    ):
        (new / "codes.png").write_text("two")
        (samples / "mine.txt").write_text("mine")
    assert (samples / "codes.png").read_text() == "one"
    assert (samples / "mine.txt").read_text() == "mine"
    (samples / "mine.txt").unlink()
    check = ownership._check_whole

    def late(record):
        check(record)
        (samples / "late.txt").write_text("mine")

    with ownership.replacing(tmp_path, "samples") as new:
        (new / "codes.png").write_text("three")
        monkeypatch.setattr(ownership, "_check_whole", late)
    assert (samples / "codes.png").read_text() == "three"
    assert (samples / "late.txt").read_text() == "mine"


def test_links_to_empty_folders_elsewhere_are_kept_and_used(tmp_path):
    root, disk = tmp_path / "run", tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    ownership.claim(root)
    (root / "samples").symlink_to(disk)
    ownership.check_links(root)
    for text in ("one", "two"):
        replace(root, "samples", {"images/0.png": text})
        assert (root / "samples").is_symlink()
        assert (disk / "images" / "0.png").read_text() == text
    names = {p.name for p in disk.iterdir()}
    assert names == {"images", "lost+found", ownership.RECORD}
    moved = tmp_path / "moved"
    root.rename(moved)
    replace(moved, "samples", {"images/0.png": "three"})
    assert (disk / "images" / "0.png").read_text() == "three"


@pytest.mark.parametrize("name", ["samples", "exports", "checkpoints", "tensorboard"])
@pytest.mark.parametrize("target", ["photos", "other run", "nothing", "itself", "file"])
def test_links_to_what_is_somebody_elses_are_refused(tmp_path, name, target):
    root, other = tmp_path / "run", tmp_path / "other"
    ownership.claim(root)
    if target == "photos":
        other.mkdir()
        (other / "a.jpg").write_text("precious")
    elif target == "other run":
        replace(other, "samples", {"codes.png": "precious"})
        other = other / "samples"
    elif target == "itself":
        other = root
    elif target == "file":
        other.write_text("precious")
    (root / name).symlink_to(other)
    before = snapshot(tmp_path)
    text = error_of(ownership.check_links, root)
    assert str(root / name) in text
    if name in ("samples", "exports"):
        assert str(root / name) in error_of(replace, root, name, {"a.jpg": "new"})
    assert snapshot(tmp_path) == before


def test_a_link_below_a_linked_folder_is_followed_too(tmp_path):
    root, disk, photos = (tmp_path / name for name in ("run", "disk", "photos"))
    for folder in (disk, photos):
        folder.mkdir()
    (photos / "5").mkdir()
    (photos / "5" / "manifest.json").write_text("precious")
    ownership.claim(root)
    (root / "checkpoints").symlink_to(disk)
    ownership.check_links(root)
    (disk / "seed-0").symlink_to(photos)
    assert "seed-0" in error_of(ownership.check_links, root)


# Moving a run away


def test_setting_aside_moves_what_is_ours_and_leaves_the_rest(tmp_path):
    root, old = tmp_path / "run", tmp_path / "run.old-1"
    ownership.write(root, "config.json", "{}")
    ownership.write(root, "classifiers/cglo-0/result.json", "{}")
    replace(root, "samples", {"images/cat/0.png": "ours"})
    manifest = root / "checkpoints" / "seed-0" / "5" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    ours = snapshot(root)
    (root / "notes.txt").write_text("mine")
    (root / "photos" / "cat").mkdir(parents=True)
    (root / "photos" / "cat" / "1.jpg").write_text("mine")
    (root / "data").symlink_to(tmp_path)
    assert ownership.list_others(root) == ["data", "notes.txt", "photos/cat/1.jpg"]
    stayed = ownership.set_aside(root, old)
    assert stayed == ["data", "notes.txt", "photos/cat/1.jpg"]
    assert snapshot(old) == ours
    assert set(snapshot(root)) == {
        *("notes.txt", "photos", "photos/cat", "photos/cat/1.jpg", "data"),
        ownership.RECORD,
    }
    for folder in (root, old):  # both are work directories now
        ownership.write(folder, "report.md", "new")
    assert ownership.list_others(old) == []


@pytest.mark.parametrize(
    "name", ["config.json", "samples/mine.png", "checkpoints/seed-0/5/notes.txt"]
)
def test_what_would_be_in_the_way_of_a_fresh_run_is_named(tmp_path, name):
    root = tmp_path / "run"
    ownership.write(root, "config.json", "{}")
    replace(root, "samples", {"codes.png": "ours"})
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("mine")
    before = snapshot(tmp_path)
    text = error_of(ownership.set_aside, root, tmp_path / "old")
    assert f"{root / name} is in its way" in text
    assert snapshot(tmp_path) == before


def test_the_record_is_one_json_object_a_line(tmp_path):
    ownership.write(tmp_path, "report.md", "text")
    head, line = map(json.loads, (tmp_path / ownership.RECORD).read_text().splitlines())
    assert head["program"] == "cglo_jax"
    assert (line["path"], line["size"]) == ("report.md", 4)


# What others put there


def put_line(folder: pathlib.Path, **line: object) -> None:
    storage.append_record(folder / ownership.RECORD, line)


def test_a_prepared_record_removes_nothing_elsewhere(tmp_path):
    home, root = tmp_path / "home", tmp_path / "run"
    for name in ("Documents/p", f".new-{16 * '0'}/p", "one.txt", f".x.{16 * '0'}.tmp"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("precious")
    replace(root, "exports", {"a": "ours"})
    for folder in (root, root / "exports"):
        for link in (f".new-{16 * '1'}", f".old-{16 * '1'}", "sub"):
            (folder / link).symlink_to(home)
            for name in ("", "/Documents", f"/.new-{16 * '0'}", f"/.x.{16 * '0'}.tmp"):
                put_line(folder, temporary=f"{link}{name}")
        put_line(folder, temporary="photos")
        (folder / "photos").mkdir()
        (folder / "photos" / "a.jpg").write_text("precious")
    before = snapshot(home)
    ownership.clean(root)
    with pytest.raises(UserError):
        replace(root, "exports", {"a": "new"})
    assert snapshot(home) == before
    for folder in (root, root / "exports"):
        assert (folder / "photos" / "a.jpg").read_text() == "precious"


def test_a_copy_does_not_share_the_folders_that_links_lead_to(tmp_path):
    root, copy, disk = tmp_path / "run", tmp_path / "copy", tmp_path / "disk"
    disk.mkdir()
    root.mkdir()
    (root / "samples").symlink_to(disk)
    ownership.claim(root)  # a link to an empty folder is there from the start
    replace(root, "samples", {"a.png": "original"})
    shutil.copytree(root, copy, symlinks=True)
    for call in (ownership.check_links, lambda r: replace(r, "samples", {"a": "new"})):
        assert f"that --workdir={root} uses: make it" in error_of(call, copy)
    assert (disk / "a.png").read_text() == "original"
    replace(root, "samples", {"a.png": "again"})
    root.rename(tmp_path / "moved")
    replace(tmp_path / "moved", "samples", {"a.png": "moved"})
    assert (disk / "a.png").read_text() == "moved"


def test_a_backup_of_hard_links_keeps_what_it_has(tmp_path):
    root, backup = tmp_path / "run", tmp_path / "backup"
    ownership.write(root, "report.md", "one")
    with ownership.Log(root, "metrics.jsonl") as log:
        log.append({**TAGS, "step": 1})
    replace(root, "samples", {"a.png": "one"})
    with lock.hold(root):
        pass
    shutil.copytree(root, backup, copy_function=os.link)
    before = snapshot(backup)
    with lock.hold(root):
        ownership.write(root, "report.md", "two")
        with ownership.Log(root, "metrics.jsonl") as log:
            log.append({**TAGS, "step": 2})
        replace(root, "samples", {"a.png": "two"})
    assert snapshot(backup) == before
    assert [r["step"] for r in storage.read_records(log.path)] == [1, 2]


def test_a_folder_of_a_work_directory_is_no_work_directory(tmp_path):
    replace(tmp_path, "samples", {"a.png": "ours"})
    text = error_of(ownership.claim, tmp_path / "samples")
    assert "is a folder of a run's work directory: use another" in text


@pytest.mark.parametrize("content", ["mine", '{"mine": 1', '{"program": "mine"'])
def test_a_file_without_an_end_that_is_called_as_the_record_is_kept(tmp_path, content):
    (tmp_path / ownership.RECORD).write_text(content)
    assert "holds files that no run of this program wrote" in error_of(
        ownership.claim, tmp_path
    )
    assert (tmp_path / ownership.RECORD).read_text() == content


def test_a_changed_card_is_named_before_anything_is_made(tmp_path):
    ownership.write(tmp_path, "classifiers/cglo-0/README.md", "card")
    ownership.write(tmp_path, "notes/README.md", "of no stage")
    for name in ("classifiers/cglo-0", "notes"):
        (tmp_path / name / "README.md").write_text("mine")
    check = (ownership.check_recorded, tmp_path, "checkpoints", "classifiers")
    assert "cglo-0/README.md was changed since" in error_of(*check)


def test_checkpoints_that_are_copied_with_the_record_are_a_run(tmp_path):
    """As docs/own-images.md has it for images that came in later."""
    root, more = tmp_path / "run", tmp_path / "more"
    ownership.write(root, "config.json", "{}")
    ownership.write(root, "checkpoints/seed-0/README.md", "card")
    more.mkdir()
    shutil.copytree(root / "checkpoints", more / "checkpoints")
    assert "holds files that no run of this program wrote" in error_of(
        ownership.claim, more
    )
    shutil.copy(root / ownership.RECORD, more)
    ownership.write(more, "config.json", '{"other": 1}')
    assert ownership.list_others(more) == []
