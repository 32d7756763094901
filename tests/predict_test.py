"""Tests of cglo_jax/predict.py: image files in, a table out."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import create_dataset
from PIL import Image
from saved_run import put_classifier, put_run

import cglo_jax
from cglo_jax import predict, streams


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
    monkeypatch.setattr(predict, "_AT_ONCE", 1)
    assert call(run, "photos", "photos/a.png") == 0
    told = capsys.readouterr()
    assert told.err == ""
    header, *lines = [line.split("\t") for line in told.out.splitlines()]
    assert header == ["file", "class", "probability"]
    assert [line[0] for line in lines] == ["photos/a.png", r"photos/sub/b\t1.png"]
    loaded = cglo_jax.load_classifier(run, "cglo")
    files = [photos / "a.png", photos / "sub" / "b\t1.png"]
    names, probabilities = loaded.predict(files)
    assert [line[1] for line in lines] == names
    np.testing.assert_allclose(
        [float(line[2]) for line in lines], probabilities.max(1), atol=6e-5
    )


def test_what_is_no_image_is_named_and_the_others_are_classified(run, photos, capsys):
    assert call(run, photos) == 2
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3
    (line,) = told.err.splitlines()
    assert line.startswith(f"{photos / 'notes.txt'}: not an image")


def test_without_any_image_there_is_the_header_only(run, photos, capsys):
    assert call(run, photos / "notes.txt") == 2
    assert capsys.readouterr().out == "file\tclass\tprobability\n"


@pytest.mark.parametrize("name", ["missing.png", "empty"])
def test_a_missing_file_and_an_empty_folder_are_errors(run, tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert call(run, tmp_path / name) == 2
    told = capsys.readouterr()
    assert told.out == ""
    kind = "there is no file in" if name == "empty" else "there is no file"
    assert told.err == f"error: {kind} {tmp_path / name}\n"


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
    told = capfd.readouterr().err
    assert (status, told) == ((2, error) if full else (0, ""))


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
