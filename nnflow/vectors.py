"""Arrays of members: frames made orthonormal, components taken out, lengths, extreme parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnflow.names import Refusal, unknown
from nnflow.typing import Array, Integers

NORMS = ("l1", "l2", "max")


def orthonormalise(frame: Array, escaped: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """QR of each member's rows, with a positive diagonal.

    Householder reflections keep the new frame orthonormal where a vector was stretched to exactly 0.

    Args:
        frame: ``(member, k, dim)``, one vector a row.
        escaped: ``(member,)`` bools: members whose rows become NaN, like those that are not finite.

    Returns:
        The new rows ``(member, k, dim)`` and R ``(member, k, k)``.
    """
    bad = escaped | ~np.isfinite(frame).all(axis=(1, 2))
    q, r = np.linalg.qr(np.where(bad[:, None, None], 0.0, frame).transpose(0, 2, 1))
    sign = np.where(np.einsum("mjj->mj", r) < 0, -1.0, 1.0)
    rows, factor = (q * sign[:, None, :]).transpose(0, 2, 1).copy(), r * sign[:, :, None]
    rows[bad], factor[bad] = np.nan, np.nan
    return rows, factor


def project_out(v: Array, basis: Array) -> Array:
    """``v (member, k, dim)`` without its components along the orthonormal rows of ``basis (member, g, dim)``."""
    return np.asarray(v - (v @ basis.transpose(0, 2, 1)) @ basis)


def length(d: Array, norm: str) -> Array:
    """The norm of the last axis.

    Args:
        d: An array ``(…, dim)``.
        norm: "l1" is Σ|d|, "l2" √Σd², "max" max |d|.

    Returns:
        The array without its last axis.

    Raises:
        Refusal: for another name.
    """
    d = np.ascontiguousarray(d)  # so that sums take one order, whatever the number of members
    if norm == "l1":
        return np.asarray(np.abs(d).sum(axis=-1))
    if norm == "l2":
        return np.asarray(np.sqrt((d * d).sum(axis=-1)))
    if norm == "max":
        return np.asarray(np.abs(d).max(axis=-1))
    raise Refusal(unknown("norm", norm, NORMS))


def extremes(p: Array) -> Integers:
    """The members at which some parameter, or all together, are smallest or largest.

    Args:
        p: Parameters ``(member, parameter)``, of one member at least.

    Returns:
        Their indices, rising.
    """
    together = (p / np.maximum(np.abs(p).max(axis=0), 1e-300)).sum(axis=1)
    return np.unique([together.argmin(), together.argmax(), *p.argmin(axis=0), *p.argmax(axis=0)])
