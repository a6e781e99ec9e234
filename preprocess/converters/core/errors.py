"""The exceptions shown to users: invalid arguments or inputs, and work that could not be finished."""

from __future__ import annotations


class InputError(Exception):
    """Invalid arguments or inputs; the message is one sentence for the user.

    It states what was found (with file and byte or line), what was expected and what to do. The command line prints it
    without a traceback and exits with 2.
    """


class UnfinishedError(Exception):
    """Arguments and inputs are valid, but a server failed; finished output is kept.

    The command line prints the message, appends that rerunning the command resumes it, and exits with 1.
    """
