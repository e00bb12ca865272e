"""Settings are what their annotations say: each value is converted and validated here, by pydantic, before any work.

A number of numpy or torch, an array without dims, 1e4 for a whole number and the text "100" are taken for what they
mean; a bool is no number, 2.7 no whole number, and NaN and infinity are no settings. What is left is refused in one
line: name, value, what is allowed. Bounds are not types: `at_least` and its kin state those.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from fractions import Fraction
from functools import cache, reduce, wraps
from operator import or_
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BeforeValidator, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from nnflow.names import Refusal, WrongKind, shown
from nnflow.typing import Array
from nnflow.values import EXACT, array_of, hidden, leaves, real

P = ParamSpec("P")
T = TypeVar("T")
LARGEST = 2**63  # whole numbers stay below: compiled loops and files hold 64 bits


def plain(value: Any) -> Any:
    """What a number of numpy, torch or xarray, or an array without dims, holds; anything else as it is."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item") or isinstance(value, np.ma.MaskedArray):
        return value
    kinds: dict[str, Callable[[Any], Any]] = {"b": bool, "i": int, "u": int, "f": float, "U": str}
    kind = getattr(value.dtype, "kind", None)  # a torch dtype has none
    return value.item() if kind is None else kinds.get(kind, lambda other: other)(value)


def _read(value: Any) -> Any:
    """A number from text, too; raises ValueError for what is no number."""
    value = plain(value)
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        raise ValueError("no number")
    return value


def _whole(value: Any) -> int:
    number = _read(value)
    if not -LARGEST < number < LARGEST:
        raise ValueError("too large")  # or no number at all
    if int(number) != number:
        raise ValueError("no whole number")
    return int(number)


def _finite(value: Any) -> float:
    try:
        number = float(_read(value))
    except OverflowError:
        raise ValueError("too large") from None
    if not np.isfinite(number):
        raise ValueError("not finite")
    return number


def _text(value: Any) -> str:
    if not isinstance(value := plain(value), str):
        raise ValueError("no text")
    return str(value)


def _several(value: Any) -> Any:
    """What may stand for a tuple: a list, a range, an array; not a set, whose order means nothing."""
    if isinstance(value, (np.ma.MaskedArray, set, frozenset, dict, str, bytes)):
        raise ValueError("no tuple")
    return tuple(value) if isinstance(value, Iterable) and getattr(value, "shape", None) != () else value


def _kept(value: Any) -> Any:
    """What a generator gives, for the first kind of a union that is tried would leave nothing to the others."""
    return tuple(map(_kept, value)) if isinstance(value, Iterator) or type(value) in (list, tuple) else value


def _several_or_one(value: Any) -> Any:
    return (value,) if isinstance(value, str) or not isinstance(value, Iterable) else _several(value)


LEAVES: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (_whole, "a whole number"),
    float: (_finite, "a finite number"),
    str: (_text, "text"),
    bool: (plain, "True or False"),
}
UNIONS = (Union, types.UnionType)
SEVERAL = (tuple, list, Sequence)


def _typed(annotation: Any, alone: bool = True) -> Any:
    """The annotation as pydantic gets it, with our conversions at its leaves; a single value may stand for a tuple."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in LEAVES:
        return Annotated[annotation, BeforeValidator(LEAVES[annotation][0])]
    if origin is Annotated:
        return Annotated[(_typed(inner[0], alone), *inner[1:])]
    if origin in UNIONS:
        union = reduce(or_, (_typed(part, alone=False) for part in inner))
        return Annotated[union, BeforeValidator(_kept)] if any(get_origin(part) in SEVERAL for part in inner) else union
    if origin in SEVERAL:
        inner = (*inner, ...) if origin is Sequence else inner
        parts = tuple(part if part is Ellipsis else _typed(part) for part in inner)
        one = alone and (origin is list or Ellipsis in inner)
        kind = tuple if origin is Sequence else origin
        return Annotated[kind[parts], BeforeValidator(_several_or_one if one else _several)]
    return Annotated[annotation, BeforeValidator(plain)] if origin is Literal else annotation


def _words(annotation: Any) -> str:
    """What an annotation allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in LEAVES:
        return LEAVES[annotation][1]
    if annotation in (None, types.NoneType):
        return "None"
    if origin is Annotated:
        return _words(inner[0])
    if origin in UNIONS:
        return " or ".join(map(_words, inner))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin in SEVERAL and inner:
        each = "several, each " if origin is not tuple or Ellipsis in inner else "a tuple of "
        return each + ", ".join(_words(part) for part in inner if part is not Ellipsis)
    return getattr(annotation, "__name__", str(annotation))


def _simple(annotation: Any) -> bool:
    """Whether an annotation is made of numbers, text, choices and tuples of them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in LEAVES or annotation in (None, types.NoneType, Ellipsis) or origin is Literal:
        return True
    if origin is Annotated:
        return _simple(inner[0])
    return origin in (*UNIONS, *SEVERAL) and all(map(_simple, inner))


class Setting(NamedTuple):
    """How one setting is read, and what is said if it cannot be."""

    adapter: TypeAdapter[Any]
    allowed: str
    constrained: bool

    @classmethod
    def of(cls, annotation: Any) -> Setting:
        """That of an annotation. Raises WrongKind for one that means nothing to pydantic."""
        typed = _typed(annotation)
        try:
            try:
                adapter: TypeAdapter[Any] = TypeAdapter(typed, config=ConfigDict(arbitrary_types_allowed=True))
            except PydanticUserError:  # a type with a configuration of its own
                adapter = TypeAdapter(typed)
        except Exception as error:
            raise WrongKind(f"the annotation {annotation!r} is none that settings can have: {error}") from error
        return cls(adapter, _words(annotation), not _simple(annotation) or "Annotated" in repr(annotation))

    def read(self, name: str, value: Any) -> Any:
        """The value as its annotation has it. Raises Refusal with the name, the value and what is allowed."""
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            why = f" ({said.removeprefix('Value error, ')})" if self.constrained or said.endswith("too large") else ""
        raise Refusal(f"{name} = {shown(value)}: give {self.allowed}{why}")


@cache
def _setting(annotation: Any) -> Setting:
    return Setting.of(annotation)


def convert(name: str, value: Any, annotation: Any) -> Any:
    """A single value as an annotation has it: ``convert("steps", "100", int)`` is 100. Raises Refusal."""
    return _setting(annotation).read(name, value)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, from a bound on. Raises Refusal."""
    number: int = convert(name, value, int)
    if least is not None and number < least:
        raise Refusal(f"{name} = {number}: give {least} or more")
    return number


def numbers(name: str, values: Any) -> Array:
    """Numbers as a float64 array of their shape; NaN and infinity pass.

    Complex numbers, dates, bools, masked values, rows of unequal lengths, and whole numbers beyond 2^53 are refused:
    numpy would drop or guess.

    Args:
        name: What they are, for the message.
        values: Numbers, in rows of equal length.

    Returns:
        The array, float64.

    Raises:
        Refusal: for anything else.
        ValueError: none that is no Refusal.
    """
    values = array_of(values)
    try:
        if hidden(values):
            raise ValueError("masked values")
        found = np.asarray(values)
        if found.dtype.kind in "OU":
            found = np.array([_exact(_read(value)) for value in found.ravel()], dtype=np.float64).reshape(found.shape)
        if found.dtype.kind not in "iuf":
            raise ValueError(f"they are {found.dtype}")
        if any(map(is_bool, leaves(values))):
            raise ValueError("bools among them")
        for leaf in leaves(values):
            _exact(plain(leaf))
        return np.array(real(found, name))
    except Refusal:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
    raise Refusal(f"{name} = {shown(values)}: give numbers, in rows of equal length ({reason})")


def _exact(value: Any) -> Any:
    """A value. Raises Refusal for a whole number that float64 may not hold."""
    if isinstance(value, int) and abs(value) > EXACT:
        raise ValueError("whole numbers beyond 2^53 lose digits as float64: scale or shift them")
    return value


def is_bool(value: Any) -> bool:
    """Whether a value is a bool, whoever made it, or an array of them."""
    return isinstance(plain(value), bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b"


def at_least(least: float, **settings: float) -> None:
    """Refuse settings below a bound: ``at_least(1, steps=self.steps)``.

    Args:
        least: The bound.
        **settings: Name → value.

    Raises:
        Refusal: (a ValueError) with the name and value.
    """
    for name, value in settings.items():
        if not value >= least:
            raise Refusal(f"{name} = {value}: give {least} or more")


def multiple_of(unit: str, size: int, **settings: int) -> None:
    """Refuse settings that are no multiple of another one: ``multiple_of("every", self.every, steps=self.steps)``.

    Args:
        unit: The name of the other one.
        size: Its value, 1 or more (see `at_least`).
        **settings: Name → value.

    Raises:
        Refusal: (a ValueError) with both names and values.
    """
    for name, value in settings.items():
        if value % size:
            raise Refusal(f"{name} = {value}, {unit} = {size}: {name} must be a multiple of {unit}")


def one_of(known: Iterable[str], **settings: str) -> None:
    """Refuse a setting that is not one of the known names.

    Args:
        known: The names.
        **settings: Name → value.

    Raises:
        Refusal: (a ValueError) with name, value and the known ones.
    """
    known = list(known)
    for name, value in settings.items():
        if value not in known:
            raise Refusal(f"{name} = {value!r}: give one of {', '.join(known)}")


@contextmanager
def refusing() -> Iterator[None]:
    """What an author refuses by a plain ValueError is a Refusal."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise Refusal(str(error)) from error


# -- of a dataclass ------------------------------------------------------------------------------------------------


@cache
def _settings(kind: type) -> dict[str, Setting]:
    try:
        hints = get_type_hints(kind, include_extras=True)
        return {f.name: Setting.of(hints[f.name]) for f in fields(kind)}
    except (NameError, TypeError, AttributeError) as error:
        raise WrongKind(f"the settings of {kind.__name__} cannot be read: {error}") from error


def convert_fields(instance: Any) -> None:
    """Convert every field of a (frozen) dataclass, in place. Raises Refusal for the first that does not fit."""
    kind: Any = type(instance)
    for name, setting in _settings(kind).items():
        if name in instance.__dict__:
            object.__setattr__(instance, name, setting.read(name, getattr(instance, name)))


def as_json(instance: Any) -> str:
    """The fields of a dataclass as one JSON string. Raises Refusal for values that have no JSON."""
    try:
        return json.dumps(to_jsonable_python(asdict(instance)), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Refusal(
            f"{type(instance).__name__}() does not make settings that can be written as JSON, as results hold: {error}"
        ) from error


# -- of a function -------------------------------------------------------------------------------------------------


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose numbers, texts and choices are converted and validated before it is called.

    Args:
        function: Arguments with other annotations, or with names that only type checkers see, are passed on as they
            are.

    Returns:
        A function of the same arguments, which raises Refusal for those that do not fit.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function
    kinds = signature.parameters
    settings = {name: _setting(annotation) for name, annotation in _evaluated(function, signature)}

    def read(name: str, value: Any) -> Any:
        if name not in settings:
            return value
        if kinds[name].kind is inspect.Parameter.VAR_POSITIONAL:
            return tuple(settings[name].read(name, each) for each in value)
        if kinds[name].kind is inspect.Parameter.VAR_KEYWORD:
            known = {key: each for key, each in value.items() if not _is_infinite(each)}
            return {**value, **{key: settings[name].read(key, each) for key, each in known.items()}}
        return settings[name].read(name, value)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says it best
        for name, value in bound.arguments.items():
            bound.arguments[name] = read(name, value)
        with refusing():
            return function(*bound.args, **bound.kwargs)

    return call


def _is_infinite(value: Any) -> bool:
    """Whether a parameter is NaN or infinite: the map refuses it, and says what it takes."""
    return isinstance(value, float) and not np.isfinite(value)


def _evaluated(function: Any, signature: inspect.Signature) -> Iterable[tuple[str, Any]]:
    """The simple annotations of a function's arguments."""
    names = vars(sys.modules[function.__module__]) if getattr(function, "__module__", None) in sys.modules else {}
    for name, parameter in signature.parameters.items():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(names))
            except (NameError, AttributeError, TypeError, SyntaxError):
                continue
        if _simple(annotation):
            yield name, annotation
