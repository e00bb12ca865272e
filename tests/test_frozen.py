"""What a rule means when the map is made: constants, arrays and helpers of every kind, then and there.

Each is changed before the first run, after it, and in a module of its own; a map made before keeps the old meaning, a
new one has the new. What could go wrong as well: helpers of helpers, closures, defaults, arrays changed in place,
`vectorize`, `intrinsic`, modules, enumerations, objects whose contents nobody can tell.
"""

from __future__ import annotations

import collections
import copy
import enum
import importlib
import math
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fresh
import numpy as np
import pytest
from numba import cfunc, njit, vectorize
from numba.extending import intrinsic, overload

import nnflow
import nnflow.map
from nnflow.frozen import fingerprint, frozen, plain
from nnflow.typing import Array

HELPERS = """
import enum, numpy as np
from numba import njit, vectorize
import nnflow

class Kind(enum.IntEnum):
    STRONG = {value} * 100

TABLE = np.array([{value}, 0.0])
A = {value}
B = (1.0, {value})
inner = __import__("types").ModuleType("inner")
inner.A = {value}

@njit
def deep(x):
    return A * x

@njit
def helper(x):
    return deep(x)

@vectorize
def spread(x):
    return A * x

def factory(value):
    def rule(x, p, t, out):
        out[0] = value * x[0]
    return rule

def constant(x, p, t, out):
    out[0] = A * x[0]

def pair(x, p, t, out):
    out[0] = B[1] * x[0]

def table(x, p, t, out):
    out[0] = TABLE[0] * x[0]

def helped(x, p, t, out):
    out[0] = helper(x[0])

def spreading(x, p, t, out):
    out[0] = spread(x[0])

def module(x, p, t, out):
    out[0] = inner.A * x[0]

def member(x, p, t, out):
    out[0] = Kind.STRONG.value * x[0] / 100

closure = factory({value})
"""
KINDS = ("constant", "pair", "table", "helped", "spreading", "module", "member", "closure")


def space(value: float) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "somewhere"}
    exec(HELPERS.format(value=value), found)
    return found


def python(code: str, *arguments: object) -> str:
    """What another process prints."""
    return fresh.python(code, *arguments, check=True).stdout


def value_of(map: nnflow.Map) -> float:
    return float(map.advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1).states[0, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_rule_names_may_change_afterwards(kind: str) -> None:
    here, there = space(0.5), space(0.25)
    first = nnflow.CompiledMap(here[kind])
    late = nnflow.CompiledMap(here[kind])
    assert value_of(first) == 0.5
    for name in ("A", "B", "helper", "deep", "spread", "inner", "Kind"):
        here[name] = there[name]
    here["TABLE"][0] = 0.25
    here["closure"] = there["closure"]
    assert value_of(late) == value_of(first) == 0.5  # made before, run after
    assert value_of(nnflow.CompiledMap(here[kind])) == 0.25
    x, p = np.ones((1, 1)), np.empty((1, 0))
    assert late.step(x, p, 0)[0, 0] == 0.5  # the definition is frozen, too


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_process_has_the_new_meaning(kind: str, tmp_path: Path) -> None:
    code = f"import nnflow, numpy as np\nfrom user import {kind} as rule\nprint(float(nnflow.CompiledMap(rule)"
    code += ".advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1).states[0, 0]))"
    environment = {"NNFLOW_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    for value in (0.5, 0.25, 0.5):
        (tmp_path / "user.py").write_text(HELPERS.format(value=value))
        done = fresh.python(code, check=True, **environment)
        assert float(done.stdout) == value
    assert len(list((tmp_path / "cache").iterdir())) == 2  # and the third found the first one's code


FAR = """
import sys, numpy as np, pickle, enum
sys.path.insert(0, sys.argv[1])
map = pickle.loads(open(sys.argv[2], "rb").read())
for _ in range(2):
    print(map.step(np.ones((1, 1)), np.empty((1, 0)), 0)[0, 0], map.advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1)[0])
"""
OF_A_MODULE = {
    "number": "out[0] = far.A * x[0]",
    "njit": "out[0] = far.helper(x[0])",
    "vectorize": "out[0] = far.spread(x[0])",
    "table": "out[0] = far.TABLE[0] * x[0]",
    "imported": "out[0] = helper(x[0])",
    "within": "out[0] = far.inner.A * x[0]",
}


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The helpers as a module that can be imported, and that holds 0.5."""
    (tmp_path / "far.py").write_text(HELPERS.format(value=0.5))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("far")
    del sys.modules["far"]


@pytest.mark.parametrize("kind", OF_A_MODULE)
def test_copies_and_pickles_have_the_frozen_meaning(kind: str, far: Any) -> None:
    here = {"far": far, "helper": far.helper}
    exec(f"def rule(x, p, t, out):\n    {OF_A_MODULE[kind]}", here)
    map = nnflow.CompiledMap(here["rule"])
    far.A = far.TABLE[0] = far.inner.A = 0.25
    assert copy.deepcopy(map) is copy.copy(map) is map
    for found in (map, pickle.loads(pickle.dumps(map)), pickle.loads(pickle.dumps(nnflow.Ensemble.grid(map))).map):
        assert value_of(found) == found.step(np.ones((1, 1)), np.empty((1, 0)), 0)[0, 0] == 0.5


@pytest.mark.parametrize("kind", OF_A_MODULE)
def test_a_pickle_means_the_same_where_the_module_is_another(kind: str, far: Any, tmp_path: Path) -> None:
    here = {"far": far, "helper": far.helper}
    exec(f"def rule(x, p, t, out):\n    {OF_A_MODULE[kind]}", here)
    (tmp_path / "pickle").write_bytes(pickle.dumps(nnflow.CompiledMap(here["rule"])))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "far.py").write_text(HELPERS.format(value=0.25))
    done = python(FAR, tmp_path / "other", tmp_path / "pickle")
    assert set(done.split()) == {"0.5", "[[0.5]]"}


def test_observables_and_tangents_are_frozen_too() -> None:
    here: dict[str, Any] = {"A": 2.0}
    exec("def rule(x, p, t, out):\n    out[0] = A * x[0]\ndef seen(x, p, t):\n    return A * x[0]\n"
         "def tangent(x, p, t, v, out):\n    out[0] = A * v[0]", here)  # fmt: skip
    map = nnflow.CompiledMap(here["rule"], here["tangent"], observables={"seen": here["seen"]})
    here["A"] = 3.0
    x, p = np.ones((1, 1)), np.empty((1, 0))
    assert map.orbit(x, p, 0, 1, 1, ("seen",))[0][0, 0, 0] == 2.0
    assert np.exp(map.tangent_orbit(x, p, 0, np.ones((1, 1, 1)), 1, 1)[0].log_stretches)[0, 0, 0] == pytest.approx(2.0)


def test_one_meaning_is_one_object() -> None:
    one, other = (space(0.5)["helped"] for _ in range(2))
    assert frozen(one) is frozen(other)
    assert frozen(frozen(one)) is frozen(one)
    assert fingerprint(one) == fingerprint(frozen(one)) == fingerprint(other) != fingerprint(space(0.25)["helped"])


def test_numbers_of_other_types_are_other_meanings() -> None:
    def made(constant: Any) -> Callable[..., None]:
        def rule(x: Array, p: Array, t: int, out: Array) -> None:
            out[0] = constant * x[0]

        return rule

    values = (1, 1.0, True, np.float32(1), np.float64(1), 1j, (1,), (1.0,), -0.0, 0.0, "1", None)
    assert len({fingerprint(made(value)) for value in values}) == len(values)
    orders = np.asfortranarray(np.ones((2, 2))), np.ones((2, 2)), np.ones((2, 2), np.float32), np.ones(4)
    assert len({fingerprint(made(value)) for value in orders}) == len(orders)


def test_options_of_a_helper_are_part_of_its_meaning() -> None:
    def add(x: float) -> float:
        return x + 1.0

    made = [njit(add), njit(fastmath=True)(add), njit(inline="always")(add), njit(boundscheck=True)(add)]
    assert len({fingerprint(helper) for helper in made}) == len(made)
    assert fingerprint(njit(fastmath={"contract", "reassoc"})(add)) == fingerprint(
        njit(fastmath={"reassoc", "contract"})(add)
    )


def test_a_helper_that_calls_itself() -> None:
    here: dict[str, Any] = {"njit": njit}
    exec("@njit\ndef power(n):\n    return 1.0 if n < 1 else 2.0 * power(n - 1)\n"
         "def rule(x, p, t, out):\n    out[0] = power(3) * x[0]", here)  # fmt: skip
    assert fingerprint(here["rule"]).startswith("?")  # its machine code calls an address of this process
    assert value_of(nnflow.CompiledMap(here["rule"])) == 8.0
    assert plain(here["rule"]).__globals__["power"](3) == 8.0


def external(x: float) -> float:
    """Known to numba by an overload, which nobody can read from here."""
    return 2.0 * x


@overload(external)
def _external(x):  # type: ignore[no-untyped-def]
    return lambda x: 2.0 * x


def test_what_cannot_be_told_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNFLOW_CACHE_DIR", str(tmp_path))

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = external(x[0])

    assert fingerprint(rule).startswith("?")
    with pytest.raises(nnflow.Refusal, match="external is a plain function, .* decorate it with"):
        nnflow.CompiledMap(rule)
    assert value_of(nnflow.CompiledMap(rule, check=False)) == 2.0
    assert not list(tmp_path.iterdir())


def test_plain_copies_run_without_a_compiler() -> None:
    here = space(0.5)
    for kind in KINDS:
        out = np.zeros(1)
        plain(here[kind])(np.ones(1), np.empty(0), 0, out)
        assert out[0] == 0.5
    assert isinstance(plain(here["helped"]).__globals__["helper"], types.FunctionType)


def test_explicit_signatures_stay() -> None:
    @njit(["float32(float32)"])
    def rounded(x: float) -> float:
        return x

    @vectorize(["float32(float32)"])
    def spread(x: float) -> float:
        return x

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = rounded(x[0])

    def refused(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = spread(x[0])

    x, p = np.array([[0.1]]), np.empty((1, 0))
    assert nnflow.CompiledMap(rule).advance(x, p, 0, 1).states[0, 0] == np.float32(0.1)
    with pytest.raises(nnflow.CompilationError, match="cannot call"):  # by numba, as everywhere
        nnflow.CompiledMap(refused).advance(x, p, 0, 1)


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize("thing", [Color, Color.RED, np.sin, float, {"a": 1}, {1, 2}, slice(3), np.dtype("f4")])
def test_everything_a_rule_may_name_has_a_name(thing: Any) -> None:
    assert not fingerprint(thing).startswith("?")
    assert fingerprint(thing) == fingerprint(thing)


def test_default_arguments_are_frozen() -> None:
    table = np.array([2.0])

    @njit
    def helper(x: float, table: Array = table) -> float:
        return float(table[0] * x)

    def rule(x: Array, p: Array, t: int, out: Array, table: Array = table) -> None:
        out[0], out[1] = table[0] * x[0], helper(x[1])

    map = nnflow.CompiledMap(rule, dim=2)
    table[0] = 3.0
    x = np.ones((1, 2))
    assert map.advance(x, np.empty((1, 0)), 0, 1).states.tolist() == [[2.0, 2.0]]
    assert nnflow.CompiledMap(rule, dim=2).advance(x, np.empty((1, 0)), 0, 1).states.tolist() == [[3.0, 3.0]]


def test_an_eager_helper_may_name_constants() -> None:
    here: dict[str, Any] = {"vectorize": vectorize, "njit": njit, "A": 2.0}
    exec("@vectorize(['float64(float64)'])\ndef spread(x):\n    return A * x\n"
         "@njit(['float64(float64)'])\ndef grown(x):\n    return A * x\n"
         "def rule(x, p, t, out):\n    out[0] = spread(x[0]) + grown(x[0])", here)  # fmt: skip
    assert value_of(nnflow.CompiledMap(here["rule"])) == 4.0


def test_a_module_that_bears_the_name_of_a_library_is_read(tmp_path: Path) -> None:
    """profile.py, signal.py, statistics.py: names of the standard library that a user's file may have, too."""
    code = "import nnflow, numpy as np\nfrom profile import rule\nprint(float(nnflow.CompiledMap(rule)"
    code += ".advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1).states[0, 0]))"
    environment = {"NNFLOW_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    for value in (0.5, 0.25):
        (tmp_path / "profile.py").write_text(f"A = {value}\ndef rule(x, p, t, out):\n    out[0] = A * x[0]\n")
        done = fresh.python(code, **environment)
        assert done.stdout == f"{value}\n", done.stderr


def test_named_tuples_differ_by_their_defaults() -> None:
    made = [NamedTuple("Made", [("a", float)]) for _ in range(2)]
    for kind, value in zip(made, (1.0, 2.0), strict=True):
        kind.__new__.__defaults__ = (value,)  # type: ignore[attr-defined]
        kind._field_defaults = {"a": value}  # type: ignore[attr-defined]
    assert fingerprint(made[0]) != fingerprint(made[1])


@cfunc("float64(float64)")
def twice(x: float) -> float:
    return 2.0 * x


@pytest.mark.parametrize("thing", [twice, np.frompyfunc(lambda x: x, 1, 1), object(), lambda x: x])
def test_what_only_has_a_name_is_not_told_by_it(thing: Any) -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = thing(x[0])

    assert fingerprint(rule).startswith("?")


@pytest.mark.parametrize("name", nnflow.maps.names())
def test_every_registered_map_can_be_kept(name: str) -> None:
    map = nnflow.maps[name]()
    assert isinstance(map, nnflow.CompiledMap)
    assert not fingerprint(map.functions, dict(map.observables)).startswith("?")


# -- one name, two meanings: the fingerprint has to tell them apart, in this process and for the next ----------------


def of(rule: Any) -> float:
    """Where the rule leads from 1."""
    return float(nnflow.Ensemble.grid(nnflow.CompiledMap(rule), states=[[1.0]]).advance(1).states[0, 0])


def test_a_module_in_a_closure(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("constants_of_mine")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make() -> Any:
        import constants_of_mine as constants  # type: ignore[import-not-found]

        def rule(x: Array, p: Array, t: int, out: Array) -> None:
            out[0] = constants.A * x[0]

        return rule

    module.A = 2.0  # type: ignore[attr-defined]
    first = make()
    assert of(first) == 2.0
    before = fingerprint(first)
    module.A = 3.0  # type: ignore[attr-defined]
    assert of(make()) == 3.0
    assert fingerprint(make()) != before


@pytest.mark.parametrize("space", [vars(math), vars(np), vars(nnflow.map)], ids=["math", "numpy", "nnflow"])
def test_a_function_that_bears_a_librarys_name(space: dict[str, Any]) -> None:
    """Made by `exec` in a copy of the library's names, as teaching material does."""
    for factor in (2.0, 3.0):
        names = dict(space)
        exec(f"def rule(x, p, t, out):\n    out[0] = {factor} * x[0]", names)
        assert of(names["rule"]) == factor


def test_builtins_of_ones_own_are_not_kept() -> None:
    names: dict[str, Any] = {"__builtins__": {"abs": njit(lambda x: 3.0 * x)}}
    exec("def rule(x, p, t, out):\n    out[0] = abs(x[0])", names)
    assert fingerprint(names["rule"]).startswith("?")


def test_named_tuples_are_told_by_their_fields() -> None:
    for fields_, known in (("a b", 2.0), ("b a", 3.0)):
        pair = collections.namedtuple("pair", fields_)(2.0, 3.0)  # type: ignore[misc]
        names = {"pair": pair}
        exec("def rule(x, p, t, out):\n    out[0] = pair.a * x[0]", names)
        assert of(names["rule"]) == known


def test_enumerations_are_told_by_their_aliases() -> None:
    for value in (2, 3):
        names = {"E": enum.IntEnum("E", {"A": 2, "B": 3, "X": value})}
        exec("def rule(x, p, t, out):\n    out[0] = E.X.value * x[0]", names)
        assert of(names["rule"]) == value


def test_only_what_is_used_of_a_module_matters() -> None:
    """A plain function that nobody calls is no reason to refuse, though numpy has one of its name that is called."""
    module = types.ModuleType("with_a_plain_function")
    module.A, module.exp = 2.0, lambda x: x  # type: ignore[attr-defined]

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = module.A * np.exp(0.0 * x[0])

    assert of(rule) == 2.0


def build_twice(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fadd(arguments[0], arguments[0])


@intrinsic  # type: ignore[misc]
def twice(context: Any, x: Any) -> Any:
    return x(x), build_twice


def test_an_intrinsic_may_be_made_of_plain_functions() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = twice(x[0])  # type: ignore[call-arg]

    assert of(rule) == 2.0


OVERLOADS = {
    "function": ("overload(np.i0)\ndef told(x):", "lambda x: {value} * x", "np.i0(x[0])"),
    "method": ("overload_method(types.Array, 'twice')\ndef told(a):", "lambda a: {value} * a[0]", "x.twice()"),
    "attribute": ("overload_attribute(types.Array, 'most')\ndef told(a):", "lambda a: {value} * a[0]", "x.most"),
    "operator": ("overload(operator.matmul)\ndef told(a, b):", "lambda a, b: {value} * b", "'' @ x[0]"),
    "helper": ("overload(np.i0)\ndef told(x):", "lambda x: helper(x)", "np.i0(x[0])"),
    "plain helper": ("overload(np.i0)\ndef told(x):", "build()", "np.i0(x[0])"),
}


@pytest.mark.parametrize("kind", OVERLOADS)
def test_what_a_user_registers_with_numba_is_part_of_the_meaning(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNFLOW_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    head, made, call = OVERLOADS[kind]
    for value in (2.0, 3.0, 2.0):
        (tmp_path / "registering.py").write_text(
            "import operator\nimport numpy as np\nfrom numba import njit, types\n"
            "from numba.extending import overload, overload_attribute, overload_method\n"
            f"@njit\ndef helper(x):\n    return {value} * x\ndef build():\n    return lambda x: {value} * x\n"
            f"@{head}\n    return {made.format(value=value)}\ndef rule(x, p, t, out):\n    out[0] = {call}\n"
        )
        done = python(
            "import nnflow, numpy as np\nfrom registering import rule\nmap = nnflow.CompiledMap(rule, check=False)\n"
            "print(map.advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1).states[0, 0])"
        )
        assert float(done) == value
    assert len(list((tmp_path / "cache").iterdir())) == 2
