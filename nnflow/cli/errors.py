"""How the command line ends when something is wrong: one line on stderr, and a status."""

from __future__ import annotations

import contextlib
import os
import sys

from nnflow.names import harmless


class Misuse(Exception):
    """What was typed makes no sense; the message says what would."""


class Helped(Exception):
    """The help has been printed: there is nothing left to do."""


def complain(message: object, status: int = 2) -> int:
    """One line on stderr, and the exit status."""
    with contextlib.suppress(OSError):
        print(f"nnflow: {harmless(' '.join(str(message).split()))}", file=sys.stderr)
    with contextlib.suppress(OSError, Misuse):
        flush()
    return status


def warn(message: object) -> None:
    """One line on stderr, and the work goes on."""
    print(f"nnflow: warning: {harmless(str(message))}", file=sys.stderr)


def flush() -> None:
    """Let out what was printed; where that fails, drop it, since Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            raise
        raise Misuse(f"what was printed is lost, stdout takes no more: {error.strerror}") from error
