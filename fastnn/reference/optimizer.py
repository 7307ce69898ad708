"""Owns the optimizers' updates of all parameters at once, flat and in place.

Leaves schedules to ``fastnn.optimizers``: ``lr`` is a table with one rate per batch of the epoch,
and ``clock`` (see ``step``) says which batch and step this is.
"""

import math

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["adam_update", "rmsprop_update", "sgd_update"]


def _rate(kernel: str, lr: Array, clock: Array) -> float:
    if lr.size == 0:
        raise ValueError(f"{kernel}: lr has shape {lr.shape}, expected at least one rate")
    return float(lr[min(int(clock[2]), lr.size - 1)])


def sgd_update(
    grad: Array,
    lr: Array,
    momentum: float,
    nesterov: bool,
    clock: Array,
    velocity: Array | None,
    theta: Array,
) -> None:
    """Stochastic gradient descent, as PyTorch's SGD.

    ``velocity = momentum * velocity + grad``; ``theta -= rate * velocity``, or, with ``nesterov``,
    ``theta -= rate * (grad + momentum * velocity)``; ``rate = lr[min(clock[2], L - 1)]``.

    Parameters
    ----------
    grad : (n,) float
    lr : (L,) float
    momentum : float
    nesterov : bool
    clock : (3,) int64
    velocity : (n,) float or None, updated
        None exactly where ``momentum`` is 0.
    theta : (n,) float, updated

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``velocity`` is missing or needless.

    Examples
    --------
    >>> theta = np.array([1.0])
    >>> lr, clock = np.array([0.5]), np.zeros(3, np.int64)
    >>> sgd_update(np.array([1.0]), lr, 0.0, False, clock, None, theta)
    >>> theta
    array([0.5])
    """
    check_shapes(
        "sgd_update",
        grad=(grad, "n"),
        lr=(lr, "L"),
        clock=(clock, "3"),
        velocity=(velocity, "n"),
        theta=(theta, "n"),
    )
    if (velocity is None) != (momentum == 0):
        raise ValueError(
            f"sgd_update: velocity must be None exactly where momentum ({momentum}) is 0"
        )
    rate = _rate("sgd_update", lr, clock)
    if velocity is None:
        theta -= rate * grad
        return
    velocity[...] = momentum * velocity + grad
    theta -= rate * (grad + momentum * velocity if nesterov else velocity)


def rmsprop_update(
    grad: Array, lr: Array, rho: float, eps: float, clock: Array, sq: Array, theta: Array
) -> None:
    """RMSProp: step by the gradient over the root of its running mean square.

    ``sq = rho * sq + (1 - rho) * grad**2``; ``theta -= rate * grad / (sqrt(sq) + eps)``;
    ``rate = lr[min(clock[2], L - 1)]``.

    Parameters
    ----------
    grad : (n,) float
    lr : (L,) float
    rho, eps : float
    clock : (3,) int64
    sq : (n,) float, updated
    theta : (n,) float, updated

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> sq, theta = np.zeros(1), np.array([1.0])
    >>> lr, clock = np.array([0.5]), np.zeros(3, np.int64)
    >>> rmsprop_update(np.array([4.0]), lr, 0.75, 0.0, clock, sq, theta)
    >>> sq, theta
    (array([4.]), array([0.]))
    """
    check_shapes(
        "rmsprop_update",
        grad=(grad, "n"),
        lr=(lr, "L"),
        clock=(clock, "3"),
        sq=(sq, "n"),
        theta=(theta, "n"),
    )
    rate = _rate("rmsprop_update", lr, clock)
    sq[...] = rho * sq + (1 - rho) * grad * grad
    theta -= rate * grad / (np.sqrt(sq) + eps)


def adam_update(
    grad: Array,
    lr: Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    clock: Array,
    m: Array,
    v: Array,
    theta: Array,
) -> None:
    """Adam (Kingma & Ba), with AdamW's decoupled weight decay.

    With ``t = clock[1] + 1`` and ``rate = lr[min(clock[2], L - 1)]``:
    ``m = beta1 * m + (1 - beta1) * grad``; ``v = beta2 * v + (1 - beta2) * grad**2``;
    ``theta = theta * (1 - rate * weight_decay)
    - rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)``.

    Parameters
    ----------
    grad : (n,) float
    lr : (L,) float
    beta1, beta2, eps, weight_decay : float
    clock : (3,) int64
    m, v : (n,) float, updated
    theta : (n,) float, updated

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> m, v, theta = np.zeros(1), np.zeros(1), np.array([1.0])
    >>> lr, clock = np.array([0.5]), np.zeros(3, np.int64)
    >>> adam_update(np.array([8.0]), lr, 0.5, 0.5, 0.0, 0.0, clock, m, v, theta)
    >>> m, v, theta
    (array([4.]), array([32.]), array([0.5]))
    """
    check_shapes(
        "adam_update",
        grad=(grad, "n"),
        lr=(lr, "L"),
        clock=(clock, "3"),
        m=(m, "n"),
        v=(v, "n"),
        theta=(theta, "n"),
    )
    rate = _rate("adam_update", lr, clock)
    t = int(clock[1]) + 1
    m[...] = beta1 * m + (1 - beta1) * grad
    v[...] = beta2 * v + (1 - beta2) * grad * grad
    root = np.sqrt(v) / math.sqrt(1 - beta2**t)
    theta *= 1 - rate * weight_decay
    theta -= rate / (1 - beta1**t) * m / (root + eps)
