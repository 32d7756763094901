"""Tests of cglo_jax/cli/help.py."""

import re

import pytest

from cglo_jax.cli.help import FLAGS, STAGES, describe_fields, overview
from cglo_jax.config import presets
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.fields import FIELDS
from cglo_jax.errors import UserError

DEFAULTS = flatten(get_config())


def fold(text: str) -> str:
    """The text with one space where there are line breaks and indents."""
    return " ".join(text.split())


def listed(text: str) -> list[str]:
    """The fields that --stage=help lists."""
    return re.findall(r"^  ([\w.]+) = ", text, re.MULTILINE)


def error_of(*words: str) -> str:
    with pytest.raises(UserError) as error:
        describe_fields(words, {}, 80)
    return str(error.value)


def test_overview_has_every_stage_and_flag_with_its_line():
    text = fold(overview("cglo-jax", 80))
    for name, meaning in STAGES.items():
        assert f" {name} {meaning}" in text
    for name, meaning in FLAGS.items():
        assert re.search(rf" --{name}(=[A-Z:]+)? {re.escape(meaning)}", text), name


def test_overview_has_every_configuration_that_comes_along():
    text = fold(overview("cglo-jax", 80))
    for name in presets.names():
        assert f" {name} " in text
    assert "folder Your own images: one sub-folder per class." in text


def test_overview_has_a_dozen_fields_with_default_and_meaning():
    text = fold(overview("cglo-jax", 80))
    often = text.partition("with their defaults")[2].partition("Examples")[0]
    assert sum(f" {name}=" in often for name in DEFAULTS) == 12
    assert " latent.dim=128 d, dimension of the codes z " in text
    assert " dataset.path='' for " in text
    assert " seeds=0,1,2 " in text
    assert "[P" not in text  # it does not say what that means


def test_overview_names_the_program_as_it_was_started():
    assert "cglo-jax --config=digits\n" in overview("cglo-jax", 80)
    assert "cglo-jax" not in overview("python -m cglo_jax.main", 80)


@pytest.mark.parametrize("width", [40, 80, 100])
def test_lines_are_no_wider_than_the_terminal(width):
    text = overview("cglo-jax", width) + describe_fields([], DEFAULTS, width)
    # Commands and lists of values are not broken.
    commands = re.compile(r"    cglo-jax |.*=| *[\w,]+$")
    wide = [line for line in text.splitlines() if len(line) > width]
    assert [line for line in wide if not commands.match(line)] == []
    assert max(map(len, text.splitlines())) > width - 10


def test_all_fields_are_listed_with_type_default_and_meaning():
    text = describe_fields([], {}, 80)
    assert sorted(listed(text)) == sorted(DEFAULTS)
    assert "  latent.dim = 128  (whole number)\n      d, dimension of" in text
    assert "  classify.flip = True  (true or false)\n" in text
    assert "  train.code_lr = 0.001  (number)\n" in text
    assert "  dataset.path = ''  (text)\n" in text
    assert "  sample.t_values = 0.1,0.2,0.3,0.4  (list)\n" in text
    for field in FIELDS.values():
        assert field.description in fold(text)
    assert "\nlatent: The codes z" in text


def test_sources_are_not_broken_over_lines():
    for width in range(40, 101):
        assert not re.search(r"\[P\s*\n", describe_fields([], {}, width))


def test_only_values_that_differ_are_shown():
    values = DEFAULTS | {"latent.dim": 64, "seeds": [7], "dataset.path": "a\nb\udcff"}
    text = describe_fields([], values, 80)
    assert "  latent.dim = 128  (whole number; here 64)\n" in text
    assert "  seeds = 0,1,2  (list; here 7)\n" in text
    assert "here a\\nb\\udcff)" in text  # it can be printed
    assert text.count("; here ") == 3


def test_words_choose_fields_by_name():
    assert listed(describe_fields(["latent.dim"], {}, 80)) == ["latent.dim"]
    assert listed(describe_fields(["--config.latent.DIM"], {}, 80)) == ["latent.dim"]
    section = {name for name in DEFAULTS if name.startswith("mixmatch.")}
    assert set(listed(describe_fields(["mixmatch"], {}, 80))) == section
    both = describe_fields(["report.confidence", "seeds"], {}, 80)
    assert listed(both) == ["seeds", "report.confidence"]
    assert "latent: " not in both  # a section of which nothing is listed


def test_words_that_are_in_no_name_choose_fields_by_meaning():
    names = listed(describe_fields(["Nesterov"], {}, 80))
    assert names == ["classify.lr", "classify.momentum"]


def test_a_word_that_is_nowhere_is_refused():
    nowhere = "in its name or its meaning"
    assert error_of("latent", "zzz") == (
        f"no field has 'zzz' {nowhere}: --stage=help lists all"
    )
    assert error_of("latnet.dim") == (
        f"no field has 'latnet.dim' {nowhere}: did you mean 'latent.dim'?"
    )
    assert error_of("").startswith("no field has '' ")
