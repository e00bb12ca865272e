"""One peer in a process of its own: no peer slows another down, or needs the same versions of anything.

`python serve.py NAME` loads `NAME.py` from this folder and answers requests, pickled, from standard input on standard
output. A request (function, arguments, count) calls a function of that file and is answered with its result or, if
count > 0, with the seconds that one call took: the median of so many. What the peer prints goes to standard error.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import time
import traceback
import warnings
from statistics import median
from typing import Any


def answer(module: Any, function: str, arguments: dict[str, Any], count: int) -> Any:
    called = getattr(module, function)
    if count == 0:
        return called(**arguments)
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        called(**arguments)
        taken.append(time.perf_counter() - began)
    return median(taken)


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # the peers' own

    def say(kind: str, value: Any) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    try:
        module = importlib.import_module(name)
    except Exception as error:
        say("missing", f"{type(error).__name__}: {error}")
        return
    say("ready", os.getpid())
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            say("result", answer(module, *request))
        except Exception:
            say("failed", traceback.format_exc())


if __name__ == "__main__":
    main(sys.argv[1])
