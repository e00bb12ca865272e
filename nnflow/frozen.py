"""What a function means now: a copy whose constants and helpers no longer change, and a fingerprint of all of it.

numba compiles a function when it is first called, and reads its globals, closures and helpers then: a constant that was
changed, or a helper that was defined anew, since a map was made would slip in. So a map keeps a frozen copy of each of
its functions: their code, with the constants, arrays and helpers that they name at that moment, all the way down. Two
copies of the same meaning are one object, so that it is compiled once a process.

The fingerprint names the machine code on disk. It knows functions, compiled functions (`njit`, `vectorize`,
`intrinsic`), arrays, numbers, texts, containers, enumerations and modules by what they hold; numpy, numba and the
standard library by their versions. Of anything else the contents cannot be told: such code is not kept on disk.
What others have registered with numba (`overload`) may be behind any name or operator, and so is part of all of it.
"""

from __future__ import annotations

import builtins
import dataclasses
import dis
import enum
import hashlib
import os
import random
import secrets
import sys
import types
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import numba
import numpy as np
from numba.core.types import Type

from nnflow.internals import CFunc, Compiler, Dispatcher, DUFunc, GUFunc, _Intrinsic, builtin_registry
from nnflow.names import Refusal
from nnflow.reads import ATTRIBUTE, attributes, codes, globals_of
from nnflow.unassigned import Careful

Thing = TypeVar("Thing")
NUMBERS = (int, float, complex, bool, str, bytes)
PLAIN = (*NUMBERS, type(None), type(...), slice, range, np.dtype, Type, types.CodeType)
COMPILED = (types.FunctionType, Dispatcher, DUFunc)
LIBRARIES = ("numba", "llvmlite", "numpy")
MACHINERY = ("arithmetic", "exchange", "frozen", "machine", "reads", "straight", "unassigned")
DEAF = (GUFunc, CFunc)
UNCHECKED = {"flat": ATTRIBUTE, **dict.fromkeys(("as_strided", "carray", "farray"), ("LOAD_GLOBAL", *ATTRIBUTE))}
UNFINISHED = b"is being read"
UNTOLD = "?"  # how the fingerprint of something begins whose contents cannot be told

_copies: WeakValueDictionary[bytes, Any] = WeakValueDictionary()  # digest -> its one frozen copy
_digests: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()  # frozen copy -> digest


def frozen(thing: Thing, checked: bool = False) -> Thing:
    """A copy of a function (or of what holds functions) as it is now; what is frozen already comes back itself.

    Args:
        thing: A function, or what holds functions.
        checked: Compiled helpers look whether an index is within its array, unless they are this package's own.

    Returns:
        The copy.
    """
    copy: Thing = _Reading(checked=checked).read(thing)[0]
    return copy


def plain(function: Thing) -> Thing:
    """A frozen copy without compiled helpers, which runs as plain Python all the way down."""
    copy: Thing = _Reading(interpreted=True).read(function)[0]
    return copy


def own(function: Any) -> bool:
    """Whether a function is this package's own."""
    return (function.__module__ or "").partition(".")[0] in ("nnflow", "nnflow_plugins") and _at_home(function)


def fingerprint(*things: Any) -> str:
    """A name for things with all they depend on; where that cannot be told, one of its own that begins with "?"."""
    reading = _Reading()
    digests = [*(reading.read(thing)[1] for thing in things), *map(reading.registered, _registered())]
    if reading.untold:
        return f"{UNTOLD}{secrets.token_hex(12)}"
    return _digest(_versions(), *digests).hex()[:24]


def _registered() -> tuple[Any, ...]:
    """The templates that others than numba have registered with it."""
    known = builtin_registry
    return _foreign(len(known.functions), len(known.attributes), len(known.globals))


@lru_cache(maxsize=1)
def _foreign(*counts: int) -> tuple[Any, ...]:
    """Those of them while there are so many, for none is ever removed."""
    held = [
        *builtin_registry.functions,
        *builtin_registry.attributes,
        *(entry[1] for entry in builtin_registry.globals),
    ]
    return tuple(template for template in held if not _numbas(template))


def _numbas(template: Any) -> bool:
    """Whether a template is numba's own, or that of an intrinsic, which is read where it is named."""
    if (function := getattr(template, "_overload_func", None)) is not None:
        return str(function.__code__.co_filename).startswith(os.path.dirname(numba.__file__) + os.sep)
    return (getattr(template, "__module__", None) or "").partition(".")[0] in ("numba", "abc")


@cache
def _versions() -> bytes:
    """Of Python, of the libraries, and of what this package itself makes machine code with."""
    package = files("nnflow")
    paths = [*(package / f"{name}.py" for name in MACHINERY), *(package / "compiled").iterdir()]
    texts = [path.read_bytes() for path in sorted(paths, key=str) if path.name.endswith(".py")]
    return _digest(repr((sys.version, *map(version, LIBRARIES))).encode(), *texts)


def _digest(*parts: bytes) -> bytes:
    """A hash of parts, each with its length, so that no two lists of parts are one text."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()


class _Reading:
    """One walk through things: each is copied and digested once; `interpreted`: compiled functions as plain ones."""

    def __init__(self, interpreted: bool = False, checked: bool = False) -> None:
        self.interpreted = interpreted
        self.checked = checked
        self.seen: dict[int, tuple[Any, bytes]] = {}
        self.alive: list[Any] = []  # what was read, so that its id stays its own
        self.within = 0  # functions that are being read
        self.untold: list[Any] = []  # what has contents that cannot be told

    def read(self, thing: Any) -> tuple[Any, bytes]:
        """(frozen copy, digest)."""
        if id(thing) not in self.seen:
            self.alive.append(thing)
            self.seen[id(thing)] = self._read(thing)
        copy, digest = self.seen[id(thing)]
        if digest == UNFINISHED:  # numba links what calls itself by an address of this process
            self.untold.append(thing)
        return copy, digest

    def _read(self, thing: Any) -> tuple[Any, bytes]:
        if isinstance(thing, COMPILED) and not self.interpreted and thing in _digests:
            return thing, _digests[thing]
        for kinds, reader in self._READERS:
            if isinstance(thing, kinds):
                return reader(self, thing)
        return self._record(thing) if dataclasses.is_dataclass(thing) else self._other(thing)

    def registered(self, template: Any) -> bytes:
        """The digest of what was registered with numba: it runs as plain Python when what calls it is compiled."""
        function, key = getattr(template, "_overload_func", None), template.key
        if function is None:
            self.untold.append(template)
            return b"untold"
        head = repr((getattr(key, "__qualname__", str(key)), getattr(template, "_attr", None))).encode()
        self.within = -sys.maxsize  # what it calls may be plain, too
        return _digest(head, *(self.read(thing)[1] for thing in (function, getattr(template, "_jit_options", None))))

    def _all(self, things: Iterable[Any]) -> tuple[list[Any], bytes]:
        pairs = [self.read(thing) for thing in things]
        return [copy for copy, _ in pairs], _digest(*(digest for _, digest in pairs))

    # -- functions -------------------------------------------------------------------------------------------------

    def _function(self, whole: Any, function: Any, wrap: Callable[[Any], Any]) -> tuple[Any, bytes]:
        """A function, and what `wrap` makes of its copy: `whole`, the compiled function around it.

        Returns:
            The copy and its digest. The copy stands in `seen` before what it names is read: a function may name itself.
        """
        if self.checked and not own(function):
            _refuse_unchecked(function)
            _refuse_draws(function)
        (defaults, keywords), third = self._all((function.__defaults__, function.__kwdefaults__))
        copy = _bare(function, defaults, keywords)
        cut = _used(function.__code__)
        made = copy if self.interpreted else wrap(copy)
        self.seen[id(whole)] = made, UNFINISHED
        self.within += 1
        names = {name: cut(value, name) for name, value in globals_of(function).items()}
        values, first = self._all(names.values())
        copy.__globals__.update(zip(names, values, strict=True))
        cells = zip(function.__code__.co_freevars, copy.__closure__ or (), function.__closure__ or (), strict=True)
        filled = [(name, new, old) for name, new, old in cells if _filled(old)]
        contents, second = self._all(cut(old.cell_contents, name) for name, _, old in filled)
        for (_, new, _), value in zip(filled, contents, strict=True):
            new.cell_contents = value
        self.within -= 1
        if function.__globals__.get("__builtins__", builtins) not in (builtins, vars(builtins)):
            self.untold.append(function)  # abs may be anything
        head = repr((list(names), getattr(function, "glue", False))).encode()
        return made, _digest(self._code(function.__code__), head, first, second, third)

    def _plain(self, function: types.FunctionType) -> tuple[Any, bytes]:
        """A function that another one calls as it is: numba knows it by itself, not by its contents."""
        if _versioned(function.__module__) and _at_home(function):
            return function, _name(function)
        if self.within > 0 and not self.interpreted:
            if self.checked:
                raise Refusal(
                    f"{function.__qualname__} is a plain function, which compiled code cannot call: decorate it with "
                    "numba.njit (if numba knows it by an overload, whose meaning cannot be read: check=False)"
                )
            return self._other(function)
        return self._one(*self._function(function, function, lambda copy: copy))

    def _dispatcher(self, thing: Any) -> tuple[Any, bytes]:
        signatures = [] if thing._can_compile else thing.nopython_signatures
        options = dict(thing.targetoptions)
        if self.checked and options.get("boundscheck") is not True and not own(thing.py_func):
            options["boundscheck"] = True
        compiler, lasting = thing._compiler.pipeline_class, own(thing.py_func) and not thing.py_func.__closure__
        if compiler is Compiler and not lasting:
            compiler = Careful
        kind = self._all((type(thing), compiler.__qualname__, options, thing.locals, list(map(str, signatures))))[1]

        def wrap(function: Any) -> Any:  # a kernel of this package stays itself, compiled once for all maps
            return thing if lasting else type(thing)(function, dict(thing.locals), options, compiler)

        copy, digest = self._function(thing, thing.py_func, wrap)
        copy, digest = self._one(copy, _digest(kind, digest))
        if signatures and not self.interpreted and copy._can_compile:
            for signature in signatures:
                copy.compile(signature.args)
            copy.disable_compile()
        return copy, digest

    def _vectorized(self, thing: Any) -> tuple[Any, bytes]:
        if self.checked:
            _refuse_deaf(thing._dispatcher.py_func)
        inner, signatures = thing._dispatcher, list(thing._dispatcher.overloads) if thing._frozen else []
        kind = self._all((inner.targetoptions, thing.identity, list(map(str, signatures))))[1]

        def wrap(function: Any) -> Any:
            return DUFunc(function, identity=thing.identity, targetoptions=dict(inner.targetoptions))

        copy, digest = self._function(thing, inner.py_func, wrap)
        if self.interpreted:
            return np.vectorize(copy), digest
        copy, digest = self._one(copy, _digest(b"vectorize", kind, digest))
        if signatures and not copy._frozen:
            for signature in signatures:
                copy.add(signature)
            copy.disable_compile()
        return copy, digest

    def _intrinsic(self, thing: Any) -> tuple[Any, bytes]:
        """Its definition tells; it stays the object that numba knows. The package's own are told by `_versions`."""
        if own(thing._defn):
            return thing, _name(thing._defn)
        within, self.within = self.within, -sys.maxsize  # it runs as plain Python, and so does what it calls
        digest = self._function(thing, thing._defn, lambda copy: thing)[1]
        self.within = within
        return thing, _digest(b"intrinsic", digest)

    def _one(self, copy: Any, digest: bytes) -> tuple[Any, bytes]:
        """The one copy of this meaning: an earlier one, if it is still in use."""
        if not (self.untold or self.interpreted):
            copy = _copies.setdefault(digest, copy)
            _digests[copy] = digest
        return copy, digest

    # -- what functions name ---------------------------------------------------------------------------------------

    def _module(self, module: types.ModuleType) -> tuple[Any, bytes]:
        """A module of a library, told by its name; of others, functions name an excerpt (`_cut`)."""
        return (
            (module, _digest(b"module", module.__name__.encode()))
            if _versioned(module.__name__)
            else self._other(module)
        )

    def _excerpt(self, excerpt: _Excerpt) -> tuple[Any, bytes]:
        values, digest = self._all(excerpt.contents.values())
        copy = _Cut(excerpt.name)
        vars(copy).update(zip(excerpt.contents, values, strict=True))
        return copy, _digest(b"excerpt", repr(list(excerpt.contents)).encode(), digest)

    def _array(self, array: Any) -> tuple[Any, bytes]:
        if array.dtype.hasobject:
            return self._other(array)
        flags = array.flags.c_contiguous, array.flags.f_contiguous, array.flags.aligned
        head = repr((type(array).__name__, repr(array.dtype), array.shape, flags)).encode()
        digest = _digest(head, np.ascontiguousarray(array).tobytes())
        copy = _copies.setdefault(digest, array.copy(order="K"))
        copy.flags.writeable = False
        return copy, digest

    def _number(self, value: np.generic) -> tuple[Any, bytes]:
        return value, _digest(repr(value.dtype).encode(), value.tobytes())

    def _constant(self, value: Any) -> tuple[Any, bytes]:
        if isinstance(value, types.CodeType):
            return value, self._code(value)
        if isinstance(value, NUMBERS) and type(value) not in NUMBERS:  # its repr may say anything
            return self._other(value)
        return value, _digest(_name(type(value)), repr(value).encode())

    def _code(self, code: types.CodeType) -> bytes:
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_names,
                 code.co_varnames, code.co_freevars, code.co_cellvars)  # fmt: skip
        table = getattr(code, "co_exceptiontable", b"")
        return _digest(code.co_code, repr(shape).encode(), table, self._all(code.co_consts)[1])

    def _sequence(self, values: Any) -> tuple[Any, bytes]:
        copies, digest = self._all(values)
        kind = type(values)
        if hasattr(kind, "_fields"):
            return kind._make(copies), _digest(self.read(kind)[1], digest)
        return kind(copies), _digest(_name(kind), digest)

    def _set(self, values: Any) -> tuple[Any, bytes]:
        digests = sorted(self.read(value)[1] for value in values)
        return type(values)(values), _digest(_name(type(values)), *digests)

    def _mapping(self, values: dict[Any, Any]) -> tuple[Any, bytes]:
        pairs = [(self.read(key), self.read(value)) for key, value in values.items()]
        entries = sorted(key[1] + value[1] for key, value in pairs)
        return {key[0]: value[0] for key, value in pairs}, _digest(b"dict", *entries)

    def _record(self, record: Any) -> tuple[Any, bytes]:
        """An instance of a dataclass."""
        names = [field.name for field in dataclasses.fields(record)]
        copies, digest = self._all(getattr(record, name) for name in names)
        head = _digest(_name(type(record)), repr(names).encode())
        return type(record)(**dict(zip(names, copies, strict=True))), _digest(head, digest)

    def _member(self, member: enum.Enum) -> tuple[Any, bytes]:
        return member, _digest(_name(type(member)), member.name.encode(), self.read(member.value)[1])

    def _kind(self, kind: type) -> tuple[Any, bytes]:
        if issubclass(kind, enum.Enum):
            return kind, _digest(_name(kind), self.read(dict(kind.__members__))[1])
        if hasattr(kind, "_fields"):
            rest = self._all((getattr(kind, "_fields", ()), getattr(kind, "_field_defaults", {})))[1]
            return kind, _digest(_name(kind), rest)
        return self._other(kind)

    def _other(self, thing: Any) -> tuple[Any, bytes]:
        """What has a name in a library of known version is told by it; anything else cannot be told."""
        if self.checked and isinstance(thing, DEAF):
            raise Refusal(
                f"{type(thing).__name__} {getattr(thing, '__name__', '')}: a function made by numba.guvectorize or "
                "numba.cfunc looks at no index and drops errors: decorate it with numba.njit (or check=False)"
            )
        home, name = getattr(thing, "__module__", None), getattr(thing, "__name__", "")
        home = "numpy" if type(thing) is np.ufunc else home
        if _versioned(home) and getattr(sys.modules[str(home)], name, None) is thing:
            return thing, f"{home}.{name}".encode()
        self.untold.append(thing)
        return thing, b"untold"

    _READERS: tuple[tuple[Any, Callable[..., tuple[Any, bytes]]], ...]


class _Excerpt:
    """Those contents of a module that a function may use."""

    def __init__(self, name: str, contents: dict[str, Any]) -> None:
        self.name = name
        self.contents = contents


class _Cut(types.ModuleType):
    """The frozen copy of an excerpt. It is pickled by what it holds: by its name, a copy would be the module itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.__name__,), vars(self)


_Reading._READERS = (
    (Dispatcher, _Reading._dispatcher), (DUFunc, _Reading._vectorized), (_Intrinsic, _Reading._intrinsic),
    (types.FunctionType, _Reading._plain), (_Excerpt, _Reading._excerpt), (types.ModuleType, _Reading._module),
    (enum.Enum, _Reading._member), (np.ndarray, _Reading._array), (np.generic, _Reading._number),
    (PLAIN, _Reading._constant), ((tuple, list), _Reading._sequence), ((set, frozenset), _Reading._set),
    (dict, _Reading._mapping), (type, _Reading._kind),
)  # fmt: skip


def _refuse_unchecked(function: types.FunctionType) -> None:
    """Refuse what numba compiles without a look at indices, whatever it is told, or cannot call at all."""
    steps = [step for code in codes(function.__code__) for step in dis.get_instructions(code)]
    used = [step.argval for step in steps if step.opname in UNCHECKED.get(str(step.argval), ())]
    if used:
        raise Refusal(
            f"{function.__qualname__} uses {used[0]}, where compiled code does not look whether an index is within its "
            "array: index the array itself (check=False leaves this out)"
        )
    if function.__code__.co_kwonlyargcount:
        raise Refusal(f"{function.__qualname__} has keyword-only arguments, which compiled code cannot have")


def _refuse_deaf(function: types.FunctionType) -> None:
    """Refuse what numba.vectorize loses: an error that the function raises, or that an index would."""
    names = {step.opname for code in codes(function.__code__) for step in dis.get_instructions(code)}
    if names & {"RAISE_VARARGS", "BINARY_SUBSCR", "BINARY_SLICE"}:
        raise Refusal(
            f"{function.__qualname__} raises errors or looks into an array, and numba.vectorize drops errors: decorate "
            "it with numba.njit (check=False leaves this out)"
        )


def _refuse_draws(function: types.FunctionType) -> None:
    """Refuse random numbers that are not drawn anew from a seed: a map's noise is a function of (seed, t)."""
    named = list(globals_of(function).values())
    numpy_too = any(value is np for value in named) and "random" in function.__code__.co_names
    if (any(map(_draws, named)) or numpy_too) and "seed" not in function.__code__.co_names:
        raise Refusal(
            f"{function.__qualname__} draws random numbers: take them from (seed, t), and keep nothing between calls "
            "(check=False leaves this out)"
        )


def _draws(value: Any) -> bool:
    drawn = isinstance(getattr(value, "__self__", None), (random.Random, np.random.RandomState, np.random.Generator))
    return value in (random, np.random) if isinstance(value, types.ModuleType) else drawn


def _bare(function: types.FunctionType, defaults: Any, keywords: Any) -> Any:
    """A copy that does not yet know what it names."""
    space = {"__builtins__": function.__globals__.get("__builtins__", __builtins__)}
    space["__name__"] = function.__module__ or __name__
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(function.__code__, space, function.__name__, defaults, cells)
    copy.__kwdefaults__ = keywords
    copy.__qualname__, copy.__module__, copy.__doc__ = function.__qualname__, function.__module__, function.__doc__
    vars(copy).update(vars(function))
    return copy


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _cut(value: Any, used: frozenset[str], within: frozenset[str]) -> Any:
    """A module of unknown version cut down to those of its contents that are used, its modules to those within."""
    if not isinstance(value, types.ModuleType) or _versioned(value.__name__):
        return value
    within -= {value.__name__.rpartition(".")[2]}  # modules that name one another end here
    contents = {name: _cut(vars(value)[name], within, within) for name in sorted(used) if name in vars(value)}
    return _Excerpt(value.__name__, contents)


def _used(code: types.CodeType) -> Callable[[Any, str], Any]:
    """What cuts down the value of a name: to what is read of it, or to all that may be if it is handed on."""
    found, everything = attributes(code)
    return lambda value, name: _cut(value, found.get(name, everything), everything)


def _name(thing: Any) -> bytes:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', thing.__name__)}".encode()


def _at_home(function: Any) -> bool:
    """Whether a function stands in the file of its module: one that was made by `exec` may only bear its name."""
    module, code = sys.modules.get(function.__module__), getattr(function, "__code__", None)
    return code is None or code.co_filename in (getattr(module, "__file__", None), f"<frozen {function.__module__}>")


def _versioned(module: str | None) -> bool:
    """Whether a module's contents are told by the versions in the fingerprint: by its name, and by where it lies."""
    top = (module or "").partition(".")[0]
    if module not in sys.modules or top not in (*LIBRARIES, *sys.stdlib_module_names):
        return False
    file = getattr(sys.modules[top], "__file__", None)
    return top in sys.builtin_module_names if file is None else _installed(top, file)


@cache
def _installed(top: str, file: str) -> bool:
    """Whether this file is that of a library, and not of somebody's module that bears its name."""
    path, standard = Path(file).resolve(), Path(os.__file__).resolve().parent
    installed = "site-packages" in path.parts or "dist-packages" in path.parts
    return installed if top in LIBRARIES else path.is_relative_to(standard) and not installed
