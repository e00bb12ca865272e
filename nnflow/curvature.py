"""Lanczos on Hessian-vector products: the largest curvatures with a bound on their error, and whole spectra.

The products come from `Map.curvature`, for all members at once; everything here is numpy. With an orthonormal basis Q
of the Krylov space, T = Qᵀ H Q is tridiagonal; its eigenvalues θ (Ritz values) approach those of H from the ends of the
spectrum, and within |β s| of each θ, s being the last entry of its eigenvector, there is an eigenvalue of H
(B. N. Parlett, The Symmetric Eigenvalue Problem, SIAM 1998, doi:10.1137/1.9781611971163).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.map import generator

Array = npt.NDArray[np.float64]
Products = Callable[[Array], Array]  # v, one vector a row -> H v, of the same shape


class Lanczos:
    """Lanczos iterations of many members in step: call `extend` for one more column of the basis.

    `products` gives H v for v ``(member, dim)``; `start (member, dim)` need not be normalised. Where the Krylov space
    is exhausted (β ≈ 0), the iteration goes on with a fresh orthogonal vector, drawn from `seed`, and β = 0: T falls
    into blocks. A member whose products are not finite is NaN. The basis takes member × order × dim × 8 bytes.
    """

    def __init__(self, products: Products, start: Array, seed: int = 0) -> None:
        self.products, self.seed = products, seed
        self.members, self.dim = start.shape
        self.order = 0
        self.alpha = np.empty((self.members, 0))
        self.beta = np.empty((self.members, 0))
        self.basis = np.empty((self.members, 8, self.dim))
        self.next = _normalised(start)

    def extend(self) -> None:
        """One product more. Raises ValueError if the order is dim already."""
        j = self.order
        if j == self.dim:
            raise ValueError(f"order = {j + 1}: there are no more than dim = {self.dim} orthogonal vectors")
        if j == self.basis.shape[1]:
            self.basis = np.concatenate([self.basis, np.empty_like(self.basis)], axis=1)
        self.basis[:, j] = self.next
        w = np.asarray(self.products(self.next))
        alpha = (self.next * w).sum(axis=1)
        left = self._orthogonal(self._orthogonal(w, j + 1), j + 1)
        beta = np.sqrt((left * left).sum(axis=1))
        self.alpha = np.hstack([self.alpha, alpha[:, None]])
        size = np.maximum(np.abs(self.alpha).max(axis=1), self.beta.max(axis=1, initial=0.0))
        stuck = (beta <= 1e-13 * size) | (j + 1 == self.dim)
        self.beta = np.hstack([self.beta, np.where(stuck, 0.0, beta)[:, None]])
        self.order = j + 1
        if stuck.any() and self.order < self.dim:
            fresh = np.tile(generator(self.seed, f"lanczos {j}").standard_normal(self.dim), (self.members, 1))
            left = np.where(stuck[:, None], self._orthogonal(self._orthogonal(_normalised(fresh), j + 1), j + 1), left)
        self.next = _normalised(left) if self.order < self.dim else left

    def _orthogonal(self, w: Array, count: int) -> Array:
        basis = self.basis[:, :count]
        return np.asarray(w - (basis.transpose(0, 2, 1) @ (basis @ w[:, :, None]))[:, :, 0])

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values ``(member, order)``, ascending, and the eigenvectors of T as the columns of ``(…, order)``."""
        m = self.order
        matrix = np.zeros((self.members, m, m))
        i = np.arange(m)
        matrix[:, i, i] = self.alpha  # symmetric; eigh would not return from NaN
        matrix[:, i[1:], i[:-1]] = matrix[:, i[:-1], i[1:]] = self.beta[:, :-1]
        lost = np.asarray(np.isnan(self.alpha + self.beta).any(axis=1))
        values, vectors = np.linalg.eigh(np.where(lost[:, None, None], 0.0, matrix))
        values[lost], vectors[lost] = np.nan, np.nan
        return values, vectors


def _normalised(v: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(v / np.sqrt((v * v).sum(axis=1, keepdims=True)))


class Extreme(NamedTuple):
    """The k largest eigenvalues, descending: `values`, `residuals` (a bound on their error) and `vectors`.

    Shapes ``(member, k)`` and ``(member, k, dim)``.
    """

    values: Array
    residuals: Array
    vectors: Array


def largest(products: Products, start: Array, k: int = 1, tolerance: float = 1e-6, most: int = 100) -> Extreme:
    """The k algebraically largest eigenvalues of a symmetric operator by Lanczos from `start (member, dim)`.

    Each member is done when the residuals |H u − θ u| of its k vectors are below tolerance · max |θ|, after `most`
    products or after dim of them, whichever comes first: look at `residuals`, within which of each value there is an
    eigenvalue. A member's result does not depend on the others. Raises ValueError unless 1 ≤ k ≤ dim.
    """
    members, dim = start.shape
    if not 1 <= k <= dim:
        raise ValueError(f"k = {k}: there are {dim} eigenvalues, so 1 <= k <= {dim}")
    iteration, done = Lanczos(products, start), np.zeros(members, dtype=bool)
    found = Extreme(np.full((members, k), np.nan), np.full((members, k), np.nan), np.full((members, k, dim), np.nan))
    while not done.all() and iteration.order < min(max(most, k), dim):
        iteration.extend()
        if iteration.order < k:
            continue
        theta, s = iteration.ritz()
        residuals = np.abs(iteration.beta[:, -1:] * s[:, -1, :])[:, : -k - 1 : -1]
        good = (residuals <= tolerance * np.abs(theta).max(axis=1, keepdims=True)).all(axis=1) | np.isnan(theta[:, 0])
        new = ~done & (good | (iteration.order == min(max(most, k), dim)))
        for i in np.flatnonzero(new):
            found.values[i], found.residuals[i] = theta[i, : -k - 1 : -1], residuals[i]
            found.vectors[i] = s[i, :, : -k - 1 : -1].T @ iteration.basis[i, : iteration.order]
        done |= new
    return found


def quadrature(products: Products, probes: Array, order: int) -> tuple[Array, Array]:
    """Stochastic Lanczos quadrature: nodes and weights ``(member, probe · order)`` of the spectral density.

    Of each probe ``(member, probe, dim)`` an iteration of `order` steps gives nodes θ_i and weights s_i₁²/probes, which
    integrate polynomials up to degree 2 order − 1 against vᵀ δ(x − H) v/|v|² exactly; the mean over random probes with
    covariance 1 tends to the density tr δ(x − H)/dim, with an error that falls as probes^(−½). `products` gives H v for
    v ``(member, some, dim)``; as many probes at once as keep their bases below 256 MiB.
    (S. Ubaru, J. Chen, Y. Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017), doi:10.1137/16M1104974; for Hessians of
    networks B. Ghorbani, S. Krishnan, Y. Xiao, ICML 2019, arXiv:1901.10159.)
    """
    members, count, dim = probes.shape
    order = min(order, dim)
    size = max(1, 2**25 // (members * order * dim))
    parts = [_nodes(products, probes[:, i : i + size], order) for i in range(0, count, size)]
    nodes, weights = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return nodes, weights / count


def _nodes(products: Products, probes: Array, order: int) -> tuple[Array, Array]:
    """Nodes and weights of some probes, ``(member, probe · order)``; each probe's weights add up to 1."""
    members, _, dim = probes.shape
    iteration = Lanczos(lambda v: products(v.reshape(probes.shape)).reshape(v.shape), probes.reshape(-1, dim))
    for _ in range(order):
        iteration.extend()
    theta, s = iteration.ritz()
    return theta.reshape(members, -1), (s[:, 0] ** 2).reshape(members, -1)


def broadened(nodes: Array, weights: Array, points: int, width: float) -> tuple[Array, Array]:
    """A density of nodes ``(member, node)`` as a sum of Gaussians, on a grid of each member: ``(member, point)`` both.

    The standard deviation is `width` times the range of the nodes (of their size, where all are equal).
    """
    low, high = nodes.min(axis=1, keepdims=True), nodes.max(axis=1, keepdims=True)
    size = np.where(high > low, high - low, np.maximum(np.abs(high), 1e-300))
    deviation = width * size
    grid = low - 4 * deviation + (high - low + 8 * deviation) * np.linspace(0.0, 1.0, points)
    away = (grid[:, :, None] - nodes[:, None, :]) / deviation[:, :, None]
    heights = np.exp(-0.5 * away * away) / (np.sqrt(2 * np.pi) * deviation[:, :, None])
    return grid, np.asarray((heights * weights[:, None, :]).sum(axis=2))
