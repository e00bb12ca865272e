"""nnflow: training a neural network is one more discrete map.

A map offers four verbs (advance, orbit, tangent_orbit, separation_orbit), an ensemble is many copies of a map, an
analysis uses only the verbs. Names are loaded when first used: importing nnflow imports neither numpy, numba nor torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nnflow.names import Refusal
from nnflow.registry import PluginError, Registry

if TYPE_CHECKING:
    from nnflow.analysis import Analysis
    from nnflow.compiled import CompilationError, CompiledMap
    from nnflow.ensemble import Ensemble, ResolutionWarning
    from nnflow.exchange import from_mapping, numba_mapping, numpy_mapping, torch_mapping
    from nnflow.iterated import iterate
    from nnflow.map import Map
    from nnflow.plotting import plot
    from nnflow.recording import Recording
    from nnflow.results import load, save
    from nnflow.runner import run
    from nnflow.systems.gradient import gradient_map
    from nnflow.systems.training.choose import training_map
    from nnflow.tensor import TensorMap
    from nnflow.writing import check_writable, write

__version__ = version("nnflow")


def _checked(factory: Any) -> Any:
    """A map's factory, whose arguments are converted and validated against its annotations."""
    from nnflow.settings import checked

    return checked(factory)


maps = Registry("nnflow.maps", "map", prepare=_checked)
analyses = Registry("nnflow.analyses", "analysis")
studies = Registry("nnflow.studies", "study")

_LAZY = {
    "Analysis": "nnflow.analysis",
    "CompilationError": "nnflow.compiled",
    "CompiledMap": "nnflow.compiled",
    "Ensemble": "nnflow.ensemble",
    "Map": "nnflow.map",
    "Recording": "nnflow.recording",
    "ResolutionWarning": "nnflow.ensemble",
    "TensorMap": "nnflow.tensor",
    "check_writable": "nnflow.writing",
    "from_mapping": "nnflow.exchange",
    "gradient_map": "nnflow.systems.gradient",
    "iterate": "nnflow.iterated",
    "load": "nnflow.results",
    "numba_mapping": "nnflow.exchange",
    "numpy_mapping": "nnflow.exchange",
    "plot": "nnflow.plotting",
    "run": "nnflow.runner",
    "save": "nnflow.results",
    "torch_mapping": "nnflow.exchange",
    "training_map": "nnflow.systems.training.choose",
    "write": "nnflow.writing",
}

__all__ = [
    "Analysis",
    "CompilationError",
    "CompiledMap",
    "Ensemble",
    "Map",
    "PluginError",
    "Recording",
    "Refusal",
    "Registry",
    "ResolutionWarning",
    "TensorMap",
    "analyses",
    "check_writable",
    "from_mapping",
    "gradient_map",
    "iterate",
    "load",
    "maps",
    "numba_mapping",
    "numpy_mapping",
    "plot",
    "run",
    "save",
    "studies",
    "torch_mapping",
    "training_map",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nnflow' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
