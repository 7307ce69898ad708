"""Owns convolution and transposed convolution of channels-last images, as NumPy formulas.

Leaves sizes to ``fastnn.windows``, and all memory to the caller: outputs come last and are fully
overwritten.
"""

from collections.abc import Iterator

import numpy as np

from fastnn.reference._shapes import Array, check_shapes
from fastnn.windows import Padding, Pair, check_convolution

__all__ = [
    "conv2d_backward",
    "conv2d_forward",
    "conv_transpose2d_backward",
    "conv_transpose2d_forward",
]


def taps(
    x: Array, w: Array, out: Array, stride: Pair, dilation: Pair
) -> Iterator[tuple[Pair, Array]]:
    """Yield each tap (r, q) of w, and the pixels (N, OH, OW, C) of the padded x that it meets."""
    (sh, sw), (dh, dw), (oh, ow) = stride, dilation, out.shape[1:3]
    for r, q in np.ndindex(*w.shape[:2]):
        rows = slice(r * dh, r * dh + (oh - 1) * sh + 1, sh)
        columns = slice(q * dw, q * dw + (ow - 1) * sw + 1, sw)
        yield (r, q), x[:, rows, columns]


def padded(x: Array, pad: Padding) -> Array:
    """Return a copy of ``x`` (N, H, W, C) within zeros."""
    return np.pad(x, ((0, 0), *pad, (0, 0)))


def inner(x: Array, pad: Padding) -> Array:
    """Return what ``padded`` put zeros around."""
    (top, bottom), (left, right) = pad
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def conv2d_forward(
    x: Array, w: Array, b: Array | None, stride: Pair, pad: Padding, dilation: Pair, out: Array
) -> None:
    """Convolution (as in networks: w is not flipped) of images.

    ``out[n, i, j] = b + sum over r, q of xp[n, i*sh + r*dh, j*sw + q*dw] @ w[r, q]``, where ``xp``
    is ``x`` within zeros (Dumoulin & Visin 2016).

    Parameters
    ----------
    x : (N, H, W, C) float
    w : (KH, KW, C, K) float
    b : (K,) float or None
        None means no bias.
    stride : (int, int)
    pad : ((int, int), (int, int))
        Rows of zeros above and below, columns left and right.
    dilation : (int, int)
    out : (N, OH, OW, K) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, out = np.arange(4.0).reshape(1, 1, 4, 1), np.empty((1, 1, 3, 1))
    >>> w = np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    >>> conv2d_forward(x, w, None, (1, 1), ((0, 0), (0, 0)), (1, 1), out)
    >>> out.ravel()
    array([-1., -1., -1.])
    """
    check_shapes("conv2d_forward", x=(x, "NHWC"), w=(w, "RQCK"), b=(b, "K"), out=(out, "NIJK"))
    check_convolution("conv2d_forward", x.shape, w.shape, out.shape, stride, pad, dilation)
    out[...] = 0 if b is None else b
    for tap, pixels in taps(padded(x, pad), w, out, stride, dilation):
        out += pixels @ w[tap]


def conv2d_backward(
    dout: Array,
    x: Array,
    w: Array,
    stride: Pair,
    pad: Padding,
    dilation: Pair,
    scratch: Array | None,
    dx: Array | None,
    dw: Array,
    db: Array | None,
) -> None:
    """Gradients of ``out[n, i, j] = b + sum over r, q of xp[n, i*sh + r*dh, ...] @ w[r, q]``.

    Parameters
    ----------
    dout : (N, OH, OW, K) float
    x : (N, H, W, C) float
    w : (KH, KW, C, K) float
    stride, pad, dilation
        As in ``conv2d_forward``.
    scratch : (Q, KH*KW*C*K + K) float or None
        Space for the sums of Q chunks of the batch, which the compiled kernel computes in parallel.
    dx : (N, H, W, C) float or None, overwritten
        None means not wanted (the first layer).
    dw : (KH, KW, C, K) float, overwritten
    db : (K,) float or None, overwritten
        None means no bias.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, dout = np.arange(3.0).reshape(1, 1, 3, 1), np.ones((1, 1, 2, 1))
    >>> w, dw, db = np.ones((1, 2, 1, 1)), np.empty((1, 2, 1, 1)), np.empty(1)
    >>> conv2d_backward(dout, x, w, (1, 1), ((0, 0), (0, 0)), (1, 1), None, None, dw, db)
    >>> dw.ravel(), db
    (array([1., 3.]), array([2.]))
    """
    check_shapes(
        "conv2d_backward",
        dout=(dout, "NIJK"),
        x=(x, "NHWC"),
        w=(w, "RQCK"),
        dx=(dx, "NHWC"),
        dw=(dw, "RQCK"),
        db=(db, "K"),
    )
    check_convolution("conv2d_backward", x.shape, w.shape, dout.shape, stride, pad, dilation)
    check_scratch("conv2d_backward", scratch, w, w.shape[3])
    for tap, pixels in taps(padded(x, pad), w, dout, stride, dilation):
        dw[tap] = np.tensordot(pixels, dout, axes=((0, 1, 2), (0, 1, 2)))
    if dx is not None:
        dxp = padded(np.zeros_like(x), pad)
        for tap, pixels in taps(dxp, w, dout, stride, dilation):
            pixels[...] += dout @ w[tap].T
        dx[...] = inner(dxp, pad)
    if db is not None:
        db[...] = dout.sum(axis=(0, 1, 2))


def check_scratch(kernel: str, scratch: Array | None, w: Array, outputs: int) -> None:
    """Check that each row of ``scratch`` has room for the gradients of w and of a bias."""
    if scratch is not None and (scratch.ndim != 2 or scratch.shape[1] != w.size + outputs):
        raise ValueError(
            f"{kernel}: scratch has shape {scratch.shape}, expected (Q, {w.size + outputs})"
        )
    if scratch is not None and not scratch.size:
        raise ValueError(f"{kernel}: scratch has shape {scratch.shape}, expected a row or None")


def conv_transpose2d_forward(
    x: Array, w: Array, b: Array | None, stride: Pair, pad: Padding, out: Array
) -> None:
    """Transposed convolution: what ``conv2d_backward`` does to ``dout``, plus a bias.

    ``outp[n, i*sh + r, j*sw + q] += x[n, i, j] @ w[r, q].T``, ``out`` being ``b`` plus ``outp``
    without its rim of ``pad`` (Dumoulin & Visin 2016).

    Parameters
    ----------
    x : (N, H, W, C) float
    w : (KH, KW, K, C) float
        In the layout of the convolution that it transposes, from K channels to C.
    b : (K,) float or None
    stride : (int, int)
    pad : ((int, int), (int, int))
    out : (N, OH, OW, K) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, out = np.array([1.0, 2.0]).reshape(1, 1, 2, 1), np.empty((1, 1, 4, 1))
    >>> w = np.array([1.0, 10.0]).reshape(1, 2, 1, 1)
    >>> conv_transpose2d_forward(x, w, None, (1, 2), ((0, 0), (0, 0)), out)
    >>> out.ravel()
    array([ 1., 10.,  2., 20.])
    """
    kernel = "conv_transpose2d_forward"
    check_shapes(kernel, x=(x, "NHWC"), w=(w, "RQKC"), b=(b, "K"), out=(out, "NIJK"))
    check_convolution(kernel, out.shape, w.shape, x.shape, stride, pad, (1, 1))
    outp = padded(np.zeros_like(out), pad)
    for tap, pixels in taps(outp, w, x, stride, (1, 1)):
        pixels[...] += x @ w[tap].T
    out[...] = inner(outp, pad) + (0 if b is None else b)


def conv_transpose2d_backward(
    dout: Array,
    x: Array,
    w: Array,
    stride: Pair,
    pad: Padding,
    scratch: Array | None,
    dx: Array | None,
    dw: Array,
    db: Array | None,
) -> None:
    """Gradients of ``outp[n, i*sh + r, j*sw + q] += x[n, i, j] @ w[r, q].T``.

    Parameters
    ----------
    dout : (N, OH, OW, K) float
    x : (N, H, W, C) float
    w : (KH, KW, K, C) float
    stride, pad
        As in ``conv_transpose2d_forward``.
    scratch : (Q, KH*KW*K*C + K) float or None
        As in ``conv2d_backward``.
    dx : (N, H, W, C) float or None, overwritten
    dw : (KH, KW, K, C) float, overwritten
    db : (K,) float or None, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, dout = np.array([1.0, 2.0]).reshape(1, 1, 2, 1), np.arange(4.0).reshape(1, 1, 4, 1)
    >>> w, dw = np.ones((1, 2, 1, 1)), np.empty((1, 2, 1, 1))
    >>> conv_transpose2d_backward(dout, x, w, (1, 2), ((0, 0), (0, 0)), None, None, dw, None)
    >>> dw.ravel()
    array([4., 7.])
    """
    kernel = "conv_transpose2d_backward"
    check_shapes(
        kernel,
        dout=(dout, "NIJK"),
        x=(x, "NHWC"),
        w=(w, "RQKC"),
        dx=(dx, "NHWC"),
        dw=(dw, "RQKC"),
        db=(db, "K"),
    )
    check_convolution(kernel, dout.shape, w.shape, x.shape, stride, pad, (1, 1))
    check_scratch(kernel, scratch, w, w.shape[2])
    for tap, pixels in taps(padded(dout, pad), w, x, stride, (1, 1)):
        dw[tap] = np.tensordot(pixels, x, axes=((0, 1, 2), (0, 1, 2)))
    if dx is not None:
        conv2d_forward(dout, w, None, stride, pad, (1, 1), dx)
    if db is not None:
        db[...] = dout.sum(axis=(0, 1, 2))
