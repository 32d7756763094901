"""The values of fields as people type them: `8`, `1e3`, `off`, `(baseline, cglo)`, `#80c0ff`."""

import re
from typing import Any

from cglo_jax.errors import UserError, shorten

NAMED_COLOURS = {"white": "#ffffff", "black": "#000000", "grey": "#808080"}
_YES = ("true", "t", "1", "yes", "y", "on")
_NO = ("false", "f", "0", "no", "n", "off")
_BRACKETS = {"(": ")", "[": "]"}
# What word processors make of quotes, minus signs and spaces.
_PLAIN = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e", '"')
    | dict.fromkeys("\u2018\u2019\u201a", "'")
    | dict.fromkeys("\u2212\u2013", "-")
    | {"\u00a0": " "}
)


def parse(name: str, text: str, default: Any) -> Any:
    """Returns the value that `text` means for a field.

    Args:
      name: the field's dotted name.
      text: as typed.
      default: the field's default; the value gets its type, a tuple for a list.

    Raises:
      UserError: `text` is not a value of that type; the line names the field and what it may be.
    """
    if isinstance(default, str):
        return text
    if isinstance(default, list):
        return _parse_list(name, text, default)
    plain = text.translate(_PLAIN).strip()
    try:
        return _parse_one(plain, default)
    except ValueError as why:
        raise UserError(
            f"config.{name} is {shorten(repr(text))}: it must be {why}"
        ) from None


def parse_colour(text: str) -> tuple[int, int, int]:
    """Returns the red, green and blue of "#rrggbb", 0 to 255.

    Raises:
      ValueError: it is not "#rrggbb".
    """
    if len(text) != 7 or text[0] != "#" or not text.isascii():
        raise ValueError(f"{text!r} is not #rrggbb")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def is_bool_word(text: str) -> bool:
    """Whether a text is one of the words that mean true or false."""
    return text.strip().lower() in (*_YES, *_NO)


def _parse_one(text: str, default: Any) -> Any:
    """Reads one value of the type of `default`; raises ValueError with what it must be."""
    if isinstance(default, bool):
        if not is_bool_word(text):
            raise ValueError("true or false")
        return text.lower() in _YES
    if isinstance(default, int):
        return _parse_int(text)
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            point = ", with a point" if re.fullmatch(r"-?\d+,\d+", text) else ""
            raise ValueError(f"a number{point}") from None
    return text


def _parse_int(text: str) -> int:
    """Reads 8, 1_000 and 1e3."""
    if len(text) > 100:
        raise ValueError("a smaller number")
    try:
        return int(text)
    except ValueError:
        if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE]\+?\d{1,2}", text, re.ASCII):
            value = float(text)
            if value.is_integer():
                return int(value)
        raise ValueError("a whole number") from None


def _parse_list(name: str, text: str, default: list[Any]) -> tuple[Any, ...]:
    """Reads values separated by commas or spaces, with or without brackets and quotes."""
    example = ",".join(map(str, default)) or "npz,tfds"
    write = f"write it as --config.{name}={example}"

    def refuse(why: str) -> UserError:
        return UserError(f"config.{name} is {shorten(repr(text))}: {why}: {write}")

    plain = text.translate(_PLAIN).strip()
    if whole := re.fullmatch("([\"'])([^\"']*)\\1", plain):
        plain = whole[2].strip()
    if plain[:1] in _BRACKETS:
        if not plain.endswith(_BRACKETS[plain[0]]) or len(plain) < 2:
            raise refuse(f"its {plain[0]} is never closed")
        plain = plain[1:-1].strip()
    if strange := re.search(r"[][(){}]", plain):
        raise refuse(f"there is a {strange[0]} too many")
    of_type = default[0] if default else ""
    values = []
    plain = plain.removesuffix(",").rstrip()
    for part in re.split(r"\s*,\s*|\s+", plain) if plain else []:
        word = part
        if quote := re.match("[\"']", part):
            if len(part) < 2 or not part.endswith(quote[0]):
                raise refuse(f"its {quote[0]} is never closed")
            word = part[1:-1]
        elif re.search("[\"']", part):
            raise refuse(f"there is a quote too many in {part}")
        if not word:
            raise refuse("one of its values is empty")
        try:
            values.append(_parse_one(word, of_type))
        except ValueError as why:
            raise refuse(f"each of its values must be {why}") from None
    return tuple(values)
