"""Tests of cglo_jax/training/tensorboard.py: event files read back with tensorboardX's own messages."""

import errno
import io
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from cglo_jax.files import ownership
from cglo_jax.training.tensorboard import TensorBoard

pytest.importorskip("tensorboardX")
from tensorboardX import event_file_writer, record_writer

from tests.helpers.event_files import Shown, read_shown

PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def open_board(workdir: pathlib.Path, start: int = 0) -> TensorBoard:
    return TensorBoard.open(workdir, "train-0", start)


def read_back(workdir: pathlib.Path) -> Shown:
    return read_shown(workdir / "tensorboard" / "train-0")


def test_scalars_and_pictures_are_read_back(tmp_path):
    board = open_board(tmp_path)
    board.write_scalars(3, {"loss": 0.1, "weak_accuracy": 50.0})
    board.write_pictures(3, {"samples": PICTURE})
    board.write_scalars(4, {"loss": 0.25})
    board.close()
    scalars, pictures = read_back(tmp_path)
    tenth = float(np.float32(0.1))
    assert scalars == {"loss": {3: tenth, 4: 0.25}, "weak_accuracy": {3: 50.0}}
    assert pictures.keys() == {"samples"}
    with Image.open(io.BytesIO(pictures["samples"][3])) as png:
        assert png.format == "PNG"
        np.testing.assert_array_equal(np.asarray(png), PICTURE)


def test_what_a_killed_run_wrote_past_its_checkpoint_is_not_shown_twice(tmp_path):
    killed = open_board(tmp_path)
    for step in (2, 4, 6):
        killed.write_scalars(step, {"loss": 0.0})
        killed.write_pictures(step, {"samples": PICTURE})  # which are on disk at once
    resumed = open_board(tmp_path, start=4)
    resumed.write_scalars(6, {"loss": 1.0})
    resumed.write_pictures(6, {"samples": 255 - PICTURE})
    resumed.close()
    killed.close()  # Python would
    scalars, pictures = read_back(tmp_path)
    assert scalars["loss"] == {2: 0.0, 4: 0.0, 6: 1.0}
    assert list(pictures["samples"]) == [2, 4, 6]
    assert pictures["samples"][6] != pictures["samples"][4]


def test_a_run_that_is_resumed_in_the_same_second_keeps_the_file_before(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(event_file_writer.time, "time", lambda: 1234567890.5)
    for start in (0, 4):
        board = open_board(tmp_path, start)
        board.write_scalars(start + 2, {"loss": float(start)})
        board.close()
    assert read_back(tmp_path).scalars == {"loss": {2: 0.0, 6: 4.0}}


def test_nothing_is_opened_without_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert open_board(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    board = open_board(tmp_path)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record_writer.RecordWriter, "write", fail)
    for step in range(100):
        board.write_scalars(step, {"loss": 0.0})
        board.write_pictures(step, {"samples": PICTURE})
    board.close()
    said = capsys.readouterr().err
    assert said == "warning: a file for TensorBoard: No space left on device\n"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    ownership.claim(tmp_path)
    (tmp_path / "tensorboard").touch()
    board = open_board(tmp_path)
    board.write_scalars(1, {"loss": 0.0})
    board.close()
    assert capsys.readouterr().err.count("warning: a file for TensorBoard: ") == 1
