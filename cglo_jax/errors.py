"""The exceptions that a person using the program can cause, and how their texts are made printable."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what the program was given, in one line with what to do about it.

    `main` prints the message without a traceback and exits with status 2.
    """


class UnusableFiles(UserError):
    """A folder of images that is refused, with each of its files that cannot be used.

    Attributes:
      skipped: "file: why" for each file.
    """

    def __init__(self, message: str, skipped: Sequence[str]):
        super().__init__(message)
        self.skipped = tuple(skipped)


def printable(text: object) -> str:
    """Returns the text of an object with escapes for line breaks and for what cannot be printed.

    Names of files may contain both.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def encodable(text: str) -> str:
    """Returns a text with escapes for what UTF-8 cannot encode: names of files may have any bytes."""
    return text.encode(errors="backslashreplace").decode()


def shorten(text: str) -> str:
    """Returns a text of at most 400 characters: of a longer one the middle is left out."""
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"
