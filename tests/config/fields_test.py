"""Tests of cglo_jax/config/fields.py."""

import re

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.checks import EXPORTS, SIDES
from cglo_jax.config.fields import FIELDS, ROWS, SECTIONS, Section


def test_no_name_is_there_twice():
    assert len(FIELDS) + len(SECTIONS) == len(ROWS)


def test_fields_stand_below_their_section():
    heading = None
    for row in ROWS:
        if isinstance(row, Section):
            heading = row.name
        else:
            assert row.section == heading, row.name


def test_every_default_may_be():
    for field in FIELDS.values():
        value = field.default
        value = list(value) if isinstance(value, tuple) else value
        assert field.check is None or field.check.holds(value), field.name


def test_the_source_follows_the_meaning():
    assert FIELDS["latent.dim"].description.endswith(" [P 4.3]")
    assert FIELDS["devices"].description == FIELDS["devices"].meaning


def test_every_meaning_can_be_read_by_itself():
    for field in FIELDS.values():
        words = field.meaning.split()
        assert len(words) >= 2, field
        assert words[:2] not in (["of", "both"], ["of", "it"], ["as", "above"]), field


def test_choices_are_in_the_meaning():
    for field in FIELDS.values():
        if field.check and field.check.want.startswith("one of "):
            for choice in field.check.want.removeprefix("one of ").split(", "):
                assert choice in field.meaning, field.name


def test_meanings_list_what_there_is_to_choose_from():
    listed = re.match(r"any of ([\w, ]+);", FIELDS["classify.methods"].meaning)[1]
    assert sorted(listed.split(", ")) == sorted(METHODS)
    exports = re.findall(r'"(\w+)"', FIELDS["sample.export"].meaning)
    assert exports == list(EXPORTS)
    sides = re.search(r": ([\d, ]+), \.\.\.", FIELDS["dataset.size"].meaning)[1]
    assert [int(side) for side in sides.split(", ")] == list(
        SIDES[: sides.count(",") + 1]
    )
