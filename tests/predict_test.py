"""Tests of cglo_jax/predict.py and stages/predict.py: image files in, a table out."""

import contextlib
import csv
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import cglo_jax
from cglo_jax import predict
from cglo_jax.process import streams
from cglo_jax.stages import predict as table
from tests.helpers.saved_run import put_classifier, put_run
from tests.helpers.tiny import create_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("predict") / "run"
    config, dataset = put_run(workdir)
    put_classifier(workdir, config, dataset, "cglo", 0)
    return workdir


@pytest.fixture
def photos(tmp_path):
    """a.png, sub/b.png and a text file."""
    images = create_dataset(2).images[..., 0]
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    Image.fromarray(images[0]).save(tmp_path / "photos" / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "photos" / "sub" / "b\t1.png")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def call(run, *files) -> int:
    return predict.main([f"--workdir={run}", "--method=cglo", *map(str, files)])


def test_each_file_of_a_folder_has_a_line(run, photos, monkeypatch, capsys):
    (photos / "notes.txt").unlink()
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr(table, "_AT_ONCE", 1)
    assert call(run, "photos", "photos/a.png") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    header, *lines = csv.reader(io.StringIO(printed.out), delimiter="\t")
    assert header == ["file", "class", "probability"]
    assert [line[0] for line in lines] == ["photos/a.png", "photos/sub/b\t1.png"]
    loaded = cglo_jax.load_classifier(run, "cglo")
    files = [photos / "a.png", photos / "sub" / "b\t1.png"]
    names, probabilities = loaded.predict(files)
    assert [line[1] for line in lines] == names
    np.testing.assert_allclose(
        [float(line[2]) for line in lines], probabilities.max(1), atol=6e-5
    )


NAMES = [
    "plain.png",
    '"quoted',
    '"quoted".png',
    'in "the" middle.png',
    "'single.png",
    "tab\there.png",
    "line\nbreak.png",
    "return\rhere.png",
    "both\r\n.png",
    "back\\slash.png",
    " spaces .png ",
    "a,b;c.png",
    "=1+1.png",
    "+1.png",
    "-1.png",
    "@a.png",
    "\u00fc\u2028\u0085\x0b\x1b.png",
    "\U0001f426.png",
    os.fsdecode(b"byte\xff\xe9.png"),
    "#comment.png",
    "NA",
]


@pytest.fixture(name="odd")
def _odd(tmp_path, monkeypatch):
    """Images with NAMES, in the current folder."""
    (tmp_path / "odd").mkdir()
    image = Image.fromarray(create_dataset(1).images[0, ..., 0])
    for name in NAMES:
        image.save(tmp_path / "odd" / name, "PNG")
    monkeypatch.chdir(tmp_path / "odd")
    return tmp_path / "odd"


def read_table(table: bytes) -> list[list[str]]:
    text = table.decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))


def test_a_csv_reader_reads_every_name_back(run, odd, capfdbinary):
    assert call(run, "--", *NAMES) == 0
    header, *lines = read_table(capfdbinary.readouterr().out)
    assert header == ["file", "class", "probability"]
    assert [line[0] for line in lines] == [str(pathlib.Path(name)) for name in NAMES]
    assert {len(line) for line in lines} == {3}


def test_simple_names_are_written_as_they_are(run, odd, capfdbinary):
    assert call(run, "plain.png", "a,b;c.png", "back\\slash.png") == 0
    lines = capfdbinary.readouterr().out.split(b"\n")
    assert [line.split(b"\t")[0] for line in lines] == [
        b"file",
        b"plain.png",
        b"a,b;c.png",
        b"back\\slash.png",
        b"",
    ]


def test_a_stream_of_text_gets_the_same(run, odd):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert call(run, "tab\there.png", NAMES[-3]) == 0
    lines = read_table(out.getvalue().encode("utf-8", "surrogateescape"))
    assert [line[0] for line in lines[1:]] == ["tab\there.png", NAMES[-3]]


def test_formulas_are_neutralised_when_asked(run, odd, capfdbinary):
    assert call(run, "--safe-for-spreadsheets", "--", *NAMES) == 0
    _, *lines = read_table(capfdbinary.readouterr().out)
    found = [line[0] for line in lines]
    marked = [name for name in NAMES if name[0] in "=+-@'"]
    assert found == [f"'{name}" if name in marked else name for name in NAMES]
    for cell in ("\t=1", "\r@", "  +1", "\uff1d1", "\n-"):
        assert table.format_row([cell], neutral=True).lstrip('"')[0] == "'"


def test_a_terminal_gets_escapes(run, odd, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(run, "line\nbreak.png", NAMES[16]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(r"line\nbreak.png" + "\t")
    assert lines[2].startswith("\u00fc\\u2028\\x85\\x0b\\x1b.png\t")


def test_a_name_that_looks_like_a_flag_is_one_line(run, odd, capsys):
    assert call(run, "-1.png") == 2
    line = "error: -1.png is taken for a flag: write ./-1.png\n"
    assert capsys.readouterr() == ("", line)
    assert call(run, "./-1.png") == 0


@pytest.mark.slow
def test_folders_nested_without_end(run, tmp_path, monkeypatch, capsys):
    """Deeper than Python recurses, and than a path may be long."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("deep")
        os.chdir("deep")
    os.chdir(tmp_path)
    try:
        status = call(run, "deep")
    finally:
        subprocess.run(["rm", "-r", "deep"], cwd=tmp_path, check=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2 and line.startswith("error: ")


def test_what_is_no_image_is_named_and_the_others_are_classified(run, photos, capsys):
    assert call(run, photos) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    (line,) = printed.err.splitlines()
    assert line.startswith(f"{photos / 'notes.txt'}: not an image")


def test_without_any_image_there_is_the_header_only(run, photos, capsys):
    assert call(run, photos / "notes.txt") == 2
    assert capsys.readouterr().out == "file\tclass\tprobability\n"


@pytest.mark.parametrize("name", ["missing.png", "empty"])
def test_a_missing_file_and_an_empty_folder_are_errors(run, tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert call(run, tmp_path / name) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    kind = "there is no file in" if name == "empty" else "there is no file"
    assert printed.err == f"error: {kind} {tmp_path / name}\n"


def test_a_run_without_the_method_is_one_line(run, photos, capsys):
    argv = [f"--workdir={run}", "--method=mixup", str(photos / "a.png")]
    assert predict.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run} has no trained classifier of the method 'mi")


def test_the_method_must_be_said(run, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main([f"--workdir={run}", "a.png"])
    assert stop.value.code == 2
    assert "--method" in capsys.readouterr().err


@pytest.mark.parametrize("full", [False, True])
def test_lines_that_cannot_be_written_end_it(run, photos, monkeypatch, capfd, full):
    read, write = os.pipe()
    os.close(read)
    (photos / "notes.txt").unlink()
    with open("/dev/full", "w") as nowhere, open(write, "w") as unread:
        monkeypatch.setattr(sys, "stdout", nowhere if full else unread)
        with streams.mended():
            status = call(run, photos)
    error = "error: [Errno 28] No space left on device: 'standard output'\n"
    printed = capfd.readouterr().err
    assert (status, printed) == ((2, error) if full else (0, ""))


@pytest.mark.slow
def test_it_is_a_program_whose_output_may_be_cut_off(run, photos):
    program = [sys.executable, "-m", "cglo_jax.predict"]
    flags = [f"--workdir={run}", "--method=cglo", str(photos / "a.png")]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*program, *flags], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
