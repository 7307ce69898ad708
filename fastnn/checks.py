"""Owns the first ring of checks: what a user passes is converted and validated once, here.

Leaves shapes between kernels to the kernels. Every error names the argument, what it was and what
was expected; no array of the caller's is ever written to, and a warning shows the caller's line.
"""

import math
import numbers
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "PIXEL_SCALE",
    "Array",
    "DivergenceError",
    "assign",
    "check_finite",
    "check_flag",
    "check_integer",
    "check_real",
    "check_shape",
    "packed",
    "to_array",
    "to_labels",
    "to_lengths",
    "to_names",
    "to_rows",
    "to_tokens",
    "to_weights",
    "users_frame",
]

Array = NDArray[Any]

PIXEL_SCALE = float(np.float32(1 / 255))
"""uint8 inputs are pixels: they are multiplied by this where they are read."""

_MAX_ELEMENTS = 2**31
_BLOCK = 2**18


class DivergenceError(ValueError):
    """The loss is not finite any more; the weights are those before the step that showed it.

    Attributes
    ----------
    epoch, batch : int or None
        Counted from 1; ``epoch`` is None outside ``fit``.
    layer : int or None
        Index of the first layer whose weights or output are not finite; None where all are, and
        only the loss is not.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Dense(2, kernel_initializer="ones")])
    >>> run = {"loss": "mse", "optimizer": fnn.SGD(1e30), "epochs": 9, "verbose": 0}
    >>> model.fit(np.eye(2), np.eye(2), **run)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fastnn.checks.DivergenceError: epoch 2, batch 1: the loss is inf: ...
    """

    def __init__(
        self,
        message: str,
        *,
        epoch: int | None = None,
        batch: int | None = None,
        layer: int | None = None,
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch
        self.layer = layer


def _shown(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({type(value).__name__})"


def users_frame() -> int:
    """Return the ``stacklevel`` with which the calling function's warning shows the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].startswith("fastnn."):
        level, frame = level + 1, frame.f_back
    return level


def check_integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int in [low, high].

    Raises
    ------
    TypeError
        If it is not an integer (a bool or a float is not).
    ValueError
        If it is out of range.

    Examples
    --------
    >>> check_integer("epochs", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: epochs: got 0, expected an integer >= 1
    """
    expected = f"expected an integer >= {low}" + ("" if high is None else f" and <= {high}")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: got {_shown(value)}, {expected}")
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name}: got {number}, {expected}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return ``value``, True or False.

    Raises
    ------
    TypeError
        If it is something else, even 0 or 1.

    Examples
    --------
    >>> check_flag("use_bias", 1)
    Traceback (most recent call last):
    ...
    TypeError: use_bias: got 1, expected True or False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {value!r:.60}, expected True or False")
    return bool(value)


def check_real(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return ``value`` as a finite float between ``low`` and ``high``.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is out of range, NaN or infinite.

    Examples
    --------
    >>> check_real("rate", 1.0, 0, 1, open_high=True)
    Traceback (most recent call last):
    ...
    ValueError: rate: got 1.0, expected a finite number >= 0 and < 1
    """
    limits = []
    if low > -math.inf:
        limits.append(f"{'>' if open_low else '>='} {low:g}")
    if high < math.inf:
        limits.append(f"{'<' if open_high else '<='} {high:g}")
    expected = " ".join(["expected a finite number", " and ".join(limits)]).rstrip()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {_shown(value)}, {expected}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    inside = (low < number if open_low else low <= number) and (
        number < high if open_high else number <= high
    )
    if not (math.isfinite(number) and inside):
        raise ValueError(f"{name}: got {number!r}, {expected}")
    return number


def check_shape(name: str, value: object) -> tuple[int, ...]:
    """Return ``value``, an int or a sequence of ints, as a shape without empty axes.

    Raises
    ------
    TypeError, ValueError
        If it is no such thing, or has 2**31 elements or more.

    Examples
    --------
    >>> check_shape("input_shape", [28, 28, 1])
    (28, 28, 1)
    """
    axes = value if isinstance(value, (tuple, list)) else (value,)
    shape = tuple(check_integer(name, axis, 1) for axis in axes)
    if not shape:
        raise ValueError(f"{name}: got (), expected at least one axis")
    if math.prod(shape) >= _MAX_ELEMENTS:
        raise ValueError(f"{name}: got {shape}, expected fewer than 2**31 elements")
    return shape


def to_array(name: str, value: ArrayLike) -> Array:
    """Return ``value`` as an array of bools, integers or real floats, in native byte order.

    Raises
    ------
    TypeError
        If it holds strings, objects, complex numbers or dates.
    ValueError
        If it is ragged.
    """
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: got a sparse {type(value).__name__}, expected a dense array")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name}: got a {type(value).__name__} that is no rectangular array ({error})"
        ) from error
    if array.dtype.kind not in "buif":
        raise TypeError(
            f"{name}: got {type(value).__name__} of dtype {array.dtype}, expected numbers "
            "(bool, integer or float)"
        )
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name}: got masked values, expected none (fill them first)")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def assign(name: str, array: Array, value: ArrayLike) -> None:
    """Copy ``value`` into an array of the same shape, of which there are views elsewhere.

    Numbers that the array's dtype cannot hold become infinite.

    Raises
    ------
    TypeError, ValueError
        If it is no array of numbers, or has another shape.

    Examples
    --------
    >>> assign("b", np.zeros(3), [1.0, 2.0])
    Traceback (most recent call last):
    ...
    ValueError: b: got shape (2,), expected (3,)
    """
    values = to_array(name, value)
    if values.shape != array.shape:
        raise ValueError(f"{name}: got shape {values.shape}, expected {array.shape}")
    with np.errstate(over="ignore"):
        array[...] = values


def packed(array: Array, dtype: DTypeLike | None = None) -> Array:
    """Return the array as the kernels need it, C-contiguous and aligned; a copy only if it must."""
    result: Array = np.require(array, dtype, ["C", "A"])
    return result


def check_finite(name: str, array: Array) -> None:
    """Check a C-contiguous float array for NaN and infinity, without a copy.

    Raises
    ------
    ValueError
        If there is one; the message says in which row.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        # A sum of squares can only be finite when all are; it overflows long before they do.
        if not math.isfinite(np.vdot(block, block)):
            bad = np.flatnonzero(~np.isfinite(block))
            if bad.size:
                index = np.unravel_index(start + bad[0], array.shape)
                raise ValueError(
                    f"{name}: got {block[bad[0]]} in row {index[0]}, expected finite numbers"
                )


def to_rows(
    name: str, value: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike
) -> tuple[Array, float]:
    """Return samples as a C-contiguous matrix (N, F) and the factor to read them with.

    uint8 and ``dtype`` pass without a copy where they are contiguous and aligned; all else is
    converted to ``dtype``, once. uint8 samples are pixels, to be scaled to [0, 1].

    Parameters
    ----------
    name : str
    value : (N, *shape) array_like
    shape : tuple of int
        Of one sample.
    dtype : float dtype

    Raises
    ------
    TypeError, ValueError
        If it is no array of numbers, has another shape, no rows, or NaN or infinite values.
    """
    array = to_array(name, value)
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        expected = f"(rows, {', '.join(map(str, shape))})"
        hint = _hint(array.shape, shape)
        raise ValueError(f"{name}: got shape {array.shape}, expected {expected}{hint}")
    if not len(array):
        raise ValueError(f"{name}: got shape {array.shape}, expected at least one row")
    pixels = array.dtype == np.uint8
    with np.errstate(over="ignore"):
        rows = packed(array, None if pixels else dtype).reshape(len(array), -1)
    if not pixels:
        check_finite(name, rows)
    return rows, PIXEL_SCALE if pixels else 1.0


def _hint(got: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Return how samples might come by their shape, or nothing."""
    if got == shape:
        return "; for one sample pass x[None]"
    if (*got[1:], 1) == shape:
        return "; for one channel pass x[..., None]"
    if (1, *got[1:]) == shape:
        return "; for one channel pass x[:, None]"
    if len(shape) == 3 and sorted(got[1:]) == sorted(shape):
        return "; data_format of the model says where an image has its channels"
    return ""


def to_labels(name: str, labels: Array, classes: int) -> Array:
    """Return integer class labels (N, ...) as int32, a copy.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If one is not in [0, classes).

    Examples
    --------
    >>> to_labels("y", np.array([0, 3]), 3)
    Traceback (most recent call last):
    ...
    ValueError: y: got label 3 in row 1, expected labels in [0, 3)
    """
    if labels.dtype.kind not in "ui":
        raise TypeError(
            f"{name}: got labels of dtype {labels.dtype}, expected integers; "
            "use y.astype(int) if they are class numbers"
        )
    bad = np.argwhere((labels < 0) | (labels >= classes))
    if bad.size:
        shown = labels[tuple(bad[0])]
        raise ValueError(
            f"{name}: got label {shown} in row {bad[0][0]}, expected labels in [0, {classes})"
        )
    # A copy, because steps look no more: what the caller writes later must not get there.
    return np.array(labels, np.int32, order="C")


def to_lengths(name: str, value: ArrayLike, rows: int, steps: int) -> Array:
    """Return the lengths of sequences (N,) as int32, a copy.

    Raises
    ------
    TypeError, ValueError
        If they are not integers in [1, steps], one for each row.

    Examples
    --------
    >>> to_lengths("lengths", [3, 0], 2, 5)
    Traceback (most recent call last):
    ...
    ValueError: lengths: got 0 in row 1, expected integers from 1 to 5
    """
    lengths = to_array(name, value)
    if lengths.dtype.kind not in "ui":
        raise TypeError(f"{name}: got dtype {lengths.dtype}, expected integers")
    if lengths.shape != (rows,):
        raise ValueError(f"{name}: got shape {lengths.shape}, expected ({rows},)")
    bad = np.flatnonzero((lengths < 1) | (lengths > steps))
    if bad.size:
        raise ValueError(
            f"{name}: got {lengths[bad[0]]} in row {bad[0]}, expected integers from 1 to {steps}"
        )
    return np.array(lengths, np.int32, order="C")


def to_names(value: Sequence[str], classes: int | None = None) -> list[str]:
    """Return the names of classes, at least ``classes`` of them.

    Raises
    ------
    TypeError
        If they are no sequence of strings.
    ValueError
        If there are too few, or none.

    Examples
    --------
    >>> to_names("cat")
    Traceback (most recent call last):
    ...
    TypeError: names: got 'cat' (str), expected a sequence of str
    """
    names = list(value) if isinstance(value, (Sequence, np.ndarray)) else [value]
    if isinstance(value, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names: got {_shown(value)}, expected a sequence of str")
    if len(names) < (classes or 1):
        raise ValueError(f"names: got {len(names)}, expected {classes or 1}, one for each class")
    return names


def to_tokens(name: str, value: ArrayLike, steps: int, tokens: int) -> Array:
    """Return sequences of tokens (N, steps) as int32, a copy; for one step also from (N,).

    Raises
    ------
    TypeError, ValueError
        If they are not integers in [0, tokens), have another shape, or there are no rows.

    Examples
    --------
    >>> to_tokens("x", [[1, 2], [3, 4]], 2, 4)
    Traceback (most recent call last):
    ...
    ValueError: x: got token 4 in row 1, step 1, expected integers from 0 to 3
    """
    array = to_array(name, value)
    if array.dtype.kind not in "ui":
        raise TypeError(f"{name}: got dtype {array.dtype}, expected integers")
    if array.ndim == 1 and steps == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != steps or not len(array):
        raise ValueError(f"{name}: got shape {array.shape}, expected (rows, {steps})")
    bad = np.argwhere((array < 0) | (array >= tokens))
    if bad.size:
        row, step = bad[0]
        raise ValueError(
            f"{name}: got token {array[row, step]} in row {row}, step {step}, expected integers "
            f"from 0 to {tokens - 1}"
        )
    # A copy, because steps look no more: what the caller writes later must not get there.
    return np.array(array, np.int32, order="C")


def to_weights(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return the weights of samples in a loss as a C-contiguous array of this shape and dtype.

    Raises
    ------
    TypeError, ValueError
        If they are no numbers, have another shape, are negative, NaN or infinite, or all 0.

    Examples
    --------
    >>> to_weights("sample_weight", [1, -1], (2,), np.float32)
    Traceback (most recent call last):
    ...
    ValueError: sample_weight: got -1.0 in row 1, expected finite numbers >= 0
    """
    array = to_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, expected {shape}")
    with np.errstate(over="ignore"):
        weights = packed(array, dtype)
    bad = np.argwhere(~((weights >= 0) & np.isfinite(weights)))
    if bad.size:
        shown = weights[tuple(bad[0])]
        raise ValueError(f"{name}: got {shown} in row {bad[0][0]}, expected finite numbers >= 0")
    if not weights.any():
        raise ValueError(f"{name}: got 0 only, expected at least one positive weight")
    return weights
