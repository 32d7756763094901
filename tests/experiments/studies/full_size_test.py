"""Every stage at full size, on a small scale: the archives, what is measured, the command."""

import argparse
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cglo_jax.data import archives, dataset
from cglo_jax.files import storage
from cglo_jax.training.checkpoints import Checkpoints
from configs import cub
from experiments.harness import watched
from experiments.studies import full_size

SHRUNKEN = {
    "devices": "1",
    "dataset.size": "9",
    "dataset.crop": "8",
    "latent.dim": "8",
    "generator.width": "4",
    "generator.max_width": "8",
    "weak_classifier.width": "4",
    "reconstruction.loss": "laplacian",
    "train.batch_size": "8",
    "classify.network": "wide_resnet",
    "classify.depth": "10",
    "classify.width": "1",
    "classify.batch_size": "8",
}


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setattr(full_size, "SIDES", (40, 30))
    monkeypatch.setattr(full_size, "RESULTS", tmp_path / "full_size.jsonl")


def test_birds_are_prepared_as_tfds_reads_cub(tmp_path):
    official = [*archives.ARCHIVES["caltech_birds2011"]]
    full_size.prepare_birds(tmp_path)
    assert archives.ARCHIVES["caltech_birds2011"] == official
    seen, shapes, grey = {"train": [], "test": []}, set(), 0
    for split, labels in seen.items():
        source = tfds.data_source("caltech_birds2011", split=split, data_dir=tmp_path)
        for record in source:
            path = tmp_path / record["image/filename"].decode()
            with Image.open(path) as image:
                grey += image.mode == "L"
                pixels = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(record["image"], pixels)
            assert record["segmentation_mask"].shape == (*pixels.shape[:2], 1)
            assert int(path.parent.name[:3]) == record["label"] + 1
            y0, x0, y1, x1 = record["bbox"] * np.tile(pixels.shape[:2], 2)
            inside = np.zeros(pixels.shape[:2])
            inside[round(y0) : round(y1), round(x0) : round(x1)] = 255
            np.testing.assert_array_equal(record["segmentation_mask"][..., 0], inside)
            shapes.add(pixels.shape)
            labels.append(record["label"])
    assert sorted(seen["train"]) == [label for label in range(200) for _ in range(3)]
    assert sorted(seen["test"]) == [*range(200)]
    assert shapes == {(30, 40, 3), (40, 30, 3)}
    assert grey == 16

    fields = cub.get_config("2").dataset
    fields.data_dir, fields.size, fields.crop = str(tmp_path), 9, 8
    fields.split_file = str(tmp_path / "CUB_200_2011" / "split.txt")
    train_set, test_set = dataset.load(fields)
    assert np.bincount(train_set.labels).tolist() == [2] * 200
    assert len(test_set.ids) == 200
    fields.shots = 3  # there are three, of which two are listed
    with pytest.raises(dataset.UserError, match="has 2, use 2 or fewer"):
        dataset.load(fields)


def test_a_stage_that_fails_is_shown(tmp_path):
    options = ["--config=configs/cub.py:2", "--config.latent.dim=1"]
    with pytest.raises(SystemExit) as stopped:
        full_size.run_stage(tmp_path / "run", "train", options)
    first, last = str(stopped.value).splitlines()
    assert first.startswith("error: config.latent.dim is 1")
    assert last == "train: exit status 2"


@pytest.mark.parametrize("steps", [0, 5])
def test_wrong_command_lines(tmp_path, capsys, steps):
    if steps:
        (tmp_path / "cub").mkdir()  # of an earlier call
    with pytest.raises(SystemExit) as stopped:
        full_size.main(["cub", f"--workdir={tmp_path}", f"--steps={steps}"])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--steps must be 1 or more, and" in line and "cub must not exist" in line


def test_table_by_hand():
    rows = [
        {
            "stage": "classify cglo",
            "wall_s": 81.26,
            "peak_gb": 2.345,
            "network": "resnet50",
            "parameters": 23_512_130,
            "batch_size": 16,
            "first_step_s": 31.44,
            "later_steps_s": [4.0, 9.0, 2.0, 6.5],
            "images_per_s": 3.05,
        },
        {"stage": "report", "wall_s": 6.0, "peak_gb": 0.5},
    ]
    _, _, first, second = full_size.table(rows).splitlines()
    assert first == (
        "| classify cglo | resnet50, 23.5 M parameters, batch 16 | 31.4 "
        "| 5.25 (2.00-9.00) | 3.05 | 81.3 | 2.35 |"
    )
    assert second == "| report |  |  |  |  | 6.0 | 0.50 |"


def test_rows_by_hand(tmp_path):
    flat = {"train.batch_size": 16, "classify.batch_size": 8, "classify.network": "net"}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    for method, seconds in ((None, 4.5), ("baseline", 5.5), ("cglo", 6.5)):
        tags = {"stage": "classify", "method": method} if method else {"stage": "train"}
        storage.append_record(
            tmp_path / "timings.jsonl", {**tags, "compile_s": seconds}
        )
    for folder, n in (("checkpoints/seed-0", 5), ("classifiers/cglo-0/checkpoints", 7)):
        model = {"params": {"a": np.ones((n, 3)), "b": np.ones(2)}, "z": np.ones(9)}
        with Checkpoints(tmp_path / folder) as checkpoints:
            checkpoints.save(4, model, {"step": np.ones(1)}, {})
    usage = watched.Usage(0, 12.5, 1.5, [0.3, 0.1, 0.4])
    common = {"wall_s": 12.5, "peak_gb": 1.5}
    steps = {"later_steps_s": [0.3, 0.1, 0.4]}
    assert full_size.create_row(tmp_path, "train", usage) == common | steps | {
        "stage": "train",
        "network": "generator",
        "parameters": 17,
        "batch_size": 16,
        "first_step_s": 4.5,
        "images_per_s": 53.33,
    }
    assert full_size.create_row(tmp_path, "classify cglo", usage) == common | steps | {
        "stage": "classify cglo",
        "network": "net",
        "parameters": 23,
        "batch_size": 8,
        "first_step_s": 6.5,
        "images_per_s": 26.67,
    }
    for stage in ("sample", "report"):  # no steps
        row = full_size.create_row(tmp_path, stage, usage._replace(intervals_s=[]))
        assert row == common | {"stage": stage}


@pytest.mark.slow
def test_cub_is_measured_and_recorded(tmp_path, monkeypatch, capsys):
    runs = ("classify baseline",)  # needs no cGLO; each run is 15 seconds or more
    monkeypatch.setattr(full_size, "RUNS", runs)
    options = [f"--config.{name}={value}" for name, value in SHRUNKEN.items()]
    full_size.main(["cub", f"--workdir={tmp_path}", "--steps=3", *options])
    (row,) = storage.read_records(tmp_path / "full_size.jsonl")
    assert row["stage"] == "classify baseline"
    assert len(row["later_steps_s"]) == 3
    assert 0 < row["first_step_s"] < row["wall_s"]
    assert 0.1 < row["peak_gb"] < 5
    assert row["batch_size"] == 8
    assert row["environment"]["devices"] == 1
    assert str(tmp_path) not in json.dumps(row)
    assert "--config.dataset.split_file=split.txt" in row["options"]
    assert "--config.classify.width=1" in row["options"]
    lines = storage.read_records(tmp_path / "cub" / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    table = capsys.readouterr().out
    assert "| classify baseline | wide_resnet, 0.1 M parameters, batch 8 | " in table


@pytest.mark.slow
def test_every_stage_of_cub_at_its_real_size(tmp_path, monkeypatch):
    monkeypatch.setattr(full_size, "SIDES", (500, 375))
    for name in ("XLA_FLAGS", "NPROC"):  # those of tests are not for real sizes
        monkeypatch.delenv(name)
    full_size.main(["cub", f"--workdir={tmp_path}", "--steps=1"])
    rows = storage.read_records(tmp_path / "full_size.jsonl")
    assert [row["stage"] for row in rows] == list(full_size.RUNS)
    assert all(row["peak_gb"] < 16 for row in rows)
    assert (tmp_path / "cub" / "run" / "report.html").exists()


@pytest.mark.parametrize("name", ["cub", "cifar100"])
def test_everything_else_is_as_configured(tmp_path, name):
    free = {"seeds", "sample.per_class", "sample.projection", "reconstruction.weights"}
    free |= {"dataset.data_dir"}
    free |= {"classify.weights", "dataset.split_file"} if name == "cub" else set()
    free |= {"dataset.holdout"} if name == "cifar100" else set()
    for stage in ("train", "classify"):
        free |= {
            f"{stage}.{k}" for k in ("epochs", "steps_per_epoch", "log_every_steps")
        }
    args = argparse.Namespace(name=name, steps=5, vgg=None, resnet="r", data_dir=None)
    fields = full_size.choose_fields(args, tmp_path)
    assert fields.keys() == free
    assert fields["train.steps_per_epoch"] == fields["classify.steps_per_epoch"] == "6"
    assert fields["reconstruction.weights"] == "random"
    assert fields.get("classify.weights", "r") == "r"
