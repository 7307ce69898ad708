"""Owns the matrix products and the dense layer's kernels, as NumPy formulas.

Leaves activations to ``elementwise`` and all memory to the caller: outputs come last and are
fully overwritten.
"""

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["dense_backward", "dense_forward", "gemm_nn", "gemm_nt", "gemm_tn"]


def gemm_nn(a: Array, b: Array, out: Array) -> None:
    """Product ``out = a @ b``.

    Parameters
    ----------
    a : (M, K) float
    b : (K, N) float
    out : (M, N) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty((1, 2))
    >>> gemm_nn(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 3.0]]), out)
    >>> out
    array([[1., 6.]])
    """
    check_shapes("gemm_nn", a=(a, "MK"), b=(b, "KN"), out=(out, "MN"))
    out[...] = a @ b


def gemm_nt(a: Array, b: Array, out: Array) -> None:
    """Product ``out = a @ b.T``.

    Parameters
    ----------
    a : (M, K) float
    b : (N, K) float
    out : (M, N) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty((1, 1))
    >>> gemm_nt(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), out)
    >>> out
    array([[11.]])
    """
    check_shapes("gemm_nt", a=(a, "MK"), b=(b, "NK"), out=(out, "MN"))
    out[...] = a @ b.T


def gemm_tn(a: Array, b: Array, out: Array) -> None:
    """Product ``out = a.T @ b``.

    Parameters
    ----------
    a : (K, M) float
    b : (K, N) float
    out : (M, N) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty((2, 1))
    >>> gemm_tn(np.array([[1.0, 2.0]]), np.array([[3.0]]), out)
    >>> out
    array([[3.],
           [6.]])
    """
    check_shapes("gemm_tn", a=(a, "KM"), b=(b, "KN"), out=(out, "MN"))
    out[...] = a.T @ b


def dense_forward(x: Array, w: Array, b: Array | None, out: Array) -> None:
    """Affine map ``out = x @ w + b``.

    Parameters
    ----------
    x : (N, I) float
    w : (I, O) float
    b : (O,) float or None
        None means no bias.
    out : (N, O) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty((1, 1))
    >>> dense_forward(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([0.5]), out)
    >>> out
    array([[11.5]])
    """
    check_shapes("dense_forward", x=(x, "NI"), w=(w, "IO"), b=(b, "O"), out=(out, "NO"))
    out[...] = x @ w if b is None else x @ w + b


def dense_backward(
    dout: Array, x: Array, w: Array, dx: Array | None, dw: Array, db: Array | None
) -> None:
    """Gradients of ``out = x @ w + b``.

    ``dx = dout @ w.T``, ``dw = x.T @ dout``, ``db = dout.sum(axis=0)``.

    Parameters
    ----------
    dout : (N, O) float
    x : (N, I) float
    w : (I, O) float
    dx : (N, I) float or None, overwritten
        None means not wanted (the first layer).
    dw : (I, O) float, overwritten
    db : (O,) float or None, overwritten
        None means no bias.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> dw, db = np.empty((2, 1)), np.empty(1)
    >>> dense_backward(np.array([[2.0]]), np.array([[3.0, 4.0]]), np.ones((2, 1)), None, dw, db)
    >>> dw.ravel(), db
    (array([6., 8.]), array([2.]))
    """
    check_shapes(
        "dense_backward",
        dout=(dout, "NO"),
        x=(x, "NI"),
        w=(w, "IO"),
        dx=(dx, "NI"),
        dw=(dw, "IO"),
        db=(db, "O"),
    )
    if dx is not None:
        dx[...] = dout @ w.T
    dw[...] = x.T @ dout
    if db is not None:
        db[...] = dout.sum(axis=0)
