"""Spectrum of a symmetric matrix: exact, or by Lanczos from products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

#: Lanczos steps and random starts of a spectral density.
_STEPS, _PROBES = 80, 8


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a symmetric matrix, or their estimate by Lanczos.

    Attributes
    ----------
    size : int
        Rows of the matrix.
    lowest, largest : float
        Smallest and largest eigenvalue.
    smallest : float or None
        Smallest magnitude of a nonzero eigenvalue; None if not computed.
    rank : int or None
        Number of nonzero eigenvalues: above ``size · ε`` times the largest magnitude, with ε the machine
        epsilon of float64. None if not computed.
    eigenvalues : array of shape (size,) or None
        All eigenvalues, ascending; None if not computed.
    nodes, weights : array of shape (k,)
        Density of the eigenvalues, as point masses with the sum 1.
    """

    size: int
    lowest: float
    largest: float
    smallest: float | None
    rank: int | None
    eigenvalues: Array | None
    nodes: Array
    weights: Array

    @property
    def condition(self) -> float | None:
        """Ratio of the largest to the smallest magnitude of a nonzero eigenvalue, ≥ 1.

        This is the condition *over the range*: gradient descent does not move along the null space, so the
        nonzero eigenvalues determine its convergence. None if the smallest was not computed; 1 for the zero
        matrix.
        """
        if self.smallest is None:
            return None
        return max(abs(self.lowest), abs(self.largest)) / self.smallest if self.rank else 1.0

    def density(self, points: Array, width: float) -> Array:
        """Return the density at `points`, each eigenvalue as a Gaussian of the deviation `width`."""
        apart = (points[:, None] - self.nodes) / width
        blurred: Array = np.exp(-0.5 * apart**2) @ self.weights / (width * np.sqrt(2.0 * np.pi))
        return blurred

    def __str__(self) -> str:
        if self.condition is not None:
            return f"condition {self.condition:.3g}, rank {self.rank} of {self.size}"
        return (
            f"largest eigenvalue {self.largest:.3g} (Lanczos); the smallest nonzero eigenvalue, and so the "
            f"condition, was not computed for {self.size:,} parameters"
        )


def dense_spectrum(matrix: Array) -> Spectrum:
    """Return the spectrum of a symmetric matrix of shape (n, n), n ≥ 1, from all its eigenvalues."""
    size = len(matrix)
    eigenvalues = np.asarray(np.linalg.eigvalsh((matrix + matrix.T) / 2.0), np.float64)
    magnitudes = np.abs(eigenvalues)
    nonzero = magnitudes[magnitudes > size * np.finfo(np.float64).eps * magnitudes.max()]
    smallest = float(nonzero.min()) if len(nonzero) else 0.0
    ends = float(eigenvalues[0]), float(eigenvalues[-1])
    return Spectrum(size, *ends, smallest, len(nonzero), eigenvalues, eigenvalues, np.full(size, 1.0 / size))


def lanczos_spectrum(product: Product, size: int, seed: int) -> Spectrum:
    """Return the ends and the density of a spectrum, from products of the matrix with vectors.

    Parameters
    ----------
    product : callable
        Returns the product of the matrix with a vector of shape (size,).
    size : int
        Rows of the matrix, ≥ 3.
    seed : int
        Seed of the random starts of Lanczos.

    Notes
    -----
    The density is that of stochastic Lanczos quadrature: the mean, over 8 random starts, of the Gaussian
    quadrature of 80 steps.

    References
    ----------
    Ghorbani, Krishnan, Xiao, *An investigation into neural net optimization via Hessian eigenvalue density*,
    ICML 2019.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh  # imported late, for the start of a server

    rng = np.random.default_rng(seed)
    operator = LinearOperator((size, size), matvec=lambda v: product(v.reshape(-1)), dtype=np.float64)
    ends, _ = eigsh(operator, k=2, which="BE", v0=rng.standard_normal(size), tol=1e-9)
    parts = [_quadrature(product, rng.standard_normal(size)) for _ in range(_PROBES)]
    nodes = np.concatenate([nodes for nodes, _ in parts])
    weights = np.concatenate([weights for _, weights in parts]) / _PROBES
    return Spectrum(size, float(ends.min()), float(ends.max()), None, None, None, nodes, weights)


def _quadrature(product: Product, start: Array) -> tuple[Array, Array]:
    """Return nodes and weights, with the sum 1, of the Gaussian quadrature of Lanczos from `start`."""
    from scipy.linalg import eigh_tridiagonal  # as above

    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(_STEPS, len(start))):
        vector = product(basis[-1])
        scale = float(np.linalg.norm(vector))
        diagonal.append(float(basis[-1] @ vector))
        known = np.array(basis)
        for _ in range(2):  # once leaves rounding errors, which duplicate eigenvalues
            vector = vector - known.T @ (known @ vector)
        size = float(np.linalg.norm(vector))
        if size <= 1e-12 * scale:  # an invariant subspace: the end
            break
        beside.append(size)
        basis.append(vector / size)
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[: len(diagonal) - 1]))
    return np.asarray(nodes, np.float64), np.square(vectors[0])
