"""Owns figures of merit: what predictions are worth, given the true labels or targets.

Leaves predictions to the model, the losses that it is trained on to ``losses``, and drawing to
``plots``.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastnn.checks import Array, check_finite, check_integer, packed, to_array, to_labels, to_names

__all__ = [
    "accuracy",
    "classification_report",
    "confusion_matrix",
    "frequent_confusions",
    "precision_recall_f1",
    "r2_score",
    "top_k_accuracy",
]

_MAX_CLASSES = 2**20  # a count for each must fit in memory


def accuracy(y: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the share of samples whose class is predicted.

    Parameters
    ----------
    y, y_pred : (N,) array_like of int
        True and predicted classes, at least 0.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If they differ in length, are empty or not 1-D, or a label is negative.

    Examples
    --------
    >>> accuracy([0, 1, 2, 2], [0, 2, 2, 2])
    0.75
    """
    true, predicted = _pair(y, y_pred, 2**31 - 1)
    return float(np.mean(true == predicted))


def top_k_accuracy(y: ArrayLike, scores: ArrayLike, k: int = 5) -> float:
    """Return the share of samples whose class is among the ``k`` with the highest scores.

    Of equal scores the first counts as higher, as in ``argmax``: with ``k=1`` this is the accuracy
    of ``model.predict_classes``.

    Parameters
    ----------
    y : (N,) array_like of int
        True classes, in [0, C).
    scores : (N, C) array_like
        What the model predicts: logits or probabilities.
    k : int
        From 1 to C.

    Raises
    ------
    TypeError
        If ``y`` or ``k`` are not integers, or ``scores`` no numbers.
    ValueError
        If shapes do not fit, there are no samples, a label or ``k`` is out of range, or a score is
        NaN or infinite.

    Examples
    --------
    >>> scores = [[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]
    >>> top_k_accuracy([1, 2], scores, k=1), top_k_accuracy([1, 2], scores, k=2)
    (0.5, 1.0)
    """
    table = packed(to_array("scores", scores))
    if table.ndim != 2 or not table.size:
        raise ValueError(f"scores: got shape {table.shape}, expected (N, C), not empty")
    if table.dtype.kind == "f":
        check_finite("scores", table)
    true = _vector("y", y, table.shape[1])
    if len(true) != len(table):
        raise ValueError(f"y: got {len(true)} labels, expected {len(table)}, one for each score")
    k = check_integer("k", k, 1, table.shape[1])
    own = table[np.arange(len(table)), true][:, None]
    before = np.arange(table.shape[1]) < true[:, None]
    rank = np.sum((table > own) | ((table == own) & before), axis=1)
    return float(np.mean(rank < k))


def confusion_matrix(y: ArrayLike, y_pred: ArrayLike, n_classes: int | None = None) -> Array:
    """Count how often each class is taken for each other.

    Parameters
    ----------
    y, y_pred : (N,) array_like of int
        True and predicted classes, in [0, C).
    n_classes : int, optional
        C; one more than the largest label by default.

    Returns
    -------
    (C, C) int64
        ``out[i, j]`` samples of class i were taken for class j.

    Raises
    ------
    TypeError
        If labels or ``n_classes`` are not integers.
    ValueError
        If labels differ in length, are empty, not 1-D or out of range, or the result would not fit
        in memory.

    Examples
    --------
    >>> confusion_matrix([0, 1, 2, 2], [0, 2, 2, 2])
    array([[1, 0, 0],
           [0, 0, 1],
           [0, 0, 2]])
    """
    true, predicted, classes = label_pair(y, y_pred, n_classes)
    try:
        out = np.zeros((classes, classes), np.int64)
    except (MemoryError, ValueError) as error:  # ValueError: 2**63 bytes or more
        raise ValueError(
            f"n_classes: got {classes}, and a matrix of so many does not fit in memory"
        ) from error
    np.add.at(out, (true, predicted), 1)
    return out


def precision_recall_f1(
    y: ArrayLike, y_pred: ArrayLike, n_classes: int | None = None
) -> tuple[Array, Array, Array, Array]:
    """Return precision, recall, F1 and support of each class.

    Of the samples predicted as the class, precision is the share that belongs to it; of those that
    belong to it, recall is the share that is predicted. F1 is their harmonic mean, support the
    number of samples. 0 / 0 counts as 0, without a warning.

    Parameters
    ----------
    y, y_pred : (N,) array_like of int
        True and predicted classes, in [0, C).
    n_classes : int, optional
        C; one more than the largest label by default.

    Returns
    -------
    precision, recall, f1 : (C,) float64
        From 0 to 1.
    support : (C,) int64

    Raises
    ------
    TypeError
        If labels or ``n_classes`` are not integers.
    ValueError
        If labels differ in length, are empty, not 1-D or out of range.

    Examples
    --------
    >>> precision, recall, f1, support = precision_recall_f1([0, 1, 1, 1], [0, 0, 1, 1])
    >>> precision, recall.round(2), f1.round(2), support
    (array([0.5, 1. ]), array([1.  , 0.67]), array([0.67, 0.8 ]), array([1, 3]))
    """
    true, predicted, classes = label_pair(y, y_pred, n_classes)
    right = np.bincount(true[true == predicted], minlength=classes)
    taken = np.bincount(predicted, minlength=classes)
    support = np.bincount(true, minlength=classes)
    precision, recall = _ratio(right, taken), _ratio(right, support)
    return precision, recall, _ratio(2 * right, taken + support), support


def classification_report(
    y: ArrayLike, y_pred: ArrayLike, names: Sequence[str] | None = None, digits: int = 2
) -> str:
    """Return precision, recall, F1 and support of each class as a table, with their averages.

    The text is that of scikit-learn's function of this name. 0 / 0 counts as 0, without a warning.

    Parameters
    ----------
    y, y_pred : (N,) array_like of int
        True and predicted classes.
    names : sequence of str, optional
        Of all classes, in order; by default, the table shows the numbers of those classes that
        occur.
    digits : int
        Decimals of each figure.

    Raises
    ------
    TypeError
        If labels or ``digits`` are not integers, or ``names`` no strings.
    ValueError
        If labels differ in length, are empty, not 1-D, negative or have no name, or ``digits`` is
        negative.

    Examples
    --------
    >>> print(classification_report([0, 1, 1, 1], [0, 0, 1, 1], names=["cat", "dog"]))
                  precision    recall  f1-score   support
    <BLANKLINE>
             cat       0.50      1.00      0.67         1
             dog       1.00      0.67      0.80         3
    <BLANKLINE>
        accuracy                           0.75         4
       macro avg       0.75      0.83      0.73         4
    weighted avg       0.88      0.75      0.77         4
    <BLANKLINE>
    """
    digits = check_integer("digits", digits, 0)
    rows = [] if names is None else to_names(names)
    true, predicted, _ = label_pair(y, y_pred, None if names is None else len(rows))
    if names is None:
        classes, index = np.unique(np.concatenate([true, predicted]), return_inverse=True)
        rows, (true, predicted) = list(map(str, classes)), np.split(index, 2)
    *figures, support = precision_recall_f1(true, predicted, len(rows))
    if not np.any(true == predicted):
        support = support.astype(float)  # as scikit-learn writes it then
    width = max(len("weighted avg"), digits, *map(len, rows))

    def line(name: str, columns: Sequence[object], count: object) -> str:
        shown = "".join(
            f" {c:>9.{digits}f}" if isinstance(c, float) else f" {c:>9}" for c in columns
        )
        return f"{name:>{width}} {shown} {count:>9}\n"

    def average(weights: Array | None) -> list[float]:
        return [float(np.average(figure, weights=weights)) for figure in figures]

    total = support.sum()
    by_class = zip(rows, *(figure.tolist() for figure in figures), support, strict=True)
    return "".join(
        [
            line("", ["precision", "recall", "f1-score"], "support"),
            "\n",
            *(line(name, columns, count) for name, *columns, count in by_class),
            "\n",
            line("accuracy", ["", "", accuracy(true, predicted)], total),
            line("macro avg", average(None), total),
            line("weighted avg", average(support), total),
        ]
    )


def frequent_confusions(
    y: ArrayLike, y_pred: ArrayLike, n: int = 5, names: Sequence[str] | None = None
) -> list[str]:
    """Name the most frequent mistakes: true class → predicted class, and how often.

    Parameters
    ----------
    y, y_pred : (N,) array_like of int
        True and predicted classes.
    n : int
        At most so many; of equally frequent ones, those of the lower true class.
    names : sequence of str, optional
        Of all classes, in order; their numbers by default.

    Raises
    ------
    TypeError
        If labels or ``n`` are not integers, or ``names`` no strings.
    ValueError
        If labels differ in length, are empty, not 1-D, negative or have no name, or ``n`` is less
        than 1.

    Examples
    --------
    >>> frequent_confusions([4, 4, 4, 9, 3], [9, 9, 4, 4, 3])
    ['4→9: 2', '9→4: 1']
    """
    n = check_integer("n", n, 1)
    shown = None if names is None else to_names(names)
    true, predicted, _ = label_pair(y, y_pred, None if shown is None else len(shown))
    wrong = np.stack([true, predicted])[:, true != predicted]
    pairs, counts = np.unique(wrong, axis=1, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:n]
    return [
        f"{i}→{j}: {count}" if shown is None else f"{shown[i]}→{shown[j]}: {count}"
        for (i, j), count in zip(pairs.T[most], counts[most], strict=True)
    ]


def r2_score(y: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the coefficient of determination, averaged over outputs.

    ``1 - sum((y - y_pred)**2) / sum((y - mean(y))**2)``: 1 is perfect, 0 no better than the mean of
    the targets, and it may be negative. Targets that are all equal count as 1 if they are predicted
    exactly, else as 0.

    Parameters
    ----------
    y, y_pred : (N,) or (N, K) array_like
        Targets and outputs, of at least two samples; (N, 1) goes with (N,).

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If shapes differ or there are fewer than two samples, or a value is NaN or infinite.

    Examples
    --------
    >>> r2_score([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    """
    true, predicted = _columns("y", y), _columns("y_pred", y_pred)
    if true.shape != predicted.shape:
        raise ValueError(f"y_pred: got shape {np.shape(y_pred)}, expected that of y, {np.shape(y)}")
    equal = (true == true[0]).all(axis=0)  # their mean may be rounded
    # by a power of 2, so that no square overflows and no bit is lost
    _, exponent = np.frexp(np.maximum(abs(true).max(axis=0), abs(predicted).max(axis=0)))
    true, predicted = np.ldexp(true, -exponent), np.ldexp(predicted, -exponent)
    left = np.sum((true - predicted) ** 2, axis=0)
    spread = np.sum((true - true.mean(axis=0)) ** 2, axis=0)
    constant = equal | (spread == 0)
    score = np.where(constant, left == 0, 1 - left / np.where(constant, 1, spread))
    return float(score.mean())


def _vector(name: str, value: ArrayLike, classes: int) -> Array:
    """Return labels (N,) in [0, classes), at least one, as int32."""
    labels = to_array(name, value)
    if labels.ndim != 1 or not labels.size:
        hint = "; take argmax(axis=1) of scores" if labels.ndim == 2 else ""
        raise ValueError(f"{name}: got shape {labels.shape}, expected (N,), not empty{hint}")
    return to_labels(name, labels, classes)


def label_pair(y: ArrayLike, y_pred: ArrayLike, n_classes: int | None) -> tuple[Array, Array, int]:
    """Return true and predicted labels (N,) as int32, and the number of classes."""
    limit = _MAX_CLASSES
    if n_classes is not None:
        limit = check_integer("n_classes", n_classes, 1, _MAX_CLASSES)
    true, predicted = _pair(y, y_pred, limit)
    if n_classes is None:
        limit = int(max(true.max(), predicted.max())) + 1
    return true, predicted, limit


def _pair(y: ArrayLike, y_pred: ArrayLike, limit: int) -> tuple[Array, Array]:
    """Return true and predicted labels (N,) below the limit as int32."""
    true, predicted = _vector("y", y, limit), _vector("y_pred", y_pred, limit)
    if len(true) != len(predicted):
        raise ValueError(f"y_pred: got {len(predicted)} labels, expected {len(true)}, as in y")
    return true, predicted


def _columns(name: str, value: ArrayLike) -> Array:
    """Return finite numbers (N,) or (N, K), of at least two rows, as (N, K) float64."""
    array = packed(to_array(name, value), np.float64)
    if array.ndim not in (1, 2) or len(array) < 2 or not array.size:
        raise ValueError(
            f"{name}: got shape {array.shape}, expected (N,) or (N, K) with at least two rows"
        )
    check_finite(name, array)
    return array.reshape(len(array), -1)


def _ratio(part: Array, whole: Array) -> Array:
    """Return ``part / whole``, and 0 where both are."""
    out: Array = part / np.maximum(whole, 1)
    return out
