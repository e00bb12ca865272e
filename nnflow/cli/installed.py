"""What is installed: `nnflow list`. It is read from metadata and sources, so that this file imports nothing slow."""

from __future__ import annotations

import nnflow
from nnflow.cli.errors import Misuse


def list_plugins(argv: list[str]) -> int:
    """`nnflow list`."""
    if argv in (["-h"], ["--help"]):
        print("usage: nnflow list\n\nThe maps, analyses and studies that are installed; imports none of them.")
        return 0
    if argv:
        raise Misuse(f"nnflow list takes no arguments, not {' '.join(argv)}")
    listed = {"maps": listing(nnflow.maps), **analyses(), "studies": listing(nnflow.studies)}
    print("\n\n".join(f"{title}\n{lines}" for title, lines in listed.items()))
    return 0


def analyses() -> dict[str, str]:
    """What analyses there are to each question, with the first line of their docs; a stranger's by distribution."""
    names = nnflow.analyses.names()
    width = max(map(len, names), default=0)
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        try:
            owner, (text, question) = nnflow.analyses.distribution(name), nnflow.analyses.about(name)
        except nnflow.PluginError as clash:
            owner, text, question = "more than one distribution", f"cannot be used: {clash}", ""
        group = (False, question[:1].lower() + question[1:]) if owner == "nnflow" else (True, f"of {owner}")
        groups.setdefault(group, []).append(f"  {name:<{width}}  {text}".rstrip())
    found = {f"analyses: {title}": "\n".join(groups[stranger, title]) for stranger, title in sorted(groups)}
    return found or {"analyses": "  none installed"}


def listing(registry: nnflow.Registry) -> str:
    """The names of a registry, with the distribution of what is not ours."""
    names = registry.names()
    width = max(map(len, names), default=0)
    return "\n".join(f"  {name:<{width}}  {_about(registry, name)}".rstrip() for name in names) or "  none installed"


def _about(registry: nnflow.Registry, name: str) -> str:
    """What a plugin is, in a line, and the distribution it comes from."""
    owner = _owner(registry, name)
    return owner if owner.startswith("cannot") else f"{registry.about(name)[0]} {owner}".strip()


def _owner(registry: nnflow.Registry, name: str) -> str:
    """The distribution a plugin comes from, when it is not nnflow itself."""
    try:
        owner = registry.distribution(name)
    except nnflow.PluginError as clash:
        return f"cannot be used: {clash}"
    return "" if owner == "nnflow" else f"({owner})"
