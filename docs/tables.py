"""Write what README and docs say of maps and analyses, from the registry and the docstrings: `python docs/tables.py`.

README.md gets its two tables, and docs/analyses a page to each question. `--check` writes nothing, and fails if
something is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import nnflow

ROOT = Path(__file__).parents[1]


def questions() -> dict[str, list[str]]:
    """Question → names of our analyses."""
    found: dict[str, list[str]] = {}
    for name in nnflow.analyses.names():
        if nnflow.analyses.distribution(name) == "nnflow":
            found.setdefault(nnflow.analyses.about(name)[1], []).append(name)
    return dict(sorted(found.items()))


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def maps() -> str:
    """The table of maps."""
    lines = ["| name | what it is | parameters | dim |", "|---|---|---|---|"]
    for name in nnflow.maps.names():
        map = nnflow.maps[name]()
        lines.append(row(f"`{name}`", nnflow.maps.about(name)[0], ", ".join(map.parameters), str(map.dim)))
    return "\n".join(lines)


def analyses() -> str:
    """The table of analyses, by question."""
    parts = []
    for question, names in questions().items():
        folder = folder_of(names[0])
        lines = [f"**[{question}](docs/analyses/{folder}.md)**", "", "| name | what it gives |", "|---|---|"]
        parts.append("\n".join([*lines, *(row(f"`{name}`", nnflow.analyses.about(name)[0]) for name in names)]))
    return "\n\n".join(parts)


def folder_of(name: str) -> str:
    """The folder that an analysis stands in."""
    return str(nnflow.analyses[name].__module__.split(".")[1])


def page(question: str, names: list[str]) -> str:
    """All analyses of one question: what each computes, its settings, what it returns."""
    head = f"# {question}\n\n<!-- written by docs/tables.py from the docstrings -->\n"
    return head + "".join(section(name, nnflow.analyses[name]) for name in names)


def section(name: str, kind: Any) -> str:
    """One analysis."""
    told = documented(kind)
    settings = ["| setting | default | |", "|---|---|---|"]
    settings += [row(f"`{f.name}`", f"`{f.default!r}`", told.get(f.name, "")) for f in fields(kind)]
    text = re.sub(r"(?m)^(\w+):\n((?:    .*\n?|\n)+)", listed, inspect.getdoc(kind) or "")
    return f"\n## `{name}`\n\n{text.rstrip()}\n\n" + "\n".join(settings) + "\n"


def listed(found: re.Match[str]) -> str:
    """A section of a docstring as a list."""
    body = textwrap.dedent(found[2]).rstrip()
    entries = re.split(r"\n(?=\S)", body)
    if found[1] == "Source":
        return f"Source: {' '.join(body.split())}\n"
    return f"**{found[1]}**\n\n" + "\n".join(f"- {' '.join(entry.split())}" for entry in entries) + "\n\n"


def documented(kind: type) -> dict[str, str]:
    """Field → the docstring behind it, also of what a class inherits."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def written() -> Iterator[tuple[Path, str]]:
    """Every file and what it should hold."""
    readme = (ROOT / "README.md").read_text()
    for name, table in {"maps": maps(), "analyses": analyses()}.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = readme.partition(marks[0])
        readme = f"{before}{marks[0]}\n{table}\n{marks[1]}{rest.partition(marks[1])[2]}"
    yield ROOT / "README.md", readme
    for question, names in questions().items():
        yield ROOT / "docs" / "analyses" / f"{folder_of(names[0])}.md", page(question, names)


def main() -> int:
    """Write what has changed, or with --check say so."""
    old = {path: text for path, text in written() if not path.exists() or path.read_text() != text}
    for path, text in old.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return int("--check" in sys.argv and bool(old))


if __name__ == "__main__":
    sys.exit(main())
