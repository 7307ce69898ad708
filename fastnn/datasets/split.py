"""Owns the division of rows into a training and a test part, and labels as rows of one 1.

Leaves which rows a step takes to the trainer.
"""

from __future__ import annotations

import numbers

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn.checks import Array, check_integer, check_real, to_array, to_labels

__all__ = ["one_hot", "train_test_split"]

_MAX_CLASSES = 2**31 - 1  # labels are int32


def train_test_split(
    *arrays: ArrayLike,
    test_size: float = 0.25,
    seed: int | None = None,
    stratify: bool | ArrayLike = False,
) -> tuple[Array, ...]:
    """Shuffle rows and split them in two, in the same way for every array.

    Parameters
    ----------
    *arrays : array_like, shape (N, ...)
        One or more arrays of equal length, usually ``x, y``. N is at least 2.
    test_size : float or int
        A float strictly between 0 and 1 is the share of the rows in the second part, rounded to
        whole rows; an int is their number, 1 to N - 1. Neither part is ever empty.
    seed : int or None
        The same seed gives the same split. None: a different one at each call.
    stratify : bool or array_like, shape (N,)
        True: by the last of `arrays`, the labels; or the labels themselves. Each class's share in
        the test part is then exact to within one row.

    Returns
    -------
    tuple of ndarray
        ``x_train, x_test, y_train, y_test`` (scikit-learn's order): copies, types unchanged.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If there are no arrays, too few rows or unequal lengths, or `test_size`, `seed` or
        `stratify` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.arange(20).reshape(10, 2), np.repeat([0, 1], 5)
    >>> x_train, x_test, y_train, y_test = train_test_split(
    ...     x, y, test_size=0.4, seed=0, stratify=True)
    >>> x_train.shape, np.bincount(y_test)
    ((6, 2), array([2, 2]))
    """
    if not arrays:
        raise ValueError("arrays: got none, expected at least one")
    rows = [_rows(f"array {i}", array) for i, array in enumerate(arrays)]
    n = len(rows[0])
    for i, array in enumerate(rows):
        if len(array) != n:
            raise ValueError(f"array {i}: got {len(array)} rows, expected {n} as in array 0")
    if n < 2:
        raise ValueError(f"array 0: got {n} rows, expected at least 2")
    n_test = _test_rows(test_size, n)
    random = np.random.default_rng(None if seed is None else check_integer("seed", seed, 0))
    order = random.permutation(n)
    if isinstance(stratify, (bool, np.bool_)):
        labels = rows[-1] if stratify else None
    else:
        labels = _rows("stratify", stratify)
    if labels is not None and labels.dtype == object and all(isinstance(v, str) for v in labels):
        labels = labels.astype(str)
    if labels is None:
        train, test = order[n_test:], order[:n_test]
    else:
        _check_classes(labels, n)
        # Every (n / n_test)-th row of the rows in order of class, from a random first one.
        order = order[np.argsort(labels[order], kind="stable")]
        chosen = np.zeros(n, bool)
        chosen[(np.arange(n_test) * n + random.integers(n)) // n_test] = True
        train, test = random.permutation(order[~chosen]), random.permutation(order[chosen])
    return tuple(array[part] for array in rows for part in (train, test))


def _rows(name: str, value: ArrayLike) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot be made an array ({error})") from error
    if array.ndim == 0:
        raise ValueError(f"{name}: got {value!r:.60}, expected an array with rows")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name}: got masked values, expected none (fill them first)")
    return array


def _test_rows(test_size: float, n: int) -> int:
    if isinstance(test_size, numbers.Integral):
        return check_integer("test_size", test_size, 1, n - 1)
    share = check_real("test_size", test_size, 0, 1, open_low=True, open_high=True)
    return min(max(round(n * share), 1), n - 1)


def _check_classes(labels: Array, n: int) -> None:
    if labels.dtype.kind not in "biuUS":
        raise TypeError(f"stratify: got {labels.dtype}, expected integer or string labels")
    if labels.shape != (n,):
        raise ValueError(f"stratify: got shape {labels.shape}, expected ({n},)")
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        label = classes[counts.argmin()]
        raise ValueError(f"stratify: got 1 row of class {label}, expected at least 2 of each")


def one_hot(labels: ArrayLike, classes: int | None = None) -> NDArray[np.float32]:
    """Turn class labels into rows with a single 1.

    Parameters
    ----------
    labels : array_like, shape (N,)
        Integers from 0 to ``classes - 1``.
    classes : int or None
        The number of columns C. None: one more than the largest label.

    Returns
    -------
    ndarray, float32, shape (N, C)
        ``out[i, labels[i]] == 1``, and 0 elsewhere.

    Raises
    ------
    TypeError
        If `labels` are not integers, or `classes` is neither an int nor None.
    ValueError
        If `labels` is not 1-D, a label is out of range, there are no labels to infer `classes`
        from, or the result would not fit in memory.

    Examples
    --------
    >>> one_hot([0, 2])
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    array = to_array("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels: got shape {array.shape}, expected (N,)")
    if classes is None:
        array = to_labels("labels", array, _MAX_CLASSES)
        if not array.size:
            raise ValueError("labels: got none, expected at least one, or classes=")
        classes = int(array.max()) + 1
    else:
        classes = check_integer("classes", classes, 1, _MAX_CLASSES)
        array = to_labels("labels", array, classes)
    try:
        out = np.zeros((len(array), classes), np.float32)
    except (MemoryError, ValueError) as error:  # ValueError: 2**63 bytes or more
        raise ValueError(
            f"classes: got {classes}, and {len(array)} rows of so many do not fit in memory"
        ) from error
    out[np.arange(len(array)), array] = 1
    return out
