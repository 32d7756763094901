"""Tests of cglo_jax/config/values.py; tests/cli/flags_test.py has what whole command lines mean."""

import pytest

from cglo_jax.config.values import parse
from cglo_jax.errors import UserError


def test_a_text_is_taken_as_it_is():
    assert parse("dataset.path", " (a,b) ", "") == " (a,b) "


@pytest.mark.parametrize(
    "text", ["1e-3", "1.5e0", "0x10", "1 0", "nan", "--1", "True", ""]
)
def test_what_is_no_whole_number(text):
    with pytest.raises(UserError, match="must be a whole number"):
        parse("latent.dim", text, 8)


def test_digits_without_end_are_refused_at_once():
    with pytest.raises(UserError, match="must be a smaller number"):
        parse("latent.dim", "9" * 5000, 8)


def test_values_of_lists_have_the_type_of_the_default():
    assert parse("sample.t_values", "0 1", [0.5]) == (0.0, 1.0)
    assert all(type(v) is float for v in parse("sample.t_values", "(0,1)", [0.5]))
    assert parse("sample.export", "1,2", []) == ("1", "2")
