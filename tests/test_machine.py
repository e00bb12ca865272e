"""Machine code on disk: what runs is what is kept, a file is trusted only if it is ours, and nothing kept is no error.

What else could go wrong in these ways, and is tried here: a second verb that finds the first one's code in place
(a half-filled cache); verbs that share a rule but not its machine code; a rule whose module is gone, or another module
under its old name; files cut off, emptied, damaged in one bit, replaced by another one's, or by a pickle that would run
a command; a folder that is a file, is read-only, is open to others, or disappears; two processes at once.
"""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

import nnflow

VERBS = """
import hashlib, sys, numpy as np, nnflow

def mark(states):
    return hashlib.sha256(np.ascontiguousarray(states).tobytes()).hexdigest()[:16]

def verbs(map, order):
    scan = nnflow.Ensemble.grid(map, inits=3, seed=0)
    frame = scan.with_frame(min(2, map.dim))
    watched = (*map.observables, *map.coordinates)[0]
    ends = {
        "advance": lambda: scan.advance(40).states,
        "orbit": lambda: scan.orbit(40)[1].states,
        "watched": lambda: scan.orbit(40, observe=watched)[1].states,
        "tangent_orbit": lambda: frame.tangent_orbit(40)[1].states,
        "separation_orbit": lambda: scan.separation_orbit(scan.perturbed(1e-6), 40)[1].states,
        "frame": lambda: frame.tangent_orbit(40)[0].log_stretches,
        "distances": lambda: scan.separation_orbit(scan.perturbed(1e-6), 40)[0],
    }
    return {verb: mark(ends[verb]()) for verb in sorted(ends, reverse=order < 0)}
"""
FOLLOWING = ("advance", "orbit", "watched", "tangent_orbit", "separation_orbit")


def python(code: str, cache: Path, **environment: str) -> str:
    """What another process prints, which has compiled nothing yet."""
    strict = f"import warnings; warnings.simplefilter('error')\n{code}"
    done = fresh.python(strict, NNFLOW_CACHE_DIR=str(cache), **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_from_the_start(code: str, cache: Path, **environment: str) -> str:
    """What a process prints that finds its variables when it starts."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={**os.environ, "NNFLOW_CACHE_DIR": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verbs_of(names: list[str], cache: Path, order: int) -> dict[str, dict[str, str]]:
    code = f"{VERBS}\nprint({{name: verbs(nnflow.maps[name](), {order}) for name in {names[::order]!r}}})"
    found: dict[str, dict[str, str]] = eval(python(code, cache))
    return found


OTHERS = [name for name in nnflow.maps.names() if name not in ("henon", "logistic_ring")]


@pytest.mark.parametrize("names", [["henon", "logistic_ring"], pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_a_cold_and_a_warm_cache_give_the_same_bits_for_every_verb(names: list[str], tmp_path: Path) -> None:
    cold = verbs_of(names, tmp_path, 1)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(kept) >= 3 * len(names)  # of each map two orbits, the tangents, the distances
    assert verbs_of(names, tmp_path, -1) == cold
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept  # nothing was compiled again
    for found in cold.values():
        assert len({found[verb] for verb in FOLLOWING}) == 1  # and all verbs follow one orbit


FOUND = """
import nnflow
from nnflow.frozen import fingerprint
print({name: fingerprint(nnflow.maps[name]().functions) for name in nnflow.maps.names()})
"""


def test_every_process_finds_the_code_of_every_map_under_one_name(tmp_path: Path) -> None:
    """Whatever order its sets have: hashes of texts are salted in each process."""
    one, other = (python_from_the_start(FOUND, tmp_path, PYTHONHASHSEED=salt) for salt in "12")
    assert one == other
    assert len(set(eval(one).values())) == len(nnflow.maps)


SMALL = """
module = nnflow.training_map
import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
x, y = torch.randn(21, 3, dtype=torch.float64), torch.arange(21) % 2
made = nnflow.training_map(net, torch.nn.CrossEntropyLoss(), x, y, optimizer="heavy_ball", eta=2.0)
assert type(made).__name__ == "CompiledTraining"
"""


@pytest.mark.slow
def test_other_processors_give_the_same_bits(tmp_path: Path) -> None:
    """One without fused products and wide registers computes more slowly, and the same."""
    code = f"{VERBS}\nprint({{name: verbs(nnflow.maps[name](), 1) for name in ('henon', 'softmax')}})"
    own, plain = (eval(python_from_the_start(code, tmp_path / cpu, NUMBA_CPU_NAME=cpu)) for cpu in ("", "generic"))
    assert own == plain


@pytest.mark.slow
def test_a_network_gives_the_same_bits_with_an_empty_a_half_filled_and_a_full_cache(tmp_path: Path) -> None:
    """A module of one's own, trained: with a fast-math rule, verbs met in another order followed other orbits."""
    forth, back = (f"{VERBS}{SMALL}\nprint(verbs(made, {order}))" for order in (1, -1))
    whole = eval(python(forth, tmp_path / "a"))
    assert len({whole[verb] for verb in FOLLOWING}) == 1
    kept = {path: path.read_bytes() for path in sorted((tmp_path / "a").iterdir())}
    assert len(kept) == 4
    assert eval(python(back, tmp_path / "a")) == whole
    assert {path: path.read_bytes() for path in sorted((tmp_path / "a").iterdir())} == kept
    (tmp_path / "b").mkdir(mode=0o700)
    for path in list(kept)[1::2]:
        shutil.copy(path, tmp_path / "b")
    assert eval(python(back, tmp_path / "b")) == whole


def test_the_definition_runs_after_the_loops(tmp_path: Path) -> None:
    """LLVM's engine finds functions by name, private ones too: after a loop, a helper called by itself was none."""
    code = """
import nnflow, numpy as np
map = nnflow.maps["cubic_descent"]()
scan = nnflow.Ensemble.grid(map, inits=2).with_frame(2)
scan.tangent_orbit(3)
print(map.tangent(scan.state, scan.parameters, 0, scan.frame).shape)
"""
    assert python(code, tmp_path) == python(code, tmp_path) == "(2, 2, 2)\n"


FAST = """
from numba import njit
@njit(fastmath=True)
def total(x):
    s = 0.0
    for i in range(x.size):
        s += x[i] * x[i]
    return s
def rule(x, p, t, out):
    norm = total(x)
    for i in range(x.size):
        out[i] = 3.7 * x[i] * (1.0 - x[i]) + 1e-3 * norm * (0.5 - x[i])
made = nnflow.CompiledMap(rule, dim=37)
"""


def test_a_users_fast_math_is_the_same_in_every_process(tmp_path: Path) -> None:
    cold = python(f"{VERBS}{FAST}\nprint(verbs(made, 1))", tmp_path)
    assert python(f"{VERBS}{FAST}\nprint(verbs(made, 1))", tmp_path) == cold


RULE = "def rule(x, p, t, out):\n    out[0] = {factor} * x[0]\n"
USE = """
import nnflow, numpy as np
from {module} import rule
print(float(nnflow.CompiledMap(rule).advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1).states[0, 0]))
"""


def test_a_rule_may_move_to_another_module(tmp_path: Path) -> None:
    """Kept code named the module it came from, and imported it: gone, it failed for ever; another, it was run."""
    cache = tmp_path / "cache"
    for module, old in {"first": None, "second": "first", "third": "second"}.items():
        (tmp_path / f"{module}.py").write_text(RULE.format(factor=3.0))
        if old is not None:
            (tmp_path / f"{old}.py").write_text("raise SystemExit('imported by an old name')")
        assert python(USE.format(module=module), cache, PYTHONPATH=str(tmp_path)) == "3.0\n"
    assert len(list(cache.iterdir())) == 1  # one meaning, compiled once


# -- damaged and foreign files --------------------------------------------------------------------------------------


class Command:
    """What a planted pickle could do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch planted",)


def damage(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "short": whole[:20],
        "cut": whole[: len(whole) // 2],
        "bit": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
        "planted": pickle.dumps(Command()),
        "planted behind the checksum": whole[:32] + pickle.dumps(Command()),
    }[kind]
    path.write_bytes(contents)


@pytest.mark.parametrize("kind", ["empty", "short", "cut", "bit", "planted", "planted behind the checksum"])
def test_a_damaged_file_is_compiled_anew(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.py").write_text(RULE.format(factor=3.0))
    cache, call = tmp_path / "cache", USE.format(module="one")
    assert python(call, cache, PYTHONPATH=str(tmp_path)) == "3.0\n"
    (path,) = cache.iterdir()
    whole = path.stat().st_size
    damage(kind, path)
    assert python(call, cache, PYTHONPATH=str(tmp_path)) == "3.0\n"
    assert path.stat().st_size == pytest.approx(whole, rel=0.05)  # and whole again
    assert not (tmp_path / "planted").exists()


def test_one_file_in_place_of_another_is_not_run(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for module, factor in {"two": 2.0, "three": 3.0}.items():
        (tmp_path / f"{module}.py").write_text(RULE.format(factor=factor))
        python(USE.format(module=module), cache, PYTHONPATH=str(tmp_path))
    one, other = cache.iterdir()
    shutil.copy(one, other)
    for module, factor in {"two": 2.0, "three": 3.0}.items():
        assert python(USE.format(module=module), cache, PYTHONPATH=str(tmp_path)) == f"{factor}\n"


# -- folders --------------------------------------------------------------------------------------------------------


def test_the_folder_is_private(tmp_path: Path) -> None:
    python("import nnflow; nnflow.Ensemble.grid(nnflow.maps['henon']()).advance(3)", tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


WARNED = """
import warnings, nnflow
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2)
    scan.advance(3), scan.with_frame(2).tangent_orbit(3)
print([str(w.message) for w in seen if w.category.__name__ == "CacheWarning"])
"""


def test_what_nobody_reads_any_more_is_removed(tmp_path: Path) -> None:
    """Files of rules long gone, of other versions, of processes that were killed while they wrote."""
    code = "import nnflow; nnflow.Ensemble.grid(nnflow.maps['henon']()).advance(3)"
    tmp_path.chmod(0o700)
    for name in ("advance-0.machine", "advance-1.12-3f.machine", "advance-2.machine", "notes.txt"):
        (tmp_path / name).write_text("")
    for name in ("advance-0.machine", "advance-1.12-3f.machine", "notes.txt"):
        os.utime(tmp_path / name, (0, 0))
    python(code, tmp_path)
    assert {path.name for path in tmp_path.iterdir() if len(path.name) < 30} == {"advance-2.machine", "notes.txt"}
    kept = [path for path in tmp_path.iterdir() if len(path.name) > 30]
    os.utime(kept[0], (0, 0))
    python(code, tmp_path)
    assert kept[0].stat().st_mtime > 0  # what is read stays


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (message,) = eval(python(WARNED, shared))
    assert "others can write" in message
    assert not list(shared.iterdir())


def test_where_nothing_can_be_kept_one_warning_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    (message,) = eval(python(WARNED, blocked))
    assert "compiled anew in each process" in message


def test_a_full_disk_is_one_warning(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir(mode=0o700)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k,mode=700", "none", str(small)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (message,) = eval(python(WARNED, small))
        assert "cannot be kept" in message
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("name", ["orbit_diagram", "zero_one_test", "recurrence"])
def test_analyses_run_where_package_and_home_are_read_only(name: str, tmp_path: Path) -> None:
    """Their own kernels were kept beside the package, or not at all: they could not even be imported."""
    code = f"import nnflow; nnflow.run({name!r}, nnflow.maps['logistic'](), steps=300, transient=10)"
    environment = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "NUMBA_CACHE_DIR": ""}
    hidden = "import numba.core.caching as c\nc.CacheImpl._locator_classes = []\n"  # numba itself finds no place
    python_from_the_start(hidden + code, tmp_path / "cache", **environment)
    assert any((tmp_path / "cache").iterdir())


def test_two_processes_at_once(tmp_path: Path) -> None:
    code = f"{VERBS}\nprint(verbs(nnflow.maps['ikeda'](), 1))"
    environment = {**os.environ, "NNFLOW_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-P", "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0] for process in both)
    assert first == second == f"{verbs_of(['ikeda'], tmp_path, 1)['ikeda']}\n"
    assert not list(tmp_path.glob("*.tmp"))
