"""The one exception a user sees: wrong arguments or wrong inputs."""

from __future__ import annotations


class InputError(Exception):
    """Arguments or inputs that cannot be converted; the text is one sentence for the person at the keyboard.

    It says what was found (with file and byte or line), what was expected and what to do. The command line prints it
    without a traceback and exits with 2.
    """
