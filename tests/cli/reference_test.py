"""Tests of cglo_jax/cli/reference.py."""

import pathlib

from cglo_jax.cli.reference import describe_fields, update

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_reference_has_the_fields_of_today():
    page = PAGE.read_text("utf-8")
    assert update(page) == page, (
        "run python -m cglo_jax.cli.reference docs/reference.md"
    )
    assert describe_fields() in page


def test_a_row_has_default_range_meaning_and_source():
    rows = describe_fields().splitlines()
    (dim,) = [row for row in rows if row.startswith("| `latent.dim` |")]
    assert dim.startswith("| `latent.dim` | `128` | whole number, at least 2 | ")
    assert dim.endswith(" [P 4.3] |")
    (seeds,) = [row for row in rows if row.startswith("| `seeds` |")]
    assert "2\\*\\*32" in seeds  # not bold


def test_what_is_around_the_comments_stays():
    page = "a\n<!-- fields: by x -->\nold\n<!-- end of fields -->\nb\n"
    new = update(page)
    assert new.startswith("a\n<!-- fields: by x -->\n\n### The run\n")
    assert new.endswith("|\n\n<!-- end of fields -->\nb\n")
    assert "\nold\n" not in new and update(new) == new
