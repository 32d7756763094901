"""What each field of a configuration means: the comments of config.py, read from its source."""

import ast
import functools
import inspect
import io
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

from cglo_jax.config import defaults as config


class Field(NamedTuple):
    """A field of the configuration, or a section of fields.

    Attributes:
      name: dotted, such as 'latent.dim', or that of a section, such as 'latent' or ''.
      default: its value in `config.get_config`, None of a section.
      meaning: its comment, joined over lines.
    """

    name: str
    default: Any
    meaning: str


@functools.cache
def read_fields() -> tuple[Field, ...]:
    """Returns every section and field in the order of config.py, a section before its fields."""
    defaults = config.flatten(config.get_config())
    meanings = read_comments(inspect.getsource(config.get_config))
    return tuple(Field(name, defaults.get(name), text) for name, text in meanings)


def read_comments(source: str) -> list[tuple[str, str]]:
    """Returns (NAME, comment) of each `config.NAME = ...` of a function, "" of `config = ...`.

    A comment stands beside its assignment or on the lines above it.
    """
    above, beside = _comments(source)
    named = []
    for name, first, last in _assignments(source):
        lines = []
        for line in range(first - 1, 0, -1):
            if line not in above:
                break
            lines.insert(0, above[line])
        if last in beside:
            lines.append(beside[last])
        named.append((name, " ".join(lines)))
    return named


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """The comments by their lines: those that fill a line, and those beside code."""
    above, beside = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            place = above if token.line.lstrip().startswith("#") else beside
            place[token.start[0]] = token.string.lstrip("# ")
    return above, beside


def _assignments(source: str) -> Iterator[tuple[str, int, int]]:
    """(NAME, first line, last line) of each `config.NAME = ...`, "" of `config = ...`."""
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.Assign):
            _, _, name = ast.unparse(node.targets[0]).partition(".")
            yield name, node.lineno, node.end_lineno
