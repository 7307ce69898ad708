"""Owns what a training step does besides computing: fetch its batch, log its loss, count itself.

``clock`` is int64 (3,): rows of this epoch already used, steps ever made, batches of this epoch
already made. Leaves the order of the calls to the trainer.
"""

import numpy as np

from fastnn.reference._shapes import Array, check_shapes

__all__ = ["advance", "gather_labels", "gather_rows", "log_step"]


def _batch(kernel: str, total: int, rows: Array | None, clock: Array, n: int) -> Array:
    """Return the data rows of the n batch rows from ``clock[0]`` on, all checked."""
    first, available = int(clock[0]), total if rows is None else len(rows)
    if not 0 <= first <= available - n:
        raise ValueError(
            f"{kernel}: rows {first} to {first + n} (clock[0], and n of them) are not all in "
            f"[0, {available})"
        )
    if rows is None:
        return np.arange(first, first + n)
    chosen = rows[first : first + n]
    bad = (chosen < 0) | (chosen >= total)
    if bad.any():
        raise ValueError(f"{kernel}: row {chosen[bad][0]} is not in [0, {total})")
    return chosen


def gather_rows(data: Array, rows: Array | None, scale: float, clock: Array, out: Array) -> None:
    """Fetch this step's samples: ``out[i] = data[rows[clock[0] + i]] * scale``.

    Parameters
    ----------
    data : (M, F) uint8 or float
    rows : (R,) int64 or None
        Order of the epoch; None means the data's own.
    scale : float
    clock : (3,) int64
    out : (N, F) float, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or a row is not in the data.

    Examples
    --------
    >>> out = np.empty((1, 2))
    >>> data, rows = np.array([[1, 2], [3, 4]], np.uint8), np.array([1, 0])
    >>> gather_rows(data, rows, 0.5, np.zeros(3, np.int64), out)
    >>> out
    array([[1.5, 2. ]])
    """
    check_shapes(
        "gather_rows",
        data=(data, "MF"),
        rows=(rows, "R"),
        clock=(clock, "3"),
        out=(out, "NF"),
    )
    out[...] = data[_batch("gather_rows", len(data), rows, clock, len(out))]
    out *= scale


def gather_labels(labels: Array, rows: Array | None, clock: Array, out: Array) -> None:
    """Fetch this step's labels, or other integers: ``out[i] = labels[rows[clock[0] + i]]``.

    Parameters
    ----------
    labels : (M, P) int32
    rows : (R,) int64 or None
        Order of the epoch; None means the data's own.
    clock : (3,) int64
    out : (N, P) int32, overwritten

    Raises
    ------
    ValueError
        If the shapes do not fit, or a row is not in the data.

    Examples
    --------
    >>> out = np.empty((1, 1), np.int32)
    >>> gather_labels(np.array([[7], [8]], np.int32), np.array([1, 0]), np.zeros(3, np.int64), out)
    >>> out
    array([[8]], dtype=int32)
    """
    check_shapes(
        "gather_labels",
        labels=(labels, "MP"),
        rows=(rows, "R"),
        clock=(clock, "3"),
        out=(out, "NP"),
    )
    out[...] = labels[_batch("gather_labels", len(labels), rows, clock, len(out))]


def log_step(
    loss: Array, correct: Array | None, clock: Array, losses: Array, corrects: Array | None
) -> None:
    """Write down this step's result.

    ``losses[clock[2]] = loss``; ``corrects[clock[2]] = correct``. In a plan a loss that is not
    finite also ends the replay here, before the update.

    Parameters
    ----------
    loss : (1,) float
    correct : (1,) int64 or None
    clock : (3,) int64
    losses : (B,) float, one element overwritten
    corrects : (B,) int64 or None, one element overwritten
        None exactly where ``correct`` is.

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``clock[2]`` is not in [0, B).

    Examples
    --------
    >>> losses, corrects = np.zeros(2), np.zeros(2, np.int64)
    >>> log_step(np.array([0.5]), np.array([3]), np.array([8, 5, 1]), losses, corrects)
    >>> losses, corrects
    (array([0. , 0.5]), array([0, 3]))
    """
    check_shapes(
        "log_step",
        loss=(loss, "1"),
        correct=(correct, "1"),
        clock=(clock, "3"),
        losses=(losses, "B"),
        corrects=(corrects, "B"),
    )
    batch = int(clock[2])
    if not 0 <= batch < len(losses):
        raise ValueError(f"log_step: batch {batch} (clock[2]) is not in [0, {len(losses)})")
    if (correct is None) != (corrects is None):
        raise ValueError("log_step: correct and corrects must both be given, or both be None")
    losses[batch] = loss[0]
    if correct is not None and corrects is not None:
        corrects[batch] = correct[0]


def advance(n: int, clock: Array) -> None:
    """Count a finished step of n samples: ``clock += [n, 1, 1]``.

    Parameters
    ----------
    n : int
    clock : (3,) int64, updated

    Raises
    ------
    ValueError
        If the shape is wrong, or ``n`` is negative.

    Examples
    --------
    >>> clock = np.array([20, 5, 1])
    >>> advance(20, clock)
    >>> clock
    array([40,  6,  2])
    """
    check_shapes("advance", clock=(clock, "3"))
    if n < 0:
        raise ValueError(f"advance: n must not be negative, got {n}")
    clock += np.array([n, 1, 1])
