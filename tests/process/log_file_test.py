"""Tests of cglo_jax/process/log_file.py: what was printed, as a terminal would have shown it."""

import io
import os
import re
import sys
import threading

import pytest
from tqdm import tqdm

from cglo_jax.process import log_file


def read(workdir) -> list[str]:
    """Returns the lines without their times."""
    lines = (workdir / "log.txt").read_text(encoding="utf-8").splitlines()
    stamped = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", x) for x in lines]
    return [match[1] for match in stamped]


def test_all_lines_are_kept_whoever_printed_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cglo-jax", "--workdir=a b"])
    given = sys.stdout, sys.stderr
    with pytest.raises(ValueError), log_file.recording():
        print("before", end=" ")
        print("there was a place \u540d \udcff")
        log_file.keep(tmp_path)
        print("printed\n\n  twice", file=sys.stderr)
        thread = threading.Thread(target=print, args=["by a thread"])
        thread.start()
        thread.join()
        log_file.note("by nobody")
        raise ValueError("at the end")
    log_file.note("later")
    assert (sys.stdout, sys.stderr) == given
    shown = capsys.readouterr()
    assert shown.out == "before there was a place \u540d \\udcff\nby a thread\n"
    assert shown.err == "printed\n\n  twice\n"
    lines = read(tmp_path)
    assert lines[:6] == [
        "started: cglo-jax '--workdir=a b'",
        "before there was a place \u540d \\udcff",
        "printed",
        "  twice",
        "by a thread",
        "by nobody",
    ]
    assert lines[6] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: at the end"


def test_a_second_run_goes_on_below(tmp_path):
    for text in ("one", "two"):
        with log_file.recording():
            log_file.keep(tmp_path)
            print(text)
    assert [line for line in read(tmp_path) if "started" not in line] == ["one", "two"]


def test_a_progress_bar_is_no_line(tmp_path):
    with log_file.recording():
        log_file.keep(tmp_path)
        with tqdm(range(5), file=sys.stderr, mininterval=0, leave=False) as bar:
            for i in bar:
                if i == 3:
                    tqdm.write("a line", file=sys.stderr)
    assert read(tmp_path)[1:] == ["a line"]


def test_nothing_that_a_stream_raises_comes_out(tmp_path, monkeypatch):
    out, closed = io.BytesIO(), io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", closed)
    with log_file.recording():
        log_file.keep(tmp_path)
        print("caf\u00e9", flush=True)
        print("printed", file=sys.stderr, flush=True)
    assert out.getvalue() == b"caf\\xe9\n"
    assert read(tmp_path)[1:] == ["caf\u00e9", "printed"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "full"])
def test_a_log_that_cannot_be_written_is_none(tmp_path, kind, capsys):
    path, other = tmp_path / "log.txt", tmp_path / "other"
    other.write_text("theirs")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/full" if kind == "full" else other)
    with log_file.recording():
        log_file.keep(tmp_path)
        print("printed")
    assert capsys.readouterr().out == "printed\n"
    assert other.read_text() == "theirs"
