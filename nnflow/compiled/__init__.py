"""Maps that numba compiles: how a rule becomes machine code.

`map` is the map and its verbs; `kernels` chooses and builds the loops of one map; `loops` and `lanes` are the loops of
the verbs, `observing` those of observables; `frames` is Gram–Schmidt, `memory` room on the stack; `ways` are the ways
in which anything is compiled.
"""

from __future__ import annotations

from nnflow.compiled.kernels import Functions, glue
from nnflow.compiled.map import CompilationError, CompiledMap
from nnflow.compiled.observing import Component
from nnflow.compiled.ways import Rule

__all__ = ["CompilationError", "CompiledMap", "Component", "Functions", "Rule", "glue"]
