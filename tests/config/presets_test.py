"""Tests of cglo_jax/config/presets.py."""

import pathlib

import pytest

from cglo_jax.config import presets
from cglo_jax.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def test_names_are_those_of_the_folder():
    assert presets.names() == sorted(p.stem for p in CONFIGS.glob("*.py"))
    assert {"cifar10", "cifar100", "cub", "digits", "folder"} <= set(presets.names())


@pytest.mark.parametrize("argument", ["", ":", ":10", ":10,cpu", ":a:b"])
def test_a_name_becomes_a_path_with_the_argument_it_had(argument):
    assert presets.find(f"cub{argument}") == f"{CONFIGS / 'cub.py'}{argument}"


def test_a_file_that_exists_counts_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a run, or images: no configuration
    assert presets.find("digits") == str(CONFIGS / "digits.py")
    (tmp_path / "cub").write_text("")  # nor is a file of another kind
    assert presets.find("cub:3") == f"{CONFIGS / 'cub.py'}:3"
    for mine in ("digits.py", "config.json"):
        (tmp_path / mine).write_text("")
        assert presets.find(f"{mine}:3") == f"{mine}:3"


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    (tmp_path / "cglo_jax" / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()  # of another package
    (inside := tmp_path / "cglo_jax" / "configs" / "mine.py").write_text("")
    monkeypatch.setattr(presets, "_PACKAGE", tmp_path / "cglo_jax")
    assert presets.names() == ["mine"]
    assert presets.find("mine") == str(inside)


@pytest.mark.parametrize("given", ["nope", "configs/nope.py", "digits.py", "/", "cub/"])
def test_anything_else_is_refused_with_the_names_there_are(given):
    with pytest.raises(UserError) as error:
        presets.find(f"{given}:10")
    names = "cifar10, cifar100, cub, digits, folder"
    guess = "did you mean 'digits'? Or " if given == "digits.py" else ""
    assert str(error.value) == (
        f"there is no configuration file {given!r}: {guess}give a file that exists, or one of "
        f"{names}"
    )
