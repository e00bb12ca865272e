"""The process around the command line: whatever happens in it, it ends soon, with a status and one line that says why.

Python hears a signal between two of its own instructions. A kernel, an eigenvalue solver or LLVM may not come back to
one for minutes, a crash in native code says nothing, and so the work is done by a forked child, and the parent, which
imports nothing slow, waits for signals and for the child's end. A signal is handed to the child, which has a second to
clean up; the second signal kills it at once. The child dies with its parent. (Linux; elsewhere the work is done here.)
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Collection
from pkgutil import resolve_name
from typing import NoReturn

MAIN = "nnflow.__main__:main"  # loaded by name, in the child: to import it takes long enough to be interrupted
GRACE = 1.0  # seconds a child has to clean up
HOUR = 3600.0  # for how long nothing may happen at a time
ECHO = 0.1  # seconds within which a second signal is the same one: timeout(1) sends it to the process and to its group
INTERRUPTED = 130
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_heard: list[int] = []  # the signals that have interrupted this process


def command() -> int:
    """Run the command line; its exit status: as `nnflow.__main__.main` says, or 128 + n for what signal n has ended."""
    _open_streams()
    if sys.stdout is None:
        return _say("stdout is closed; to drop what is printed, send it to /dev/null", 2)
    try:
        os.getcwd()
    except OSError as error:
        return _say(f"the current folder is gone ({error.strerror}): change to one that is there", 2)
    return _work() if sys.platform != "linux" else _apart()


def _apart() -> int:
    """The exit status of the work, done by a child."""
    heard = {s for s in ENDING if signal.getsignal(s) != signal.SIG_IGN}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    waited = heard | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)  # kept until they are waited for, here or in the child
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        return _say(f"cannot start a process: {error.strerror}", 2)
    if child:
        return _await(child, waited)
    _die_with(parent)
    for number in heard:
        signal.signal(number, _interrupt)
    return _work(waited)


def _open_streams() -> None:
    """Give the number of a closed stream to the null device, lest a data file get it; let text through as it can be."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # or print(file=sys.stderr) goes to stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# -- the child -----------------------------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, even by SIGKILL."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(INTERRUPTED)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Unwind what runs, once; what others print on the way would only hide the parent's one line."""
    _heard.append(number)
    _ignore_signals()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)


def _work(blocked: Collection[signal.Signals] = ()) -> int:
    """Run the command. An interrupted one ends here: its threads may be deep in a kernel.

    It was interrupted whatever became of KeyboardInterrupt on the way: some libraries make another error of it.

    Returns:
        The exit status.
    """
    status = INTERRUPTED
    try:
        if blocked:  # from here on they may come
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        status = resolve_name(MAIN)()
        _ignore_signals()  # the work is done
    except KeyboardInterrupt:
        status = INTERRUPTED
    except (ImportError, OSError, MemoryError) as error:
        status = _say(f"cannot start: {type(error).__name__}: {error}", 2)
    except BaseException:
        if not _heard:
            raise
    if _heard or status == INTERRUPTED:
        os._exit(INTERRUPTED)
    return status


# -- the parent ----------------------------------------------------------------------------------------------------


def _await(child: int, waited: set[signal.Signals]) -> int:
    """Wait for the child's end; the first signal that comes meanwhile is handed to it, the second kills it."""
    first, began = 0, 0.0
    while True:
        heard = signal.sigtimedwait(waited, GRACE if first else HOUR)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _last_word(os.waitstatus_to_exitcode(status), first)
        number = 0 if heard is None else heard.si_signo
        if number == signal.SIGCHLD:
            continue
        if first and (not number or time.monotonic() - began > ECHO):
            os.kill(child, signal.SIGKILL)
        elif number and not first:
            first, began = number, time.monotonic()
            os.kill(child, number)


def _last_word(code: int, first: int) -> int:
    """The exit status of a child that has ended, after the signal `first` (0: none), and a line unless it had its own.

    Returns:
        The status; a child that had finished when the signal came keeps its own.
    """
    if first and code in (INTERRUPTED, -signal.SIGKILL, -first):
        how = "interrupted" if first == signal.SIGINT else f"ended by {signal.Signals(first).name}"
        return _say(f"{how}; no half-written file is left", 128 + first)
    if code >= 0:
        return code
    why = "killed, most likely for lack of memory" if code == -signal.SIGKILL else "crashed in native code"
    return _say(f"{why} ({signal.Signals(-code).name}); no half-written file is left", 128 - code)


def _say(message: str, status: int) -> int:
    """One line on stderr, past whatever a progress bar has left there."""
    line = f"nnflow: {' '.join(message.split())}\n"
    with contextlib.suppress(OSError):
        os.write(2, ("\n" * os.isatty(2) + line).encode())
    return status
