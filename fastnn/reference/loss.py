"""Owns the losses: value, gradient and number of correct predictions in one call each.

Leaves the choice of targets (integers, one-hot rows) and the reporting to ``fastnn.losses`` and
the trainer. A loss is a mean, ``loss = sum(weights * row_losses) / count(weights != 0)``: a row of
weight 0 is not looked at, its gradient is 0; without any other row the loss is 0. An empty batch is
refused.
"""

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = [
    "binary_cross_entropy",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "softmax_cross_entropy",
    "softmax_cross_entropy_soft",
]


def _check_not_empty(kernel: str, x: Array) -> None:
    if x.size == 0:
        raise ValueError(f"{kernel}: x has shape {x.shape}; a mean needs at least one element")


def _counted(x: Array, weights: Array | None) -> tuple[Array, Array]:
    """Return which rows count, and each one's weight in the mean, in a column (count, 1)."""
    if weights is None:
        weights = np.ones(len(x), x.dtype)
    rows = np.flatnonzero(weights)
    return rows, weights[rows, None] / max(len(rows), 1)


def _scatter(rows: Array, gradient: Array, dx: Array) -> None:
    dx[...] = 0
    dx[rows] = gradient


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def softmax_cross_entropy(
    x: Array,
    labels: Array,
    weights: Array | None,
    dx: Array | None,
    loss: Array,
    correct: Array,
) -> None:
    """Cross-entropy of the softmax of ``x`` with integer labels, and its gradient.

    With ``share = weights / count(weights != 0)``, or ``1 / N`` without weights:
    ``loss = -sum(share * log(softmax(x))[i, labels[i]])``;
    ``dx = share * (softmax(x) - onehot(labels))``;
    ``correct = sum((argmax(x, axis=1) == labels)[weights != 0])``.

    Parameters
    ----------
    x : (N, C) float
        Logits.
    labels : (N,) int32
        Class numbers in [0, C) where the row counts.
    weights : (N,) float or None
    dx : (N, C) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten
    correct : (1,) int64, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, the batch is empty, or a label is not in [0, C).

    Examples
    --------
    >>> dx, loss, correct = np.empty((1, 2)), np.empty(1), np.empty(1, np.int64)
    >>> x, labels = np.array([[1.0, 1.0]]), np.array([0], np.int32)
    >>> softmax_cross_entropy(x, labels, None, dx, loss, correct)
    >>> dx, loss.round(4), correct
    (array([[-0.5,  0.5]]), array([0.6931]), array([1]))
    """
    kernel = "softmax_cross_entropy"
    check_shapes(
        kernel,
        x=(x, "NC"),
        labels=(labels, "N"),
        weights=(weights, "N"),
        dx=(dx, "NC"),
        loss=(loss, "1"),
        correct=(correct, "1"),
    )
    _check_not_empty(kernel, x)
    rows, share = _counted(x, weights)
    x, labels = x[rows], labels[rows]
    bad = (labels < 0) | (labels >= x.shape[1])
    if bad.any():
        raise ValueError(f"{kernel}: label {labels[bad][0]} is not in [0, {x.shape[1]})")
    log_p = _log_softmax(x)
    one_hot = np.arange(x.shape[1]) == labels[:, None]
    loss[...] = -(share[:, 0] * log_p[one_hot]).sum()
    correct[...] = (x.argmax(axis=1) == labels).sum()
    if dx is not None:
        _scatter(rows, share * (np.exp(log_p) - one_hot), dx)


def softmax_cross_entropy_soft(
    x: Array,
    target: Array,
    weights: Array | None,
    dx: Array | None,
    loss: Array,
    correct: Array,
) -> None:
    """Cross-entropy of the softmax of ``x`` with one-hot rows or probabilities, and its gradient.

    With ``share = weights / count(weights != 0)``, or ``1 / N`` without weights:
    ``loss = -sum(share * sum(target * log(softmax(x)), axis=1))``;
    ``dx = share * (softmax(x) * sum(target, axis=1) - target)``;
    ``correct = sum((argmax(x, axis=1) == argmax(target, axis=1))[weights != 0])``.

    Parameters
    ----------
    x : (N, C) float
        Logits.
    target : (N, C) float
    weights : (N,) float or None
    dx : (N, C) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten
    correct : (1,) int64, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or the batch is empty.

    Examples
    --------
    >>> dx, loss, correct = np.empty((1, 2)), np.empty(1), np.empty(1, np.int64)
    >>> x, target = np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])
    >>> softmax_cross_entropy_soft(x, target, None, dx, loss, correct)
    >>> dx, loss.round(4), correct
    (array([[ 0.5, -0.5]]), array([0.6931]), array([0]))
    """
    kernel = "softmax_cross_entropy_soft"
    check_shapes(
        kernel,
        x=(x, "NC"),
        target=(target, "NC"),
        weights=(weights, "N"),
        dx=(dx, "NC"),
        loss=(loss, "1"),
        correct=(correct, "1"),
    )
    _check_not_empty(kernel, x)
    rows, share = _counted(x, weights)
    x, target = x[rows], target[rows]
    log_p = _log_softmax(x)
    loss[...] = -(share * target * log_p).sum()
    correct[...] = (x.argmax(axis=1) == target.argmax(axis=1)).sum()
    if dx is not None:
        mass = target.sum(axis=1, keepdims=True)
        _scatter(rows, share * (np.exp(log_p) * mass - target), dx)


def _check_elements(
    kernel: str, x: Array, target: Array, weights: Array | None, dx: Array | None, loss: Array
) -> None:
    check_shapes(
        kernel,
        x=(x, "NF"),
        target=(target, "NF"),
        weights=(weights, "N"),
        dx=(dx, "NF"),
        loss=(loss, "1"),
    )
    _check_not_empty(kernel, x)


def mean_squared_error(
    x: Array, target: Array, weights: Array | None, dx: Array | None, loss: Array
) -> None:
    """Mean over all elements of ``(x - target)**2``, and its gradient.

    With ``share = weights / count(weights != 0)``, or ``1 / N`` without weights:
    ``loss = sum(share * mean((x - target)**2, axis=1))``; ``dx = share * 2 * (x - target) / F``.

    Parameters
    ----------
    x, target : (N, F) float
    weights : (N,) float or None
    dx : (N, F) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or there are no elements.

    Examples
    --------
    >>> x, target = np.array([[1.0, 3.0], [7.0, 7.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    >>> dx, loss = np.empty((2, 2)), np.empty(1)
    >>> mean_squared_error(x, target, np.array([1.0, 0.0]), dx, loss)
    >>> dx, loss
    (array([[0., 2.],
           [0., 0.]]), array([2.]))
    """
    _check_elements("mean_squared_error", x, target, weights, dx, loss)
    rows, share = _counted(x, weights)
    difference = x[rows] - target[rows]
    loss[...] = (share * difference * difference).sum() / x.shape[1]
    if dx is not None:
        _scatter(rows, share * 2 * difference / x.shape[1], dx)


def mean_absolute_error(
    x: Array, target: Array, weights: Array | None, dx: Array | None, loss: Array
) -> None:
    """Mean over all elements of ``abs(x - target)``, and its gradient, 0 where they are equal.

    With ``share = weights / count(weights != 0)``, or ``1 / N`` without weights:
    ``loss = sum(share * mean(abs(x - target), axis=1))``; ``dx = share * sign(x - target) / F``.

    Parameters
    ----------
    x, target : (N, F) float
    weights : (N,) float or None
    dx : (N, F) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or there are no elements.

    Examples
    --------
    >>> dx, loss = np.empty((1, 2)), np.empty(1)
    >>> mean_absolute_error(np.array([[1.0, 3.0]]), np.array([[1.0, 9.0]]), None, dx, loss)
    >>> dx, loss
    (array([[ 0. , -0.5]]), array([3.]))
    """
    _check_elements("mean_absolute_error", x, target, weights, dx, loss)
    rows, share = _counted(x, weights)
    difference = x[rows] - target[rows]
    loss[...] = (share * abs(difference)).sum() / x.shape[1]
    if dx is not None:
        _scatter(rows, share * np.sign(difference) / x.shape[1], dx)


def huber(
    x: Array,
    target: Array,
    delta: float,
    weights: Array | None,
    dx: Array | None,
    loss: Array,
) -> None:
    """Huber's loss: squared where the difference is small, absolute where it is large.

    With ``d = x - target`` and ``h(d) = d**2 / 2`` where ``abs(d) <= delta``, else
    ``delta * (abs(d) - delta / 2)``; ``share = weights / count(weights != 0)``, or ``1 / N``
    without weights: ``loss = sum(share * mean(h(d), axis=1))``;
    ``dx = share * clip(d, -delta, delta) / F``.

    Parameters
    ----------
    x, target : (N, F) float
    delta : float
        Positive.
    weights : (N,) float or None
    dx : (N, F) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, there are no elements, or ``delta`` is not positive and finite.

    Examples
    --------
    >>> dx, loss = np.empty((1, 2)), np.empty(1)
    >>> huber(np.array([[1.0, 3.0]]), np.array([[0.0, 0.0]]), 2.0, None, dx, loss)
    >>> dx, loss
    (array([[0.5, 1. ]]), array([2.25]))
    """
    _check_elements("huber", x, target, weights, dx, loss)
    if not 0 < delta < np.inf:
        raise ValueError(f"huber: delta must be positive and finite, got {delta}")
    rows, share = _counted(x, weights)
    d = x[rows] - target[rows]
    h = np.where(abs(d) <= delta, d * d / 2, delta * (abs(d) - delta / 2))
    loss[...] = (share * h).sum() / x.shape[1]
    if dx is not None:
        _scatter(rows, share * np.clip(d, -delta, delta) / x.shape[1], dx)


def binary_cross_entropy(
    x: Array,
    target: Array,
    weights: Array | None,
    dx: Array | None,
    loss: Array,
    correct: Array,
) -> None:
    """Cross-entropy of the sigmoid of ``x`` with probabilities, and its gradient.

    With ``p = 1 / (1 + exp(-x))`` and ``share = weights / count(weights != 0)``, or ``1 / N``
    without weights:
    ``loss = -sum(share * mean(target * log(p) + (1 - target) * log(1 - p), axis=1))``, computed as
    ``log(1 + exp(x)) - target * x``; ``dx = share * (p - target) / F``;
    ``correct = sum(((x > 0) == (target > 0.5))[weights != 0])``.

    Parameters
    ----------
    x : (N, F) float
        Logits.
    target : (N, F) float
    weights : (N,) float or None
    dx : (N, F) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten
    correct : (1,) int64, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or there are no elements.

    Examples
    --------
    >>> dx, loss, correct = np.empty((1, 1)), np.empty(1), np.empty(1, np.int64)
    >>> binary_cross_entropy(np.array([[0.0]]), np.array([[1.0]]), None, dx, loss, correct)
    >>> dx, loss.round(4), correct
    (array([[-0.5]]), array([0.6931]), array([0]))
    """
    kernel = "binary_cross_entropy"
    _check_elements(kernel, x, target, weights, dx, loss)
    check_shapes(kernel, correct=(correct, "1"))
    rows, share = _counted(x, weights)
    features = x.shape[1]
    x, target = x[rows], target[rows]
    loss[...] = (share * (np.logaddexp(0, x) - target * x)).sum() / features
    correct[...] = ((x > 0) == (target > 0.5)).sum()
    if dx is not None:
        p = np.exp(-np.logaddexp(0, -x))
        _scatter(rows, share * (p - target) / features, dx)
