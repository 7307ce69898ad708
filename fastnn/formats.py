"""Owns the order of axes in which a user's images come and go: channels last, or first.

Leaves all else to the model. Layers see channels last only; "channels_first" is converted once,
where data come in and where results go out.
"""

import math

from fastnn.checks import Array, packed

__all__ = ["FORMATS", "check_format", "inside", "outside", "rows_inside", "seen"]

FORMATS = ("channels_last", "channels_first")


def check_format(name: str, value: object) -> str:
    """Return ``value`` if it is a format.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(value, str) or value not in FORMATS:
        raise ValueError(f"{name}: got {value!r}, expected 'channels_last' or 'channels_first'")
    return value


def _swaps(shape: tuple[int, ...], data_format: str) -> bool:
    return data_format == "channels_first" and len(shape) == 3


def inside(shape: tuple[int, ...], data_format: str) -> tuple[int, ...]:
    """Return a sample's shape as layers see it; only that of an image, with three axes, changes.

    Examples
    --------
    >>> inside((3, 28, 30), "channels_first"), inside((784,), "channels_first")
    ((28, 30, 3), (784,))
    """
    return (*shape[1:], shape[0]) if _swaps(shape, data_format) else shape


def outside(shape: tuple[int, ...], data_format: str) -> tuple[int, ...]:
    """Return a sample's shape as the user sees it, the inverse of ``inside``."""
    return (shape[-1], *shape[:-1]) if _swaps(shape, data_format) else shape


def seen(array: Array, data_format: str) -> Array:
    """Return a view of a batch (N, *shape) of the layers in the user's order.

    Examples
    --------
    >>> import numpy as np
    >>> seen(np.ones((5, 28, 30, 3)), "channels_first").shape
    (5, 3, 28, 30)
    """
    return array.transpose(0, 3, 1, 2) if _swaps(array.shape[1:], data_format) else array


def rows_inside(rows: Array, shape: tuple[int, ...], data_format: str) -> Array:
    """Return a matrix of samples, which the user gave in this shape, in the layers' order.

    Examples
    --------
    >>> import numpy as np
    >>> rows_inside(np.arange(4).reshape(1, 4), (2, 1, 2), "channels_first")
    array([[0, 2, 1, 3]])
    """
    if not _swaps(shape, data_format) or rows.shape[1:] != (math.prod(shape),):
        return rows
    images = rows.reshape(len(rows), *shape).transpose(0, 2, 3, 1)
    return packed(images).reshape(rows.shape)
