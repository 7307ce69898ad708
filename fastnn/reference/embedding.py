"""Owns embeddings: rows of a table by the numbers of tokens, and the table's gradient.

Leaves what the tokens stand for to the user.
"""

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["embedding_backward", "embedding_forward"]


def check_tokens(kernel: str, x: Array, tokens: int) -> None:
    """Check that all tokens are in [0, tokens)."""
    bad = x[(x < 0) | (x >= tokens)]
    if bad.size:
        raise ValueError(f"{kernel}: token {bad[0]} is not in [0, {tokens})")


def embedding_forward(x: Array, w: Array, out: Array) -> None:
    """Look tokens up: ``out[r] = w[x[r]]``.

    Parameters
    ----------
    x : (R,) int32
        In [0, V).
    w : (V, U) float
    out : (R, U) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or a token is out of range.

    Examples
    --------
    >>> out = np.empty((3, 1))
    >>> embedding_forward(np.array([1, 0, 1], np.int32), np.array([[5.0], [6.0]]), out)
    >>> out.ravel()
    array([6., 5., 6.])
    """
    check_shapes("embedding_forward", x=(x, "R"), w=(w, "VU"), out=(out, "RU"))
    check_tokens("embedding_forward", x, len(w))
    out[...] = w[x]


def embedding_backward(dout: Array, x: Array, clean: Array | None, dw: Array) -> None:
    """Gradient of ``out[r] = w[x[r]]``: ``dw = 0``, then ``dw[x[r]] += dout[r]`` in order of r.

    Parameters
    ----------
    dout : (R, U) float
    x : (R,) int32
        In [0, V).
    clean : (V,) uint8 or None, updated
        Not 0 where a row of ``dw`` is known to be 0, before the call and after it: a large table
        is then not written all over in each step. None: nothing is known.
    dw : (V, U) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or a token is out of range.

    Examples
    --------
    >>> dw, clean = np.array([[7.0], [0.0], [0.0]]), np.array([0, 1, 1], np.uint8)
    >>> embedding_backward(np.array([[1.0], [2.0]]), np.array([2, 2], np.int32), clean, dw)
    >>> dw.ravel(), clean
    (array([0., 0., 3.]), array([1, 1, 0], dtype=uint8))
    """
    check_shapes(
        "embedding_backward", dout=(dout, "RU"), x=(x, "R"), clean=(clean, "V"), dw=(dw, "VU")
    )
    check_tokens("embedding_backward", x, len(dw))
    dw[slice(None) if clean is None else clean == 0] = 0
    np.add.at(dw, x, dout)
    if clean is not None:
        clean[...] = 1
        clean[x] = 0
