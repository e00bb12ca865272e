"""Plugins by name: a registry reads an entry-point group when asked, and never before.

Listing names imports no plugin. The built-in maps and analyses come in through the same door as a stranger's.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from nnflow.names import unknown


class PluginError(Exception):
    """A plugin cannot be had: two of one name, or one that fails to import."""


class UnknownPlugin(KeyError):
    """No plugin has this name; the message lists those that exist, and the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry:
    """The plugins of one entry-point group, as ``Registry("nnflow.maps", "map")``: `names()` lists, ``[name]`` gets."""

    def __init__(self, group: str, kind: str = "plugin") -> None:
        self.group = group
        self.kind = kind
        self._loaded: dict[tuple[str, str], Any] = {}

    def __repr__(self) -> str:
        return f"Registry({self.group!r}): {', '.join(self.names())}"

    def _entries(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in _installed(self.group, _folders()):
            found.setdefault(entry.name, []).append(entry)
        return found

    def names(self) -> list[str]:
        """The sorted names of all installed plugins; imports none of them."""
        return sorted(self._entries())

    def values(self) -> list[tuple[str, str]]:
        """(name, "module:object") of every installed plugin; imports none of them."""
        return [(name, entry.value) for name, entries in sorted(self._entries().items()) for entry in entries]

    def __contains__(self, name: object) -> bool:
        return name in self._entries()

    def distribution(self, name: str) -> str:
        """The name of the distribution that declares a plugin. Raises as ``[name]`` does."""
        return _owner(self._entry(name))

    def _entry(self, name: str) -> EntryPoint:
        entries = self._entries()
        if name not in entries:
            hint = "" if entries else "Install the package (pip install .): plugins are found through its metadata."
            raise UnknownPlugin(unknown(self.kind, name, sorted(entries), hint))
        if len({entry.value for entry in entries[name]}) > 1:
            claims = " and ".join(sorted(f"{_owner(entry)} ({entry.value})" for entry in entries[name]))
            raise PluginError(f"{name!r} in {self.group} is claimed by {claims}: uninstall or rename one of them")
        return entries[name][0]

    def __getitem__(self, name: str) -> Any:
        """Import (once) and return a plugin.

        Raises UnknownPlugin (a KeyError) for an unknown name, PluginError for a clash of names or a failed import.
        """
        entry = self._entry(name)
        key = (entry.name, entry.value)
        if key not in self._loaded:
            try:
                self._loaded[key] = entry.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit() in a plugin ends the plugin, not the program
                raise PluginError(
                    f"plugin {name!r} of distribution {_owner(entry)} cannot be imported ({entry.value}): "
                    f"{type(error).__name__}: {error}"
                ) from error
        return self._loaded[key]


def _folders() -> tuple[tuple[str, int], ...]:
    """Where distributions are looked for, and when each place last changed: installing or removing one changes it."""
    found = []
    for path in sys.path:
        with suppress(OSError):  # no such folder, or the current one has been deleted
            found.append((os.path.abspath(path), os.stat(path or os.curdir).st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=8)
def _installed(group: str, folders: tuple[tuple[str, int], ...]) -> EntryPoints:
    """All entry points of a group; to read those of a hundred distributions takes ten milliseconds."""
    return entry_points(group=group)


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"
