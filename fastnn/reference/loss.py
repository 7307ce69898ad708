"""Owns the losses: value, gradient and number of correct predictions in one call each.

Leaves the choice of targets (integers, one-hot rows) and the reporting to ``fastnn.losses`` and
the trainer. A loss is the mean over the batch, so an empty batch is refused.
"""

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["mean_squared_error", "softmax_cross_entropy", "softmax_cross_entropy_soft"]


def _check_not_empty(kernel: str, x: Array) -> None:
    if x.size == 0:
        raise ValueError(f"{kernel}: x has shape {x.shape}; a mean needs at least one element")


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def softmax_cross_entropy(
    x: Array, labels: Array, dx: Array | None, loss: Array, correct: Array
) -> None:
    """Cross-entropy of the softmax of ``x`` with integer labels, and its gradient.

    ``loss = -mean(log(softmax(x))[i, labels[i]])``; ``dx = (softmax(x) - onehot(labels)) / N``;
    ``correct = sum(argmax(x, axis=1) == labels)``.

    Parameters
    ----------
    x : (N, C) float
        Logits.
    labels : (N,) int32
        Class numbers in [0, C).
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
    >>> softmax_cross_entropy(x, labels, dx, loss, correct)
    >>> dx, loss.round(4), correct
    (array([[-0.5,  0.5]]), array([0.6931]), array([1]))
    """
    kernel = "softmax_cross_entropy"
    check_shapes(
        kernel,
        x=(x, "NC"),
        labels=(labels, "N"),
        dx=(dx, "NC"),
        loss=(loss, "1"),
        correct=(correct, "1"),
    )
    _check_not_empty(kernel, x)
    n, classes = x.shape
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise ValueError(f"{kernel}: label {labels[bad][0]} is not in [0, {classes})")
    log_p = _log_softmax(x)
    rows = np.arange(n)
    loss[...] = -log_p[rows, labels].mean()
    correct[...] = (x.argmax(axis=1) == labels).sum()
    if dx is not None:
        dx[...] = np.exp(log_p) / n
        dx[rows, labels] -= 1 / n


def softmax_cross_entropy_soft(
    x: Array, target: Array, dx: Array | None, loss: Array, correct: Array
) -> None:
    """Cross-entropy of the softmax of ``x`` with one-hot rows or probabilities, and its gradient.

    ``loss = -mean(sum(target * log(softmax(x)), axis=1))``;
    ``dx = (softmax(x) * sum(target, axis=1) - target) / N``;
    ``correct = sum(argmax(x, axis=1) == argmax(target, axis=1))``.

    Parameters
    ----------
    x : (N, C) float
        Logits.
    target : (N, C) float
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
    >>> softmax_cross_entropy_soft(x, target, dx, loss, correct)
    >>> dx, loss.round(4), correct
    (array([[ 0.5, -0.5]]), array([0.6931]), array([0]))
    """
    kernel = "softmax_cross_entropy_soft"
    check_shapes(
        kernel,
        x=(x, "NC"),
        target=(target, "NC"),
        dx=(dx, "NC"),
        loss=(loss, "1"),
        correct=(correct, "1"),
    )
    _check_not_empty(kernel, x)
    log_p = _log_softmax(x)
    loss[...] = -(target * log_p).sum(axis=1).mean()
    correct[...] = (x.argmax(axis=1) == target.argmax(axis=1)).sum()
    if dx is not None:
        dx[...] = (np.exp(log_p) * target.sum(axis=1, keepdims=True) - target) / len(x)


def mean_squared_error(x: Array, target: Array, dx: Array | None, loss: Array) -> None:
    """Mean over all elements of ``(x - target)**2``, and its gradient ``2 * (x - target) / n``.

    Parameters
    ----------
    x, target : (n,) float
    dx : (n,) float or None, overwritten
        None means that only the value is wanted.
    loss : (1,) float, overwritten

    Raises
    ------
    ValueError
        If the shapes differ, or there are no elements.

    Examples
    --------
    >>> dx, loss = np.empty(2), np.empty(1)
    >>> mean_squared_error(np.array([1.0, 3.0]), np.array([1.0, 1.0]), dx, loss)
    >>> dx, loss
    (array([0., 2.]), array([2.]))
    """
    check_shapes(
        "mean_squared_error", x=(x, "n"), target=(target, "n"), dx=(dx, "n"), loss=(loss, "1")
    )
    _check_not_empty("mean_squared_error", x)
    difference = x - target
    loss[...] = (difference * difference).mean()
    if dx is not None:
        dx[...] = difference * (2 / x.size)
