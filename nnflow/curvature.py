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
from scipy.special import ndtr

from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.typing import Array

Products = Callable[[Array], Array]  # v, one vector a row -> H v, of the same shape


class Lanczos:
    """Lanczos iterations of many members in step: call `extend` for one more column of the basis.

    Where the Krylov space is exhausted (β ≈ 0), the iteration goes on with a fresh orthogonal vector, drawn from
    `seed`, and β = 0: T falls into blocks. A member whose products are not finite is NaN. The basis takes member × (g +
    order) × dim × 8 bytes.

    Args:
        products: Gives H v for v ``(member, dim)``.
        start: ``(member, dim)``; it need not be normalized.
        locked: Orthonormal rows ``(member, g, dim)`` to which everything stays orthogonal: T is that of H on their
            complement.
        seed: Of fresh vectors.
    """

    def __init__(self, products: Products, start: Array, locked: Array | None = None, seed: int = 0) -> None:
        self.products, self.seed = products, seed
        self.members, dim = start.shape
        held = np.empty((self.members, 0, dim)) if locked is None else locked
        self.held, self.order, self.most = held.shape[1], 0, dim - held.shape[1]
        self.alpha = np.empty((self.members, 0))
        self.beta = np.empty((self.members, 0))
        self.basis = np.concatenate([held, np.empty((self.members, 8, dim))], axis=1)
        left = self._orthogonal(start)
        with np.errstate(all="ignore"):
            self.next = self._fresh(left, _size(left) <= 1e-8 * _size(start))

    def extend(self) -> None:
        """Go on by one product.

        Raises:
            Refusal: (a ValueError) if the basis is complete already.
        """
        if self.order == self.most:
            raise Refusal(f"order = {self.order + 1}: there are no more than {self.most} orthogonal vectors")
        if self.held + self.order == self.basis.shape[1]:
            self.basis = np.concatenate([self.basis, np.empty_like(self.basis)], axis=1)
        self.basis[:, self.held + self.order] = self.next
        self.order += 1
        with np.errstate(all="ignore"):  # a diverging member is a value
            w = np.asarray(self.products(self.next))
            alpha, left = (self.next * w).sum(axis=1), self._orthogonal(w)
            beta = _size(left)
            self.alpha = np.hstack([self.alpha, alpha[:, None]])
            scale = np.maximum(np.abs(self.alpha).max(axis=1), self.beta.max(axis=1, initial=0.0))
            stuck = (beta <= 1e-13 * scale) | (self.order == self.most)
            self.beta = np.hstack([self.beta, np.where(stuck, 0.0, beta)[:, None]])
            self.next = left if self.order == self.most else self._fresh(left, stuck)

    def _orthogonal(self, w: Array) -> Array:
        """Twice is enough."""
        basis = self.basis[:, : self.held + self.order]
        for _ in range(2):
            w = w - (basis.transpose(0, 2, 1) @ (basis @ w[:, :, None]))[:, :, 0]
        return w

    def _fresh(self, left: Array, stuck: npt.NDArray[np.bool_]) -> Array:
        """The next vector: what is left, normalized, or where nothing is, a drawn one."""
        if stuck.any():
            drawn = generator(self.seed, f"lanczos {self.order}").standard_normal(left.shape[1])
            left = np.where(stuck[:, None], self._orthogonal(np.tile(drawn, (self.members, 1))), left)
        return left / _size(left)[:, None]

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


def _size(v: Array) -> Array:
    return np.asarray(np.sqrt((v * v).sum(axis=1)))


class Extreme(NamedTuple):
    """The k largest eigenvalues, descending.

    Attributes:
        values: ``(member, k)``.
        residuals: ``(member, k)``, a bound on their error.
        vectors: ``(member, k, dim)``, the eigenvectors as rows.
    """

    values: Array
    residuals: Array
    vectors: Array


def largest(products: Products, starts: Array, tolerance: float = 1e-6, most: int = 100) -> Extreme:
    """The k algebraically largest eigenvalues of a symmetric operator, by Lanczos.

    One after the other, each on the complement of the eigenvectors before it, so that multiple ones are found as often
    as they occur. A member's result does not depend on the others.

    Args:
        products: Gives H v for v ``(member, some, dim)``.
        starts: Where the iterations start, ``(member, k, dim)``.
        tolerance: An iteration ends when its residual is below tolerance · max |θ|.
        most: Or after so many products.

    Returns:
        `residuals` |H u − θ u| are those of the vectors that come back: within each of its value there is an eigenvalue
        (whether it is the largest, no iteration can know: one that a start is all but orthogonal to is found late).

    Raises:
        Refusal: (a ValueError) unless 1 ≤ k ≤ dim.
    """
    members, k, dim = starts.shape
    if not 1 <= k <= dim:
        raise Refusal(f"k = {k}: there are {dim} eigenvalues, so 1 <= k <= {dim}")
    vectors = np.empty((members, 0, dim))
    for j in range(k):
        top = _top(Lanczos(products, starts[:, j], vectors), tolerance, most)
        vectors = np.concatenate([vectors, top[:, None]], axis=1)
    with np.errstate(all="ignore"):
        images = np.stack([np.asarray(products(vectors[:, j])) for j in range(k)], axis=1)
        values = (images * vectors).sum(axis=2)
        residuals = np.sqrt(((images - values[:, :, None] * vectors) ** 2).sum(axis=2))
    order = np.argsort(-values, axis=1)
    values, residuals = (np.take_along_axis(part, order, axis=1) for part in (values, residuals))
    return Extreme(values, residuals, np.take_along_axis(vectors, order[:, :, None], axis=1))


def _top(iteration: Lanczos, tolerance: float, most: int) -> Array:
    """The Ritz vector ``(member, dim)`` of the largest value, of each member as soon as it has converged."""
    found, done = np.full(iteration.next.shape, np.nan), np.zeros(iteration.members, dtype=bool)
    last = min(most, iteration.most)
    while not done.all():
        iteration.extend()
        theta, s = iteration.ritz()
        residual = np.abs(iteration.beta[:, -1] * s[:, -1, -1])
        good = (residual <= tolerance * np.abs(theta).max(axis=1)) | np.isnan(theta[:, 0])
        new = ~done & (good | (iteration.order == last))
        for i in np.flatnonzero(new):
            found[i] = s[i, :, -1] @ iteration.basis[i, iteration.held : iteration.held + iteration.order]
        done |= new
    return found


def quadrature(products: Products, probes: Array, order: int) -> tuple[Array, Array]:
    """Stochastic Lanczos quadrature of the spectral density.

    Of each probe an iteration of `order` steps gives nodes θ_i and weights s_i₁²/probes, which integrate polynomials up
    to degree 2 order − 1 against vᵀ δ(x − H) v/|v|² exactly; the mean over random probes with covariance 1 tends to the
    density tr δ(x − H)/dim, with an error that falls as probes^(−½).

    Args:
        products: Gives H v for v ``(member, some, dim)``; as many probes at once as keep their bases below 256 MiB.
        probes: ``(member, probe, dim)``.
        order: Steps of an iteration.

    Returns:
        Nodes and weights, ``(member, probe · order)`` each.

    Source:
        S. Ubaru, J. Chen, Y. Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017), doi:10.1137/16M1104974; for Hessians of
        networks B. Ghorbani, S. Krishnan, Y. Xiao, ICML 2019, arXiv:1901.10159.
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
    """A density of nodes as a sum of Gaussians, on a grid of each member.

    A point has the mean density over its cell, so that the sum over cells is 1 on any grid.

    Args:
        nodes: ``(member, node)``.
        weights: ``(member, node)``.
        points: How many points a grid has.
        width: The standard deviation over the range of the nodes (over their size, where all are equal).

    Returns:
        The grids and the densities on them, ``(member, point)`` both.
    """
    low, high = nodes.min(axis=1, keepdims=True), nodes.max(axis=1, keepdims=True)
    size = np.where(high > low, high - low, np.maximum(np.abs(high), 1e-300))
    deviation = width * size
    edges = low - 4 * deviation + (high - low + 8 * deviation) * np.linspace(0.0, 1.0, points + 1)
    below = np.empty_like(edges)
    for i, row in enumerate(nodes):
        below[i] = ndtr((edges[i][:, None] - row) / deviation[i]) @ weights[i]
    return (edges[:, 1:] + edges[:, :-1]) / 2, np.diff(below, axis=1) / np.diff(edges, axis=1)
