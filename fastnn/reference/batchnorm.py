"""Owns batch normalisation of rows of channels, in training and in use, as NumPy formulas.

Leaves images to the caller: their pixels are rows. Running statistics belong to the layer.
"""

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["batchnorm_backward", "batchnorm_forward", "batchnorm_inference", "batchnorm_update"]

CHUNK_ROWS = 256
"""Rows that the compiled kernels sum at a time, in float64: threads share chunks."""


def _check(kernel: str, x: Array, eps: float, scratch: Array | None = None) -> None:
    rows, channels = x.shape
    chunks = -(-rows // CHUNK_ROWS)
    if scratch is not None and scratch.shape != (chunks, 2, channels):
        raise ValueError(
            f"{kernel}: scratch has shape {scratch.shape}, expected {(chunks, 2, channels)}"
        )
    if not 0 < eps < np.inf:
        raise ValueError(f"{kernel}: eps must be positive and finite, got {eps}")
    if not rows:
        raise ValueError(f"{kernel}: x has shape {x.shape}, expected at least one row")


def batchnorm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    scratch: Array,
    mean: Array,
    var: Array,
    out: Array,
) -> None:
    """Normalise each channel over the rows: ``out = (x - mean) / sqrt(var + eps) * gamma + beta``.

    With ``mean = x.mean(0)`` and ``var = ((x - mean)**2).mean(0)`` (Ioffe & Szegedy 2015).

    Parameters
    ----------
    x : (N, C) float
    gamma, beta : (C,) float
    eps : float
        Positive.
    scratch : (ceil(N / 256), 2, C) float64
        Space for the compiled kernel's sums.
    mean, var : (C,) float, overwritten
    out : (N, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, ``eps`` is not positive, or there is no row.

    Examples
    --------
    >>> x, (mean, var) = np.array([[1.0], [3.0]]), np.empty((2, 1))
    >>> gamma, beta, out = np.array([2.0]), np.array([10.0]), np.empty((2, 1))
    >>> batchnorm_forward(x, gamma, beta, 1e-9, np.empty((1, 2, 1)), mean, var, out)
    >>> out.ravel().round(6), mean, var
    (array([ 8., 12.]), array([2.]), array([1.]))
    """
    check_shapes(
        "batchnorm_forward",
        x=(x, "NC"),
        gamma=(gamma, "C"),
        beta=(beta, "C"),
        mean=(mean, "C"),
        var=(var, "C"),
        out=(out, "NC"),
    )
    _check("batchnorm_forward", x, eps, scratch)
    mean[...] = x.mean(axis=0, dtype=np.float64)
    var[...] = np.square(x - mean).mean(axis=0, dtype=np.float64)
    out[...] = (x - mean) / np.sqrt(var + eps) * gamma + beta


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, out: Array
) -> None:
    """Normalise with given statistics: ``out = (x - mean) / sqrt(var + eps) * gamma + beta``.

    Parameters
    ----------
    x : (N, C) float
    gamma, beta, mean, var : (C,) float
    eps : float
        Positive.
    out : (N, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, ``eps`` is not positive, or there is no row.

    Examples
    --------
    >>> x, one, out = np.array([[1.0], [3.0]]), np.ones(1), np.empty((2, 1))
    >>> batchnorm_inference(x, one, one, 3 * one, 4 * one, 1e-9, out)
    >>> out.ravel().round(6)
    array([0., 1.])
    """
    check_shapes(
        "batchnorm_inference",
        x=(x, "NC"),
        gamma=(gamma, "C"),
        beta=(beta, "C"),
        mean=(mean, "C"),
        var=(var, "C"),
        out=(out, "NC"),
    )
    _check("batchnorm_inference", x, eps)
    out[...] = (x - mean) / np.sqrt(var + eps) * gamma + beta


def batchnorm_backward(
    dout: Array,
    x: Array,
    gamma: Array,
    eps: float,
    mean: Array,
    var: Array,
    scratch: Array,
    dx: Array | None,
    dgamma: Array,
    dbeta: Array,
) -> None:
    """Gradients of ``out = u * gamma + beta``, ``u = (x - mean) / sqrt(var + eps)``.

    ``dgamma = (dout * u).sum(0)``, ``dbeta = dout.sum(0)`` and, because mean and variance depend on
    all rows, ``dx = gamma / sqrt(var + eps) * (dout - dbeta / N - u * dgamma / N)``.

    Parameters
    ----------
    dout, x : (N, C) float
    gamma, mean, var : (C,) float
    eps : float
        Positive.
    scratch : (ceil(N / 256), 2, C) float64
        Space for the compiled kernel's sums.
    dx : (N, C) float or None, overwritten
        None means not wanted (the first layer).
    dgamma, dbeta : (C,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, ``eps`` is not positive, or there is no row.

    Examples
    --------
    >>> x, dout = np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]])
    >>> one, scratch, (dgamma, dbeta) = np.ones(1), np.empty((1, 2, 1)), np.empty((2, 1))
    >>> batchnorm_backward(dout, x, one, 1e-9, 2 * one, one, scratch, None, dgamma, dbeta)
    >>> dgamma.round(6), dbeta
    (array([1.]), array([1.]))
    """
    check_shapes(
        "batchnorm_backward",
        dout=(dout, "NC"),
        x=(x, "NC"),
        gamma=(gamma, "C"),
        mean=(mean, "C"),
        var=(var, "C"),
        dx=(dx, "NC"),
        dgamma=(dgamma, "C"),
        dbeta=(dbeta, "C"),
    )
    _check("batchnorm_backward", x, eps, scratch)
    scale = 1 / np.sqrt(var + eps)
    u = (x - mean) * scale
    dgamma[...] = (dout * u).sum(axis=0)
    dbeta[...] = dout.sum(axis=0)
    if dx is not None:
        dx[...] = gamma * scale * (dout - dbeta / len(x) - u * dgamma / len(x))


def batchnorm_update(
    mean: Array, var: Array, rows: int, momentum: float, running_mean: Array, running_var: Array
) -> None:
    """Move the running statistics by a batch's: ``running += momentum * (batch - running)``.

    The batch's variance is first made unbiased: ``var * rows / (rows - 1)``, if there are two.

    Parameters
    ----------
    mean, var : (C,) float
    rows : int
        That they are over, at least 1.
    momentum : float
        In [0, 1].
    running_mean, running_var : (C,) float, updated

    Raises
    ------
    ValueError
        If the shapes differ, or a number is out of range.

    Examples
    --------
    >>> mean, var = np.zeros(1), np.ones(1)
    >>> batchnorm_update(np.array([2.0]), np.array([4.0]), 2, 0.5, mean, var)
    >>> mean, var
    (array([1.]), array([4.5]))
    """
    check_shapes(
        "batchnorm_update",
        mean=(mean, "C"),
        var=(var, "C"),
        running_mean=(running_mean, "C"),
        running_var=(running_var, "C"),
    )
    if rows < 1:
        raise ValueError(f"batchnorm_update: rows must be at least 1, got {rows}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"batchnorm_update: momentum must be in [0, 1], got {momentum}")
    unbiased = var * (rows / max(rows - 1, 1))
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (unbiased - running_var)
