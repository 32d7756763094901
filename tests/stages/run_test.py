"""Tests of cglo_jax/stages/run.py without the stages; tests/programs/end_to_end_test.py has them."""

import pytest

from cglo_jax.data import dataset
from cglo_jax.errors import UserError
from cglo_jax.process import interrupts
from cglo_jax.stages import run
from cglo_jax.training.checkpoints import Checkpoints
from cglo_jax.workdir.results import read_result, result_path
from cglo_jax.workdir.trained import checkpoint_dir
from tests.helpers.tiny import create_config


def test_more_devices_than_there_are_are_refused_before_images_are_read(
    call, monkeypatch
):
    monkeypatch.setattr(dataset, "load", None)
    for stage in ("all", "train", "classify"):
        with pytest.raises(
            UserError, match="devices is 9, but this machine has 4 cpu dev"
        ):
            call(stage, devices=9)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Returns what a call of a stage on digits prints before the stage begins."""
    monkeypatch.setattr(run, "_run_stages", lambda *_: None)
    monkeypatch.setattr(interrupts, "begin", lambda: None)

    def run_stage(stage: str, **changes: object) -> str:
        run.run_command(create_config(**changes), tmp_path / "run", stage)
        return capsys.readouterr().out

    return run_stage


def test_a_cglo_that_no_method_needs_is_reported(call):
    note = "no method of config.classify.methods uses cGLO"
    without = {"classify.methods": ("baseline", "pixelmix")}
    assert note in call("all", **without)
    assert note not in call("classify", **without)
    assert note not in call("all")


def test_cutout_of_whole_images_is_refused_before_anything_is_written(call, tmp_path):
    fields = {"classify.methods": ("baseline", "cutout"), "classify.cutout_size": 8}
    for stage in ("all", "classify"):
        with pytest.raises(UserError, match="cutout_size is 8, but images have 8x8"):
            call(stage, **fields)
    assert not (tmp_path / "run").exists()
    assert "data: " in call("sample", **fields)  # which reads nothing of it


def test_each_seed_has_its_own_images_from_training_to_the_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(interrupts, "begin", lambda: None)
    changes = {"seeds": (0, 1), "dataset.shots": 3, "dataset.split_per_seed": True}
    config, workdir = create_config(**changes), tmp_path / "run"
    run.run_command(config, workdir, "all")
    assert "each seed draws its own labelled images" in capsys.readouterr().out
    for seed in (0, 1):
        fields = create_config(**changes | {"dataset.split_seed": seed}).dataset
        fields.split_per_seed = False
        train_set, test_set = dataset.load(fields)
        with Checkpoints(checkpoint_dir(workdir, seed), read_only=True) as saved:
            assert saved.meta(saved.latest_step())["images"] == train_set.digest
        for method in config.classify.methods:
            result = read_result(result_path(workdir, method, seed))
            assert result["fingerprint"]["images"] == train_set.digest
            assert result["fingerprint"]["test_images"] == test_set.digest
        cards = (f"checkpoints/seed-{seed}", f"classifiers/cglo-{seed}")
        for card in cards:
            assert f"split seed {seed}," in (workdir / card / "README.md").read_text()
    assert "which each seed drew anew" in (workdir / "report.md").read_text()
    run.run_command(config, workdir, "all")  # finds everything as it is
    told = capsys.readouterr().out
    assert told.count("done before") == 2 * len(config.classify.methods)
    config.dataset.split_per_seed = False
    with pytest.raises(UserError, match=r"split_per_seed=True, this call has False"):
        run.run_command(config, workdir, "all")
