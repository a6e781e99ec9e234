"""The exceptions a user sees: wrong arguments or inputs, and work that others did not let finish."""

from __future__ import annotations


class InputError(Exception):
    """Arguments or inputs that cannot be converted; the text is one sentence for the person at the keyboard.

    It says what was found (with file and byte or line), what was expected and what to do. The command line prints it
    without a traceback and exits with 2.
    """


class UnfinishedError(Exception):
    """Arguments and inputs are right, but a server did not do its part; what is finished stays.

    The text is a sentence without an end. The command line prints it, says that the same command goes on, and exits
    with 1.
    """
