"""Owns sums over many weights: penalties, the norm of the gradient, and what is done with them.

Leaves the choice of weights to the trainer. Sums are float64, one per chunk of 1024 elements, and
then added up, so that threads can share the work and the order is always the same.
"""

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["add_chunk_sums", "chunk_sums", "clip_gradient", "penalty_gradient"]

CHUNK = 1024
"""Elements that one sum is over."""


def _check_chunks(kernel: str, name: str, sums: Array, n: int) -> None:
    chunks = -(-n // CHUNK)
    if sums.shape != (chunks,):
        raise ValueError(f"{kernel}: {name} has shape {sums.shape}, expected ({chunks},)")


def _check_alphas(kernel: str, l1: float, l2: float) -> None:
    if not (0 <= l1 < np.inf and 0 <= l2 < np.inf):
        raise ValueError(f"{kernel}: l1 and l2 must be at least 0 and finite, got {l1} and {l2}")


def chunk_sums(x: Array, l1: float, l2: float, sums: Array) -> None:
    """Sum each chunk: ``sums[i] = sum(l1 * abs(c) + l2 * c**2)``, ``c = x[1024 * i:][:1024]``.

    Parameters
    ----------
    x : (n,) float
    l1, l2 : float
    sums : (ceil(n / 1024),) float64, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``l1`` or ``l2`` is negative or not finite.

    Examples
    --------
    >>> sums = np.empty(2)
    >>> chunk_sums(np.full(1025, -2.0), 1.0, 10.0, sums)
    >>> sums.tolist()
    [43008.0, 42.0]
    """
    check_shapes("chunk_sums", x=(x, "n"), sums=(sums, "P"))
    _check_chunks("chunk_sums", "sums", sums, len(x))
    _check_alphas("chunk_sums", l1, l2)
    for i in range(len(sums)):
        c = x[CHUNK * i :][:CHUNK].astype(np.float64)
        sums[i] = l1 * abs(c).sum() + l2 * (c * c).sum()


def add_chunk_sums(sums: Array, loss: Array) -> None:
    """Add a penalty to the loss: ``loss += sum(sums)``.

    Parameters
    ----------
    sums : (P,) float64
    loss : (1,) float, updated

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> loss = np.ones(1)
    >>> add_chunk_sums(np.array([1.0, 2.0]), loss)
    >>> loss
    array([4.])
    """
    check_shapes("add_chunk_sums", sums=(sums, "P"), loss=(loss, "1"))
    loss[...] = loss + sums.sum()


def penalty_gradient(w: Array, l1: float, l2: float, dw: Array) -> None:
    """Add the gradient of ``sum(l1 * abs(w) + l2 * w**2)``: ``dw += l1 * sign(w) + 2 * l2 * w``.

    Parameters
    ----------
    w : (n,) float
    l1, l2 : float
    dw : (n,) float, updated

    Raises
    ------
    ValueError
        If the shapes differ, or ``l1`` or ``l2`` is negative or not finite.

    Examples
    --------
    >>> dw = np.zeros(3)
    >>> penalty_gradient(np.array([-3.0, 0.0, 1.0]), 1.0, 10.0, dw)
    >>> dw
    array([-61.,   0.,  21.])
    """
    check_shapes("penalty_gradient", w=(w, "n"), dw=(dw, "n"))
    _check_alphas("penalty_gradient", l1, l2)
    dw += l1 * np.sign(w) + 2 * l2 * w


def clip_gradient(squares: Array, clip_norm: float, grad: Array) -> None:
    """Limit the norm of a gradient: ``grad *= min(1, clip_norm / sqrt(sum(squares)))``.

    Parameters
    ----------
    squares : (P,) float64
        What ``chunk_sums(grad, 0, 1, squares)`` gives, or of all parts of a longer gradient.
    clip_norm : float
    grad : (n,) float, updated

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``clip_norm`` is not positive and finite.

    Examples
    --------
    >>> grad = np.array([3.0, 4.0])
    >>> clip_gradient(np.array([25.0]), 1.0, grad)
    >>> grad
    array([0.6, 0.8])
    """
    check_shapes("clip_gradient", squares=(squares, "P"), grad=(grad, "n"))
    if not 0 < clip_norm < np.inf:
        raise ValueError(f"clip_gradient: clip_norm must be positive and finite, got {clip_norm}")
    norm = np.sqrt(squares.sum())
    if norm > clip_norm:
        grad *= clip_norm / norm
