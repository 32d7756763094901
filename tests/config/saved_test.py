"""Tests of cglo_jax/config/saved.py."""

import json
import pathlib

import pytest

from cglo_jax.config import defaults
from cglo_jax.config import saved as saved_config
from cglo_jax.errors import UserError
from cglo_jax.workdir import directory
from tests.helpers.tiny import create_config


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_is_found_wherever_the_program_is_started(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    directory.create(create_config(), tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("run", "~/run", tmp_path / "run"):
        assert saved_config.find_workdir(name) == tmp_path / "run"


def test_what_is_no_run_is_named(tmp_path):
    missing = tmp_path / "digts"
    message = error_of(saved_config.find_workdir, missing)
    assert message == f"there is no folder {missing}: name the --workdir of a run"
    missing.mkdir()
    message = error_of(saved_config.find_workdir, missing)
    assert (
        message == f"there is no config.json in {missing}: name the --workdir of a run"
    )


def write(workdir: pathlib.Path, **changes: object) -> None:
    fields = {**defaults.flatten(create_config()), **changes}
    (workdir / "config.json").write_text(json.dumps(fields))


def test_the_configuration_that_was_written_is_read(tmp_path):
    changed = create_config(**{"seeds": (4, 2), "latent.noise": "none"})
    directory.create(changed, tmp_path)
    assert saved_config.restore_config(tmp_path, {}) == changed


def test_what_was_trained_counts_and_not_what_is_written_now(tmp_path):
    write(tmp_path, **{"generator.width": 99, "sample.per_class": 5})
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["sample.seed"]  # of an older version: the default
    (tmp_path / "config.json").write_text(json.dumps(saved))
    trained = {"generator.width": 4, "images": "a digest"}
    restored = saved_config.restore_config(tmp_path, trained)
    assert (restored.generator.width, restored.sample.per_class) == (4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent.warmth": 1}, "this version knows no latent.warmth"),
        ({"latent.dim": "many"}, "Could not override field 'dim'"),
        ({"seeds": 3}, "Could not override field 'seeds'"),
    ],
)
def test_what_another_version_wrote_is_refused(tmp_path, changes, message):
    write(tmp_path, **changes)
    error = error_of(saved_config.restore_config, tmp_path, {})
    assert error.startswith(f"{tmp_path / 'config.json'} cannot be used ({message}")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    error = error_of(saved_config.restore_config, tmp_path, {})
    assert error.startswith(f"{tmp_path / 'config.json'} cannot be used (")
