"""Owns activations, softmax and dropout, forward and backward, as NumPy formulas.

Leaves losses (also the fused softmax with cross-entropy) to ``loss``. ``out`` may be ``x`` and
``dx`` may be ``dout``: each formula is evaluated before it is stored.
"""

import math

import numpy as np

from fastnn.reference._philox import philox4x32
from fastnn.reference._shapes import Array, check_shapes

__all__ = [
    "add",
    "dropout_backward",
    "dropout_forward",
    "gelu_backward",
    "gelu_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "softmax_backward",
    "softmax_forward",
    "tanh_backward",
    "tanh_forward",
]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def add(x: Array, y: Array, out: Array) -> None:
    """Sum ``out = x + y``.

    Parameters
    ----------
    x, y : (n,) float
    out : (n,) float, overwritten
        May be ``x`` itself.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> out = np.empty(1)
    >>> add(np.ones(1), np.ones(1), out)
    >>> out
    array([2.])
    """
    check_shapes("add", x=(x, "n"), y=(y, "n"), out=(out, "n"))
    np.add(x, y, out=out)


def relu_forward(x: Array, out: Array) -> None:
    """Rectifier ``out = maximum(x, 0)``; NaN stays NaN.

    Parameters
    ----------
    x : (n,) float
    out : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> out = np.empty(2)
    >>> relu_forward(np.array([-1.0, 2.0]), out)
    >>> out
    array([0., 2.])
    """
    check_shapes("relu_forward", x=(x, "n"), out=(out, "n"))
    out[...] = np.maximum(x, 0)


def relu_backward(dout: Array, out: Array, dx: Array) -> None:
    """Gradient of ``out = maximum(x, 0)``: ``dx = dout where out > 0, else 0``.

    Parameters
    ----------
    dout, out : (n,) float
    dx : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dx = np.empty(2)
    >>> relu_backward(np.array([5.0, 6.0]), np.array([0.0, 2.0]), dx)
    >>> dx
    array([0., 6.])
    """
    check_shapes("relu_backward", dout=(dout, "n"), out=(out, "n"), dx=(dx, "n"))
    dx[...] = np.where(out > 0, dout, 0)


def _check_slope(kernel: str, slope: float) -> None:
    if not 0 <= slope < math.inf:
        raise ValueError(f"{kernel}: slope must be finite and not negative, got {slope}")


def leaky_relu_forward(x: Array, slope: float, out: Array) -> None:
    """Leaky rectifier ``out = x where x > 0, else slope * x``.

    Parameters
    ----------
    x : (n,) float
    slope : float
        Not negative, so that the gradient can be computed from the output.
    out : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or ``slope`` is negative or not finite.

    Examples
    --------
    >>> out = np.empty(2)
    >>> leaky_relu_forward(np.array([-1.0, 2.0]), 0.5, out)
    >>> out
    array([-0.5,  2. ])
    """
    check_shapes("leaky_relu_forward", x=(x, "n"), out=(out, "n"))
    _check_slope("leaky_relu_forward", slope)
    out[...] = np.where(x > 0, x, slope * x)


def leaky_relu_backward(dout: Array, out: Array, slope: float, dx: Array) -> None:
    """Gradient of ``out = x where x > 0, else slope * x``, from the output.

    ``dx = dout where out > 0, else slope * dout``.

    Parameters
    ----------
    dout, out : (n,) float
    slope : float
    dx : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or ``slope`` is negative or not finite.

    Examples
    --------
    >>> dx = np.empty(2)
    >>> leaky_relu_backward(np.array([4.0, 6.0]), np.array([-0.5, 2.0]), 0.5, dx)
    >>> dx
    array([2., 6.])
    """
    check_shapes("leaky_relu_backward", dout=(dout, "n"), out=(out, "n"), dx=(dx, "n"))
    _check_slope("leaky_relu_backward", slope)
    dx[...] = np.where(out > 0, dout, slope * dout)


def sigmoid_forward(x: Array, out: Array) -> None:
    """Logistic function ``out = 1 / (1 + exp(-x))``, written so that it cannot overflow.

    Parameters
    ----------
    x : (n,) float
    out : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> out = np.empty(2)
    >>> sigmoid_forward(np.array([0.0, -1000.0]), out)
    >>> out
    array([0.5, 0. ])
    """
    check_shapes("sigmoid_forward", x=(x, "n"), out=(out, "n"))
    out[...] = 0.5 + 0.5 * np.tanh(0.5 * x)


def sigmoid_backward(dout: Array, out: Array, dx: Array) -> None:
    """Gradient of ``out = 1 / (1 + exp(-x))``: ``dx = dout * out * (1 - out)``.

    Parameters
    ----------
    dout, out : (n,) float
    dx : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dx = np.empty(1)
    >>> sigmoid_backward(np.array([4.0]), np.array([0.5]), dx)
    >>> dx
    array([1.])
    """
    check_shapes("sigmoid_backward", dout=(dout, "n"), out=(out, "n"), dx=(dx, "n"))
    dx[...] = dout * out * (1 - out)


def tanh_forward(x: Array, out: Array) -> None:
    """Hyperbolic tangent ``out = tanh(x)``.

    Parameters
    ----------
    x : (n,) float
    out : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> out = np.empty(2)
    >>> tanh_forward(np.array([0.0, 1000.0]), out)
    >>> out
    array([0., 1.])
    """
    check_shapes("tanh_forward", x=(x, "n"), out=(out, "n"))
    out[...] = np.tanh(x)


def tanh_backward(dout: Array, out: Array, dx: Array) -> None:
    """Gradient of ``out = tanh(x)``: ``dx = dout * (1 - out**2)``.

    Parameters
    ----------
    dout, out : (n,) float
    dx : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dx = np.empty(1)
    >>> tanh_backward(np.array([4.0]), np.array([0.5]), dx)
    >>> dx
    array([3.])
    """
    check_shapes("tanh_backward", dout=(dout, "n"), out=(out, "n"), dx=(dx, "n"))
    dx[...] = dout * (1 - out * out)


def gelu_forward(x: Array, approximate: bool, slope: float, out: Array) -> None:
    """Gaussian error linear unit; with a slope, its leaky form.

    ``out = x * (slope + (1 - slope) * P(x))`` with the normal distribution
    ``P(x) = (1 + erf(x / sqrt(2))) / 2``, or, with ``approximate``,
    ``P(x) = (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``.

    Parameters
    ----------
    x : (n,) float
    approximate : bool
        Use the tanh form.
    slope : float
        Of the line that ``out`` approaches where ``x`` is very negative.
    out : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or ``slope`` is negative or not finite.

    Examples
    --------
    >>> out = np.empty(2)
    >>> gelu_forward(np.array([-1.0, 1.0]), False, 0.0, out)
    >>> out.round(6)
    array([-0.158655,  0.841345])
    >>> gelu_forward(np.array([-9.0, 1.0]), False, 0.1, out)
    >>> out.round(5)
    array([-0.9    ,  0.85721])
    """
    check_shapes("gelu_forward", x=(x, "n"), out=(out, "n"))
    _check_slope("gelu_forward", slope)
    if approximate:
        p = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    else:
        p = 0.5 * (1 + _erf(x * math.sqrt(0.5)))
    out[...] = x * (slope + (1 - slope) * p)


def gelu_backward(dout: Array, x: Array, approximate: bool, slope: float, dx: Array) -> None:
    """Gradient of ``gelu_forward``.

    Of ``out = x * (slope + (1 - slope) * P(x))``:
    ``dx = dout * (slope + (1 - slope) * (P(x) + x * P'(x)))`` with
    ``P'(x) = exp(-x**2 / 2) / sqrt(2 * pi)``. Of the tanh form ``P(x) = (1 + tanh(u)) / 2``:
    ``P'(x) = (1 - tanh(u)**2) * u' / 2``.

    Parameters
    ----------
    dout, x : (n,) float
    approximate : bool
        Use the tanh form.
    slope : float
    dx : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or ``slope`` is negative or not finite.

    Examples
    --------
    >>> dx = np.empty(1)
    >>> gelu_backward(np.array([2.0]), np.array([0.0]), False, 0.0, dx)
    >>> dx
    array([1.])
    """
    check_shapes("gelu_backward", dout=(dout, "n"), x=(x, "n"), dx=(dx, "n"))
    _check_slope("gelu_backward", slope)
    if approximate:
        c = math.sqrt(2 / math.pi)
        t = np.tanh(c * (x + 0.044715 * x**3))
        p, density = 0.5 * (1 + t), 0.5 * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)
    else:
        p = 0.5 * (1 + _erf(x * math.sqrt(0.5)))
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    dx[...] = dout * (slope + (1 - slope) * (p + x * density))


def _check_rate(kernel: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"{kernel}: rate must be in [0, 1), got {rate}")


def dropout_forward(
    x: Array, rate: float, seed: int, stream: int, clock: Array, mask: Array, out: Array
) -> None:
    """Zero a random share of the elements and scale the rest: ``out = x * mask / (1 - rate)``.

    Element i is kept (mask 1) where word i % 4 of Philox4x32-10, with the seed as key and
    (i // 4, step's low half, step's high half, stream) as counter, is at least ``rate * 2**32``.
    The mask thus depends on seed, stream and step alone. A dropped element is 0 also where x is
    infinite or NaN.

    Parameters
    ----------
    x : (n,) float
    rate : float
        Share to drop, in [0, 1).
    seed : int
        64-bit.
    stream : int
        32-bit; a different one for each dropout layer of a model.
    clock : (3,) int64
        ``clock[1]`` is the global step.
    mask : (n,) uint8, overwritten
    out : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``rate`` is out of range.

    Examples
    --------
    >>> mask, out = np.empty(8, np.uint8), np.empty(8)
    >>> dropout_forward(np.ones(8), 0.5, 1, 0, np.zeros(3, np.int64), mask, out)
    >>> bool((out == 2 * mask).all())
    True
    """
    check_shapes(
        "dropout_forward", x=(x, "n"), clock=(clock, "3"), mask=(mask, "n"), out=(out, "n")
    )
    _check_rate("dropout_forward", rate)
    low, step = 0xFFFFFFFF, int(clock[1])
    counter = np.empty((-(-x.size // 4), 4), np.uint64)
    counter[:, 0] = np.arange(len(counter)) & low
    counter[:, 1:] = step & low, step >> 32, stream
    words = philox4x32(counter, (seed & low, seed >> 32)).reshape(-1)[: x.size]
    mask[...] = words >= min(int(rate * 2**32 + 0.5), low)
    out[...] = np.where(mask, x * (1 / (1 - rate)), 0)


def dropout_backward(dout: Array, rate: float, mask: Array, dx: Array) -> None:
    """Gradient of ``out = x * mask / (1 - rate)``: ``dx = dout * mask / (1 - rate)``.

    Parameters
    ----------
    dout : (n,) float
    rate : float
        Share dropped, in [0, 1).
    mask : (n,) uint8
        As ``dropout_forward`` saved it.
    dx : (n,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or ``rate`` is out of range.

    Examples
    --------
    >>> dx = np.empty(2)
    >>> dropout_backward(np.array([3.0, 3.0]), 0.5, np.array([0, 1], np.uint8), dx)
    >>> dx
    array([0., 6.])
    """
    check_shapes("dropout_backward", dout=(dout, "n"), mask=(mask, "n"), dx=(dx, "n"))
    _check_rate("dropout_backward", rate)
    dx[...] = np.where(mask, dout * (1 / (1 - rate)), 0)


def softmax_forward(x: Array, out: Array) -> None:
    """Softmax of every row: ``out = exp(x - max) / sum(exp(x - max))``.

    Parameters
    ----------
    x : (N, C) float
    out : (N, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> out = np.empty((1, 2))
    >>> softmax_forward(np.array([[1000.0, 1000.0]]), out)
    >>> out
    array([[0.5, 0.5]])
    """
    check_shapes("softmax_forward", x=(x, "NC"), out=(out, "NC"))
    e = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    out[...] = e / e.sum(axis=1, keepdims=True)


def softmax_backward(dout: Array, out: Array, dx: Array) -> None:
    """Gradient of softmax, from its output: ``dx = out * (dout - sum(dout * out))`` by rows.

    Parameters
    ----------
    dout, out : (N, C) float
    dx : (N, C) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dx = np.empty((1, 2))
    >>> softmax_backward(np.array([[4.0, 0.0]]), np.array([[0.5, 0.5]]), dx)
    >>> dx
    array([[ 1., -1.]])
    """
    check_shapes("softmax_backward", dout=(dout, "NC"), out=(out, "NC"), dx=(dx, "NC"))
    dx[...] = out * (dout - (dout * out).sum(axis=1, keepdims=True))
