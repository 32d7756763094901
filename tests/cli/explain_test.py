"""Tests of cglo_jax/cli/explain.py; tests/cli/flags_test.py has what a whole program answers."""

import runpy

import pytest

from cglo_jax.cli.explain import explain
from cglo_jax.errors import UserError


def raised_in(path, source: str) -> Exception:
    """The error of a file of this source."""
    path.write_text(source)
    with pytest.raises(Exception) as error:
        runpy.run_path(str(path))
    return error.value


def test_the_file_is_named_as_it_was_given_and_the_line_is_that_of_the_file(tmp_path):
    path = tmp_path / "packaged.py"
    error = raised_in(path, "a = 1\n\nb = a / 0\n")
    told = explain(error, "packaged:10", str(path))
    assert told == "packaged, line 3: ZeroDivisionError: division by zero"


def test_an_error_elsewhere_has_no_line(tmp_path):
    error = raised_in(tmp_path / "other.py", "1 / 0")
    told = explain(error, "mine.py", str(tmp_path / "mine.py"))
    assert told == "mine.py: ZeroDivisionError: division by zero"


def test_a_file_that_is_no_text_has_no_line(tmp_path):
    path = tmp_path / "mine.py"
    error = SyntaxError("source code string cannot contain null bytes")
    told = explain(error, "mine.py", str(path))
    assert told == "mine.py: SyntaxError: source code string cannot contain null bytes"


def test_what_a_config_says_itself_is_said_as_it_is():
    error = UserError("shots are a number")
    assert explain(error, "cub:x", "cub.py") == "--config=cub:x: shots are a number"


def test_a_warning_of_a_library_is_not_blamed_on_the_file(tmp_path):
    path, library = tmp_path / "mine.py", tmp_path / "library.py"
    library.write_text(
        "import warnings\ndef f():\n    warnings.warn('old', DeprecationWarning)"
    )
    path.write_text(f"import runpy\nrunpy.run_path({str(library)!r})['f']()\n")
    error = raised_in(path, path.read_text())  # warnings are errors in tests
    assert explain(error, "mine.py", str(path)) == (
        f"a library warned at {library}:3, and Python makes errors of warnings here (-W error or "
        "PYTHONWARNINGS): DeprecationWarning: old; leave that out for this program, or ignore "
        "this one: -W 'ignore::DeprecationWarning' after it"
    )
    error = raised_in(path, "import warnings\nwarnings.warn('mine')\n")
    assert explain(error, "mine.py", str(path)) == "mine.py, line 2: UserWarning: mine"


def test_long_texts_are_shortened():
    told = explain(ValueError("x" * 10_000), "mine.py", "mine.py")
    assert len(told) < 500
