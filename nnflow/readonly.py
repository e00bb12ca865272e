"""Mappings and arrays of maps and ensembles, which others hold, too: nobody changes them by mistake."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from nnflow.names import WrongKind

K = TypeVar("K")
V = TypeVar("V")


class Fixed(dict[K, V], Generic[K, V]):
    """A dict that refuses to be changed; `dict(…)` and `.copy()` of it are ordinary ones.

    >>> Fixed(a=1)["a"], dict(Fixed(a=1)) | {"b": 2}
    (1, {'a': 1, 'b': 2})
    """

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise WrongKind("a map is not changed once it is made: map.with_parameters(…) gives another, or make it anew")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def copy(self) -> dict[K, V]:
        """An ordinary dict."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Fixed, (dict(self),)


def fixed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view of an array through which nothing can be written; whoever holds the array itself still can."""
    view = array.view()
    view.flags.writeable = False
    return view
