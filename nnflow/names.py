"""Names that are not known: one sentence that says which are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """One sentence for a name that is not known: the name, the nearest known one, all known ones.

    >>> unknown("map", "henno", ["cat", "henon"])
    "unknown map 'henno'. Did you mean 'henon'? Known: cat, henon."
    """
    known = list(known)
    near = get_close_matches(name, known, n=1)
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(known) if known else "none"
    return f"unknown {kind} {name!r}.{nearest} Known: {listing}.{' ' + hint if hint else ''}"


class Refusal(ValueError):
    """What the user asked for makes no sense; the message names it, its value, and what to do instead."""
