"""Owns pooling and upsampling of channels-last images, as NumPy formulas over sliding windows.

Leaves sizes to ``fastnn.windows``, and all memory to the caller: outputs come last and are fully
overwritten.
"""

from collections.abc import Iterator

import numpy as np

from fastnn.reference._shapes import Array, check_shapes
from fastnn.windows import Padding, Pair, check_pool

__all__ = [
    "avgpool2d_backward",
    "avgpool2d_forward",
    "maxpool2d_backward",
    "maxpool2d_forward",
    "upsample2d_backward",
    "upsample2d_forward",
]


def windows(x: Array, size: Pair, stride: Pair, pad: Padding, fill: float) -> Array:
    """Return the windows (N, OH, OW, C, R * Q) of ``x`` (N, H, W, C) within ``fill``."""
    around = np.pad(x, ((0, 0), *pad, (0, 0)), constant_values=fill)
    (sh, sw), axes = stride, (1, 2)
    view = np.lib.stride_tricks.sliding_window_view(around, size, axes)[:, ::sh, ::sw]
    return view.reshape(*view.shape[:4], size[0] * size[1])


def taps(dx: Array, out: Array, size: Pair, stride: Pair, pad: Padding) -> Iterator[Array]:
    """Yield, for each pixel of a window, the pixels (N, OH, OW, C) that all windows have there.

    They are views of zeros, to add to; at the end, what lies inside the padding becomes ``dx``.
    """
    (sh, sw), (oh, ow), ((top, bottom), (left, right)) = stride, out.shape[1:3], pad
    around = np.pad(np.zeros_like(dx), ((0, 0), *pad, (0, 0)))
    for r, q in np.ndindex(*size):
        yield around[:, r : r + (oh - 1) * sh + 1 : sh, q : q + (ow - 1) * sw + 1 : sw]
    height, width = around.shape[1:3]
    dx[...] = around[:, top : height - bottom, left : width - right]


def check_images(
    kernel: str, image: Array, pooled: Array, size: Pair, stride: Pair, pad: Padding
) -> None:
    """Check that ``pooled`` has a pixel for each window of ``image``."""
    check_shapes(kernel, image=(image, "NHWC"), pooled=(pooled, "NIJC"))
    check_pool(kernel, image.shape, pooled.shape, size, stride, pad)


def check_index(kernel: str, index: Array, pooled: Array, size: Pair) -> None:
    """Check that ``index`` has a pixel for each window, and a dtype for each place in it."""
    check_shapes(kernel, pooled=(pooled, "NIJC"), index=(index, "NIJC"))
    dtype = np.dtype(np.uint8 if size[0] * size[1] <= 256 else np.int32)
    if index.dtype != dtype:
        raise ValueError(f"{kernel}: index has dtype {index.dtype}, expected {dtype}")


def maxpool2d_forward(
    x: Array, size: Pair, stride: Pair, pad: Padding, index: Array | None, out: Array
) -> None:
    """Largest pixel of each window, channel by channel: ``out[n, i, j, c] = max(window)``.

    Where ``window = xp[n, i*sh : i*sh + R, j*sw : j*sw + Q, c]`` and ``xp`` is ``x`` within
    infinitely small pixels. NaN is the largest.

    Parameters
    ----------
    x : (N, H, W, C) float
    size : (int, int)
        R, Q: height and width of a window.
    stride : (int, int)
    pad : ((int, int), (int, int))
        Rows above and below, columns left and right; smaller than the window.
    index : (N, OH, OW, C) uint8, int32 for windows of more than 256 pixels, or None, overwritten
        Place ``r*Q + q`` of the first of the largest in the window.
    out : (N, OH, OW, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, out = np.array([1.0, 5.0, 2.0]).reshape(1, 1, 3, 1), np.empty((1, 1, 2, 1))
    >>> index = np.empty(out.shape, np.uint8)
    >>> maxpool2d_forward(x, (1, 2), (1, 1), ((0, 0), (0, 0)), index, out)
    >>> out.ravel(), index.ravel()
    (array([5., 5.]), array([1, 0], dtype=uint8))
    """
    check_images("maxpool2d_forward", x, out, size, stride, pad)
    window = windows(x, size, stride, pad, -np.inf)
    if index is not None:
        check_index("maxpool2d_forward", index, out, size)
        index[...] = window.argmax(axis=-1)
    out[...] = window.max(axis=-1)


def maxpool2d_backward(
    dout: Array, size: Pair, stride: Pair, pad: Padding, index: Array, dx: Array
) -> None:
    """Gradient of ``out[n, i, j, c] = max(window)``: each goes to the pixel at ``index``.

    Parameters
    ----------
    dout : (N, OH, OW, C) float
    size, stride, pad, index
        As in ``maxpool2d_forward``.
    dx : (N, H, W, C) float, overwritten
        A pixel that several windows chose gets their sum.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> dout, dx = np.array([10.0, 20.0]).reshape(1, 1, 2, 1), np.empty((1, 1, 3, 1))
    >>> index = np.array([1, 0], np.uint8).reshape(1, 1, 2, 1)
    >>> maxpool2d_backward(dout, (1, 2), (1, 1), ((0, 0), (0, 0)), index, dx)
    >>> dx.ravel()
    array([ 0., 30.,  0.])
    """
    check_images("maxpool2d_backward", dx, dout, size, stride, pad)
    check_index("maxpool2d_backward", index, dout, size)
    for place, pixels in enumerate(taps(dx, dout, size, stride, pad)):
        pixels[...] += np.where(index == place, dout, 0)


def divisors(x: Array, size: Pair, stride: Pair, pad: Padding, include_pad: bool) -> Array:
    """Return what each window's sum is divided by, (OH, OW, 1)."""
    inside = windows(np.ones((1, *x.shape[1:3], 1)), size, stride, pad, float(include_pad))
    divisor: Array = inside.sum(axis=-1)[0]
    return divisor


def avgpool2d_forward(
    x: Array, size: Pair, stride: Pair, pad: Padding, include_pad: bool, out: Array
) -> None:
    """Mean of each window, channel by channel: ``out[n, i, j, c] = sum(window) / divisor[i, j]``.

    Where ``window = xp[n, i*sh : i*sh + R, j*sw : j*sw + Q, c]`` and ``xp`` is ``x`` within zeros.

    Parameters
    ----------
    x : (N, H, W, C) float
    size, stride, pad
        As in ``maxpool2d_forward``.
    include_pad : bool
        Divide by R*Q; otherwise by the number of the window's pixels that are in the image.
    out : (N, OH, OW, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> x, out = np.array([1.0, 5.0, 2.0]).reshape(1, 1, 3, 1), np.empty((1, 1, 2, 1))
    >>> avgpool2d_forward(x, (1, 2), (1, 1), ((0, 0), (0, 0)), True, out)
    >>> out.ravel()
    array([3. , 3.5])
    """
    check_images("avgpool2d_forward", x, out, size, stride, pad)
    total = windows(x, size, stride, pad, 0).sum(axis=-1)
    out[...] = total / divisors(x, size, stride, pad, include_pad)


def avgpool2d_backward(
    dout: Array, size: Pair, stride: Pair, pad: Padding, include_pad: bool, dx: Array
) -> None:
    """Gradient of ``out[n, i, j, c] = sum(window) / divisor[i, j]``: each window shares its own.

    Parameters
    ----------
    dout : (N, OH, OW, C) float
    size, stride, pad, include_pad
        As in ``avgpool2d_forward``.
    dx : (N, H, W, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> dout, dx = np.array([10.0, 20.0]).reshape(1, 1, 2, 1), np.empty((1, 1, 3, 1))
    >>> avgpool2d_backward(dout, (1, 2), (1, 1), ((0, 0), (0, 0)), True, dx)
    >>> dx.ravel()
    array([ 5., 15., 10.])
    """
    check_images("avgpool2d_backward", dx, dout, size, stride, pad)
    share = dout / divisors(dx, size, stride, pad, include_pad)
    for pixels in taps(dx, dout, size, stride, pad):
        pixels[...] += share


def check_upsampled(kernel: str, image: Array, larger: Array, size: Pair) -> None:
    """Check that ``larger`` is ``image`` with each pixel repeated."""
    check_shapes(kernel, image=(image, "NHWC"), larger=(larger, "NIJC"))
    check_pool(kernel, larger.shape, image.shape, size, size, ((0, 0), (0, 0)), exact=True)


def upsample2d_forward(x: Array, size: Pair, out: Array) -> None:
    """Nearest-neighbour upsampling: ``out[n, i, j, c] = x[n, i // sh, j // sw, c]``.

    Parameters
    ----------
    x : (N, H, W, C) float
    size : (int, int)
        sh, sw: how often each pixel is repeated along each axis.
    out : (N, H * sh, W * sw, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> out = np.empty((1, 1, 4, 1))
    >>> upsample2d_forward(np.array([1.0, 2.0]).reshape(1, 1, 2, 1), (1, 2), out)
    >>> out.ravel()
    array([1., 1., 2., 2.])
    """
    check_upsampled("upsample2d_forward", x, out, size)
    out[...] = x.repeat(size[0], axis=1).repeat(size[1], axis=2)


def upsample2d_backward(dout: Array, size: Pair, dx: Array) -> None:
    """Gradient of ``out[n, i, j, c] = x[n, i // sh, j // sw, c]``: the sum over the copies.

    Parameters
    ----------
    dout : (N, H * sh, W * sw, C) float
    size : (int, int)
    dx : (N, H, W, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> dx = np.empty((1, 1, 2, 1))
    >>> upsample2d_backward(np.arange(4.0).reshape(1, 1, 4, 1), (1, 2), dx)
    >>> dx.ravel()
    array([1., 5.])
    """
    check_upsampled("upsample2d_backward", dx, dout, size)
    dx[...] = windows(dout, size, size, ((0, 0), (0, 0)), 0).sum(axis=-1)
