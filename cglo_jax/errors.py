"""The one exception that a person using the program can cause."""


class UserError(ValueError):
    """A mistake in what the program was given, told in one line that says what to do.

    `main` prints the message without a traceback and exits with status 2.
    """
