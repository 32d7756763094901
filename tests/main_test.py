"""Tests of cglo_jax/main.py without its stages; tests/end_to_end_test.py has them."""

import pytest
from conftest import create_config

from cglo_jax import main
from cglo_jax.command_line import Command
from cglo_jax.errors import UserError


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Returns what a call of a stage on digits prints before the stage begins."""
    monkeypatch.setattr(main, "_run_stages", lambda *_: None)
    monkeypatch.setattr(main.interrupts, "begin", lambda: None)

    def run(stage: str, **changes: object) -> str:
        main.main(Command(create_config(**changes), tmp_path / "run", stage))
        return capsys.readouterr().out

    return run


def test_a_cglo_that_no_method_needs_is_told_of(call):
    told = "no method of config.classify.methods uses cGLO"
    without = {"classify.methods": ("baseline", "pixelmix")}
    assert told in call("all", **without)
    assert told not in call("classify", **without)
    assert told not in call("all")


def test_cutout_of_whole_images_is_refused_before_anything_is_written(call, tmp_path):
    fields = {"classify.methods": ("baseline", "cutout"), "classify.cutout_size": 8}
    for stage in ("all", "classify"):
        with pytest.raises(UserError, match="cutout_size is 8, but images have 8x8"):
            call(stage, **fields)
    assert not (tmp_path / "run").exists()
    assert "data: " in call("sample", **fields)  # which reads nothing of it
