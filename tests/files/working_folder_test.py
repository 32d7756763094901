"""Tests of cglo_jax/files/working_folder.py: a marker that was prepared reaches nothing elsewhere."""

import re

import pytest

from cglo_jax.files.working_folder import MARKER, WorkingFolder


@pytest.mark.parametrize("name", ["../mine.txt", "/mine.txt", "a/../../mine.txt", ".."])
def test_what_a_marker_lists_elsewhere_is_not_removed(tmp_path, name):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    folder = WorkingFolder(tmp_path / "work")
    (folder.path / "a").mkdir()
    listed = name.replace("/mine", f"{mine.parent}/mine") if name[0] == "/" else name
    with (folder.path / MARKER).open("a") as marker:
        marker.write(f"{listed}\n{listed}/\n")
    again = WorkingFolder(folder.path)
    again.remove_folders(re.compile(".*"))
    again.remove()
    assert mine.read_text() == "mine"


def test_what_it_lists_in_its_folder_is_removed_and_nothing_else(tmp_path):
    folder = WorkingFolder(tmp_path / "work")
    folder.claim("archive.part").write_text("ours")
    made = folder.make_folder("prepared-")
    (made / "shard").write_text("ours")
    (folder.path / "notes.txt").write_text("mine")
    again = WorkingFolder(folder.path)
    again.remove_folders(re.compile("shard"))
    again.remove()
    assert {path.name for path in folder.path.iterdir()} == {MARKER, "notes.txt"}
