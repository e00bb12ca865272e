"""Machine code: each loop is compiled by itself, kept on disk, and found again by what it was made from.

*What runs is what is kept.* numba links what a function calls into its module as weak symbols; the process that
compiles resolves them to whichever module came first, a later process, which loads the kept one, to its own copies:
other machine code, with sums in another order. Here whatever is linked in becomes private to the module before it is
optimized (`Alone`), so that the same instructions run in the process that compiles and in every one that loads.

*A file is trusted only if it is ours.* It begins with a checksum over its key and contents; one that is cut off,
damaged or foreign is compiled anew. The folder must belong to the user alone, since loading machine code runs it. Where
nothing can be kept, the run goes on without, after one warning.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import secrets
import stat
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit
from platformdirs import user_cache_path

from nnflow.frozen import UNTOLD, fingerprint
from nnflow.internals import (
    Compiler,
    CompileResult,
    Environment,
    FunctionIdentity,
    JITCodeLibrary,
    NullCache,
    dumps,
    lookup_environment,
)
from nnflow.names import Refusal

if getattr(config, "DISABLE_JIT", False):
    raise Refusal("NUMBA_DISABLE_JIT is set, and nnflow's loops cannot run as plain Python: unset it")

Function = TypeVar("Function", bound=Callable[..., Any])
AGE = 90 * 24 * 3600.0  # seconds after which a file that nobody has read is removed
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "ENABLE_AVX")  # numba's own


class CacheWarning(UserWarning):
    """Machine code cannot be kept, and is compiled anew in each process."""


class Library(JITCodeLibrary):
    """A module of machine code that nothing outside it can replace a part of.

    What is linked in gets a name of its own as well: LLVM's engine looks functions up by name, private or not.
    """

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage.name == "linkonce_odr":
                function.linkage, function.name = "internal", f"{function.name}.private"
        super()._optimize_final_module()  # type: ignore[no-untyped-call]


class Alone(Compiler):
    """numba's compiler, into such a module."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, library, *rest)  # type: ignore[no-untyped-call]
        if library is None:
            self.state.library = Library(targetctx.codegen(), "nnflow")  # type: ignore[no-untyped-call]
            self.state.library.enable_object_caching()


def loop(mark: str | None = None, **options: Any) -> Callable[[Function], Function]:
    """Compile an entry point, to be kept under a mark.

    Args:
        mark: Tells all that it is made from apart. Without one, it is the `fingerprint` of the function and the options
            when it is first called.
        **options: numba's.

    Returns:
        A decorator.
    """

    def compiled(function: Function) -> Function:
        made = njit(**{"nogil": True, "error_model": "numpy", "pipeline_class": Alone, **options})(function)
        made._cache = Kept(function, mark, options)
        return cast(Function, made)

    return compiled


class Kept(NullCache):
    """The machine code of one function on disk: one file for each signature, processor and set of versions."""

    def __init__(self, function: Callable[..., Any], mark: str | None, options: dict[str, Any]) -> None:
        self._function = function
        self._mark = mark
        self._options = options

    def _file(self, signature: Any, codegen: Any) -> tuple[Path, bytes] | None:
        """Where an overload is kept, and the key that its file is checked against."""
        if self._mark is None:
            self._mark = fingerprint(self._function, self._options)
        folder = cache_directory()
        if folder is None or self._mark.startswith(UNTOLD):
            return None
        settings = [getattr(config, name, None) for name in SETTINGS]
        key = repr((self._function.__qualname__, self._mark, signature, codegen.magic_tuple(), settings)).encode()
        name = f"{self._function.__name__}-{hashlib.sha256(key).hexdigest()[:32]}.machine"
        return folder / name, key

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The overload, if its file is there and whole."""
        target_context.refresh()
        if (place := self._file(sig, target_context.codegen())) is None:
            return None
        path, key = place
        try:
            whole = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)  # it is still of use
        head, contents = whole[:32], whole[32:]
        if head != hashlib.sha256(key + contents).digest():
            return None
        rebuild: Callable[..., Any] = CompileResult._rebuild
        library, described, own, *rest, others = pickle.loads(contents)
        rebuilt = [_environment(*environment) for environment in (own, *others)]
        return rebuild(target_context, library, described, rebuilt[0], *rest, rebuilt[1:])

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the overload under a name of its own, then rename: whoever reads sees a whole file or none."""
        if data.library.has_dynamic_globals:  # an address of this process
            return
        if (place := self._file(sig, data.codegen)) is None:
            return
        path, key = place
        library, described, own, *rest, others = data._reduce()
        names = [(environment.env_name, environment.consts) for environment in (own, *others)]
        contents = dumps((library, described, names[0], *rest, names[1:]))
        scratch = path.with_suffix(f".{os.getpid()}-{id(data):x}.machine")
        _sweep(path.parent)
        try:
            scratch.write_bytes(hashlib.sha256(key + contents).digest() + contents)
            scratch.replace(path)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            _warn(f"compiled loops cannot be kept in {path.parent} ({error.strerror})")


def _environment(name: str, constants: list[Any]) -> Environment:
    """What compiled code needs of the module a function came from: its constants. The module itself is not imported."""
    found: Environment | None = lookup_environment(name)
    if found is None:
        found = Environment({"__name__": __name__})
        found.consts[:] = constants
        found.env_name = name
        Environment._memo[name] = found
    return found


def cache_directory() -> Path | None:
    """Where machine code is kept: $NNFLOW_CACHE_DIR or the user's cache; None, after a warning, if it cannot be."""
    return _private(Path(os.environ.get("NNFLOW_CACHE_DIR") or user_cache_path("nnflow")))


@cache
def _private(folder: Path) -> Path | None:
    """The folder, made if need be, if it belongs to the user alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        return _warn(f"compiled loops cannot be kept in {folder} ({error.strerror})")
    if hasattr(os, "geteuid") and (
        found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        return _warn(f"compiled loops are not kept in {folder}, where others can write: chmod go-w, or another folder")
    return folder


@cache
def _sweep(folder: Path) -> None:
    """Remove, once in each process that compiles, what was not read for long, and what a killed process left behind."""
    oldest = time.time() - AGE
    for path in folder.glob("*.machine"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()


@cache
def _warn(reason: str) -> None:
    """Once for each reason."""
    warnings.warn(
        f"{reason}; they are compiled anew in each process. Set NNFLOW_CACHE_DIR to a folder of your own.",
        CacheWarning,
        stacklevel=2,
    )


def _number_apart() -> None:
    """Let numba number this process's functions from a random start, since their numbers become symbols on disk.

    Two rules made by one factory have one name. Compiled by two processes that both count from 1, they would be one
    symbol too, and a third process that loads both from the cache would run the first in place of the second.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(60))


_number_apart()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_number_apart)
