"""Tests of cglo_jax/files/storage.py."""

import errno
import os
import urllib.error

import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import storage

TAGS = {"stage": "train", "seed": 0}


def test_records_are_read_as_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert storage.read_records(path) == []
    records = [{"step": 1, "loss": 0.1}, {"step": 2, "name": "ä \n line"}]
    for record in records:
        storage.append_record(path, record)
    assert storage.read_records(path) == records
    assert len(path.read_text().splitlines()) == 2


def test_a_half_written_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        storage.append_record(path, {**TAGS, "step": step})
    whole = path.read_text()
    path.write_text(whole + '{"stage": "train", "st')
    assert [r["step"] for r in storage.read_records(path)] == [1, 2]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(
        UserError, match=r"metrics\.jsonl is damaged in line 2: move it away"
    ):
        storage.read_records(path)


def test_write_atomically_replaces_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    storage.write_atomically(path, "one")
    storage.write_atomically(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write_atomically(path, "three")
    assert path.read_text() == "two"


def test_a_line_is_appended_to_whole_ones_only(tmp_path):
    path = tmp_path / "timings.jsonl"
    for half in ('{"a": 1}\n{"b"', '{"b"'):
        path.write_text(half)
        storage.append_record(path, {"c": 3})
        assert storage.read_records(path)[-1] == {"c": 3}
        assert path.read_text().endswith('{"c": 3}\n')
        assert '"b"' not in path.read_text()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    storage.write_atomically(path, "one")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_atomically(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_went_wrong_is_one_line():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b")
    assert storage.explain(full) == "No space left on device (a/b)"
    below = ValueError(
        'RESOURCE_EXHAUSTED: Error writing:\n "x": No space left on device'
    )
    assert storage.explain(below) == "No space left on device"
    assert storage.explain(ValueError("two\nlines")) == "two lines"
    assert storage.explain(MemoryError()) == "MemoryError"
    refused = urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))
    assert storage.explain(refused) == "Connection refused"
    absent = urllib.error.HTTPError("http://a/b", 404, "Not Found", {}, None)
    assert storage.explain(absent) == "HTTP Error 404: Not Found"
