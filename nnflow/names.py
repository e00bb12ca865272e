"""Names: which may be given, and one sentence for those that are not known; and what misuse raises."""

from __future__ import annotations

import keyword
import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches


class Refusal(ValueError):
    """What the user asked for makes no sense; the message names it, its value, and what to do instead."""


class WrongKind(Refusal, TypeError):
    """What the user gave is of another kind than what is needed: a recording, say, where it takes a map."""


def unknown(kind: str, name: object, known: Iterable[str], hint: str = "") -> str:
    """One sentence for a name that is not known: the name, the nearest known one, all known ones.

    Args:
        kind: What the name is of.
        name: The name that was given.
        known: Those that exist.
        hint: A sentence behind.

    Returns:
        The sentence.

    >>> unknown("map", "henno", ["cat", "henon"])
    "unknown map 'henno'. Did you mean 'henon'? Known: cat, henon."
    """
    known = list(known)
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    if isinstance(name, str) and "," in name and all(part.strip() in known for part in name.split(",")):
        nearest = " Several names are given one by one, not as one text."
    listing = ", ".join(known) if known else "none"
    return f"unknown {kind} {shown(name)}.{nearest} Known: {listing}.{' ' + hint if hint else ''}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxtuple = _short.maxlist = 8


def shown(value: object) -> str:
    """A value in a message.

    Returns:
        Its repr on one line, short however large it is.

    >>> shown("steps"), shown([0] * 9)
    ("'steps'", '[0, 0, 0, 0, 0, 0, 0, 0, ...]')
    """
    return " ".join(_short.repr(value).split())


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""A text from anywhere as a terminal or a picture may have it.

    Returns:
        The text with its control characters but line breaks spelled out.

    >>> harmless("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


TAKEN = ("cls", "self", "map", "states", "inits", "seed", "member", "init", "series")
"""What `Ensemble.grid` calls its own arguments and axes: under these names nothing else can be scanned."""

ODD = re.compile(r"[\x00-\x1f\x7f/$=\\]|^[\s-]|\s$")


def check_name(kind: str, name: object) -> None:
    """Refuse a name that no axis, file, picture or command line could bear: empty, or with / $ = or a line break."""
    if not isinstance(name, str) or not name or ODD.search(name):
        raise Refusal(f"{kind} {shown(name)}: give a name, without / $ = \\, line breaks, and spaces or - at its ends")


def check_scannable(kind: str, name: object, identifier: bool = False) -> None:
    """Refuse a name under which nothing can be scanned; parameters are keywords, of a group behind a dot: eta.head."""
    check_name(kind, name)
    first, *rest = str(name).split(".")
    in_groups = all(part and f"_{part}".isidentifier() for part in rest)
    if identifier and not (first.isidentifier() and not keyword.iskeyword(first) and in_groups):
        raise Refusal(f"{kind} {name!r}: give an identifier, for it is a keyword in Python and on the command line")
    if name in TAKEN:
        raise Refusal(f"{kind} {name!r}: Ensemble.grid takes this name for itself ({', '.join(TAKEN)}): give another")
