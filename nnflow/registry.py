"""Plugins by name: a registry reads an entry-point group when asked, and never before.

Listing names imports no plugin. The built-in maps and analyses come in through the same door as a stranger's.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint, EntryPoints, entry_points
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tokenize import NEWLINE, TokenError, generate_tokens
from typing import Any

from nnflow.names import unknown

UNREADABLE = (ImportError, OSError, ValueError, SyntaxError, TokenError, AttributeError)
"""What finding and reading a module's source may end in."""


class PluginError(Exception):
    """A plugin cannot be had: two of one name, or one that fails to import."""


class UnknownPlugin(KeyError):
    """No plugin has this name; the message lists those that exist, and the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry(Mapping[str, Any]):
    """The plugins of one entry-point group by name, as ``Registry("nnflow.maps", "map")``, sorted.

    Names, length and `in` import nothing; ``[name]`` imports one plugin; `values()` and `items()` import them all.

    Args:
        group: The entry-point group.
        kind: What a plugin is called in messages.
        prepare: Applied to each plugin when it is loaded.
    """

    def __init__(self, group: str, kind: str = "plugin", prepare: Callable[[Any], Any] = lambda plugin: plugin) -> None:
        self.group = group
        self.kind = kind
        self._prepare = prepare
        self._loaded: dict[tuple[str, str], Any] = {}

    __eq__ = object.__eq__  # a registry is itself, not its contents
    __hash__ = object.__hash__

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

    def targets(self) -> list[tuple[str, str]]:
        """Where every installed plugin stands; imports none of them.

        Returns:
            (name, "module:object") of each, sorted by name; a name that is claimed twice comes twice.
        """
        return [(name, entry.value) for name, entries in sorted(self._entries().items()) for entry in entries]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._entries())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries()

    def distribution(self, name: str) -> str:
        """The name of the distribution that declares a plugin.

        Args:
            name: The plugin.

        Returns:
            The distribution's name, as its metadata gives it.

        Raises:
            UnknownPlugin: (a KeyError) for an unknown name.
            PluginError: for a clash of names.
        """
        return _owner(self._entry(name))

    def about(self, name: str) -> tuple[str, str]:
        """What a plugin is about: read from the sources, and nothing is imported.

        Args:
            name: The plugin.

        Returns:
            The first lines of the docstrings of the plugin and of the package that it lies in; "" where there is
            nothing to read.

        Raises:
            UnknownPlugin: (a KeyError) for an unknown name.
            PluginError: for a clash of names.
        """
        module, _, attribute = self._entry(name).value.partition(":")
        return _first_line(module, attribute), _first_line(module.rpartition(".")[0])

    def _entry(self, name: str) -> EntryPoint:
        entries = self._entries()
        if not isinstance(name, str) or name not in entries:
            hint = "" if entries else "Install the package (pip install .): plugins are found through its metadata."
            raise UnknownPlugin(unknown(self.kind, name, sorted(entries), hint))
        if len({entry.value for entry in entries[name]}) > 1:
            claims = " and ".join(sorted(f"{_owner(entry)} ({entry.value})" for entry in entries[name]))
            raise PluginError(f"{name!r} in {self.group} is claimed by {claims}: uninstall or rename one of them")
        return entries[name][0]

    def __getitem__(self, name: str) -> Any:
        """Import (once) and return a plugin.

        Args:
            name: The plugin.

        Returns:
            What its entry point names: a class or a function.

        Raises:
            UnknownPlugin: (a KeyError) for an unknown name.
            PluginError: for a clash of names or a failed import.
            KeyboardInterrupt: of Ctrl-C during the import.
        """
        entry = self._entry(name)
        key = (entry.name, entry.value)
        if key not in self._loaded:
            try:
                self._loaded[key] = self._prepare(entry.load())
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit() in a plugin ends the plugin, not the program
                raise PluginError(
                    f"plugin {name!r} of distribution {_owner(entry)} cannot be imported ({entry.value}"
                    f"{_place(entry.value.partition(':')[0], error)}): {type(error).__name__}: {error}"
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
    return _name_of(entry.dist) if entry.dist is not None else "an unknown distribution"


@lru_cache
def _name_of(distribution: Distribution) -> str:
    """Its name, for which all of its metadata is read."""
    return distribution.name


def _file(module: str) -> Path:
    """The source of a module, found without importing it, or a package that it lies in. Raises ImportError."""
    name, *rest = module.split(".")
    spec = find_spec(name)
    for part in rest:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, (spec and spec.submodule_search_locations) or [])
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of {module}")
    return Path(spec.origin)


def _first_line(module: str, name: str = "") -> str:
    """Of the docstring of a module, or of what bears this name in it; "" where there is none."""
    try:
        source = _file(module).read_text(encoding="utf-8")
        found = re.search(rf"^(class|def) {re.escape(name)}\b", source, re.MULTILINE) if name else None
        if name and found is None:
            return ""
        tree: Any = ast.parse(_beginning(source[found.start() :] if found else source, 2 if name else 1))
    except UNREADABLE:
        return ""
    return (ast.get_docstring(tree.body[0] if name else tree) or "").partition("\n")[0]


def _beginning(source: str, statements: int) -> str:
    """The first lines of source, with so many statements or headers: to parse all of it takes much longer."""
    for token in generate_tokens(StringIO(source).readline):
        statements -= token.type == NEWLINE
        if not statements:
            return "".join(source.splitlines(keepends=True)[: token.end[0]])
    return source


def _place(module: str, error: BaseException) -> str:
    """Where in a plugin's file an error arose: the line, and the class that it lies in; "" where that is unknown."""
    try:
        path = _file(module)
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError):
            return f", line {error.lineno}" if error.filename == str(path) else ""
        tree = ast.parse(path.read_text(encoding="utf-8")) if frames else ast.Module([], [])
    except UNREADABLE:
        return ""
    line = frames[-1] if frames else None
    inside = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and line is not None
        if min([node.lineno, *(d.lineno for d in node.decorator_list)]) <= line <= (node.end_lineno or node.lineno)
    ]
    return f", line {line}{f', in class {inside[-1]}' if inside else ''}" if line is not None else ""
