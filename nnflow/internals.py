"""All that nnflow uses of numba's and torch's insides, and why: nothing in here is promised by them.

Other files import these names from here; `tests/test_internals.py` names what a new version no longer has. Each is
imported when it is first asked for, so that nothing of torch is loaded for numba's sake.

`USED` has what is imported, `ATTRIBUTES` what is asked of objects by a private name, or given under one. Beyond names,
functions that numba links in are weak symbols, which is numba issue #10486 (the process that compiles runs other code
than the next one); a layer that torch parametrizes is of a class that is derived from the plain one; an optimizer has
`_optimizer_step_pre_hooks` and `_post_hooks`, and the step that a scheduler puts in place is marked
`_wrapped_by_lr_sched`.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numba.core import ir as ir
    from numba.core.bytecode import FunctionIdentity as FunctionIdentity
    from numba.core.caching import NullCache as NullCache
    from numba.core.ccallback import CFunc as CFunc
    from numba.core.codegen import JITCodeLibrary as JITCodeLibrary
    from numba.core.compiler import Compiler as Compiler
    from numba.core.compiler import CompileResult as CompileResult
    from numba.core.compiler import run_frontend as run_frontend
    from numba.core.compiler_machinery import register_pass as register_pass
    from numba.core.dispatcher import Dispatcher as Dispatcher
    from numba.core.environment import Environment as Environment
    from numba.core.environment import lookup_environment as lookup_environment
    from numba.core.errors import ConstantInferenceError as ConstantInferenceError
    from numba.core.extending import _Intrinsic as _Intrinsic
    from numba.core.imputils import impl_ret_borrowed as impl_ret_borrowed
    from numba.core.lowering import Lower as Lower
    from numba.core.serialize import dumps as dumps
    from numba.core.typed_passes import NativeLowering as NativeLowering
    from numba.core.typing.templates import builtin_registry as builtin_registry
    from numba.np.arrayobj import populate_array as populate_array
    from numba.np.ufunc.dufunc import DUFunc as DUFunc
    from numba.np.ufunc.gufunc import GUFunc as GUFunc
    from torch import _weight_norm as _weight_norm
    from torch._decomp import decomposition_table as decomposition_table
    from torch._functorch.autograd_function import custom_function_call as custom_function_call
    from torch._inductor.compile_fx import compile_fx as compile_fx
    from torch.fx.experimental.proxy_tensor import make_fx as make_fx
    from torch.nn import _reduction as _reduction
    from torch.nn.modules.batchnorm import _NormBase as _NormBase
    from torch.nn.modules.instancenorm import _InstanceNorm as _InstanceNorm
    from torch.optim.optimizer import _global_optimizer_post_hooks as _global_optimizer_post_hooks
    from torch.optim.optimizer import _global_optimizer_pre_hooks as _global_optimizer_pre_hooks
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
    from torch.utils._pytree import tree_flatten as tree_flatten
    from torch.utils._pytree import tree_leaves as tree_leaves
    from torch.utils._pytree import tree_unflatten as tree_unflatten

USED = {
    "CFunc": ("numba.core.ccallback", "a helper that looks at no index and drops errors: refused"),
    "Compiler": ("numba.core.compiler", "its passes and its library of machine code are exchanged"),
    "CompileResult": ("numba.core.compiler", "how an overload is taken apart for the disk and put together again"),
    "ConstantInferenceError": ("numba.core.errors", "the reader of rules finds no constant"),
    "DUFunc": ("numba.np.ufunc.dufunc", "what numba.vectorize makes: told apart, rebuilt around frozen functions"),
    "Dispatcher": ("numba.core.dispatcher", "what numba.njit makes: told apart, rebuilt around frozen functions"),
    "Environment": ("numba.core.environment", "the constants of machine code from the disk"),
    "FunctionIdentity": ("numba.core.bytecode", "numbers of functions become symbols on disk: they start at random"),
    "GUFunc": ("numba.np.ufunc.gufunc", "a helper that drops errors: refused"),
    "JITCodeLibrary": ("numba.core.codegen", "what is linked in becomes private before it is optimised (#10486)"),
    "Lower": ("numba.core.lowering", "variables without a value are NaN"),
    "NativeLowering": ("numba.core.typed_passes", "the pass that this replaces"),
    "NullCache": ("numba.core.caching", "the base of our own cache: numba's wants a source file and its own folders"),
    "TorchDispatchMode": (
        "torch.utils._python_dispatch",
        "to see each operation: memory, draws, parts of another type",
    ),
    "_InstanceNorm": ("torch.nn.modules.instancenorm", "norm layers whose averages are of each sample alone"),
    "_Intrinsic": ("numba.core.extending", "told apart: its definition is plain Python"),
    "_NormBase": ("torch.nn.modules.batchnorm", "norm layers that may have running averages"),
    "_global_optimizer_post_hooks": ("torch.optim.optimizer", "what every step of torch calls, and a map would not"),
    "_global_optimizer_pre_hooks": ("torch.optim.optimizer", "the same, before the step"),
    "_reduction": ("torch.nn", "what losses make of reduction, size_average and reduce"),
    "_weight_norm": ("torch", "what torch.nn.utils.weight_norm calls, of which it knows no second derivative"),
    "builtin_registry": ("numba.core.typing.templates", "overloads that others registered: part of the fingerprint"),
    "compile_fx": ("torch._inductor.compile_fx", "machine code of a graph; torch.compile checks more at each call"),
    "custom_function_call": ("torch._functorch.autograd_function", "a user's own autograd.Function under vmap and jvp"),
    "decomposition_table": ("torch._decomp", "operations as simpler ones, of which a loss is written on a tape"),
    "dumps": ("numba.core.serialize", "pickles what an overload is made of"),
    "impl_ret_borrowed": ("numba.core.imputils", "arrays on the stack"),
    "ir": ("numba.core", "what that reading is made of"),
    "lookup_environment": ("numba.core.environment", "the constants of machine code that is loaded already"),
    "make_fx": ("torch.fx.experimental.proxy_tensor", "writes down the operations of a step, to be replayed"),
    "populate_array": ("numba.np.arrayobj", "arrays on the stack"),
    "register_pass": ("numba.core.compiler_machinery", "the pass that gives variables NaN"),
    "run_frontend": ("numba.core.compiler", "numba's own reading of bytecode, by which rules are read"),
    "tree_flatten": ("torch.utils._pytree", "the tensors among arguments and results, in order"),
    "tree_leaves": ("torch.utils._pytree", "the tensors among what an operation gets and gives"),
    "tree_unflatten": ("torch.utils._pytree", "and back"),
}

ATTRIBUTES = {
    "_DropoutNd": "torch.nn.modules.dropout: every dropout layer is one",
    "_backward_hooks": "of a torch module: calls that a map would leave out; the next five as well",
    "_backward_pre_hooks": "of a torch module",
    "_cache": "of a dispatcher of numba: may be replaced",
    "_can_compile": "of a dispatcher of numba: whether its signatures are fixed",
    "_compiler": "of a dispatcher of numba: has the class of its passes",
    "_defn": "of an intrinsic of numba: the function that defines it",
    "_final_module": "of numba's library of machine code: what is linked, before it is optimized",
    "_forward_hooks": "of a torch module",
    "_forward_pre_hooks": "of a torch module",
    "_fp32_precision": "of torch.backends.mkldnn.set_flags: a setting that is left as it is",
    "_getvalue": "of a proxy of a structure in numba: the structure",
    "_is_zerotensor": "of a tensor: a derivative that is 0 has no memory",
    "_memo": "of numba's Environment: those that there are, by name",
    "_modules": "of a torch module: its parts by name",
    "_nrt": "an option of numba: without it, no reference counting (loops own no array; it costs more than a step)",
    "_overloadname": "of an operation of torch: for messages",
    "_post_accumulate_grad_hooks": "of a torch parameter: calls that a map would leave out",
    "_rebuild": "of numba's CompileResult: from what is on the disk",
    "_reduce": "of numba's CompileResult: for the disk",
    "_schema": "of an operation of torch: whether it writes, and what it takes",
    "_unique_ids": "of numba's FunctionIdentity: the counter",
    "_version": "of a tensor: counts what was written into it",
}
"""Private names of attributes and arguments of other libraries, and why they are used."""


def __getattr__(name: str) -> Any:
    if name not in USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, reason = USED[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about its own torch.jit
            value = globals()[name] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        library = module.partition(".")[0]
        raise ImportError(
            f"this version of {library} has no {module}.{name} ({reason}): install one that nnflow's metadata allow"
        ) from error
    return value
