"""The one exception that a person using the program can cause."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what the program was given, in one line with what to do about it.

    `main` prints the message without a traceback and exits with status 2.
    """


class UnusableFiles(UserError):
    """A folder of images that is refused, and each file of it that cannot be used.

    Attributes:
      skipped: "file: why" for each of them.
    """

    def __init__(self, message: str, skipped: Sequence[str]):
        super().__init__(message)
        self.skipped = tuple(skipped)


def printable(text: object) -> str:
    """Escapes what would break a line, or cannot be printed: files' names may have any of it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def encodable(text: str) -> str:
    """Escapes what UTF-8 cannot have: names of files may have any bytes."""
    return text.encode(errors="backslashreplace").decode()


def shorten(text: str) -> str:
    """Leaves the middle of a long text out: values may have any length."""
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"
