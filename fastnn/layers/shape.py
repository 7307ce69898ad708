"""Owns the layers that compute nothing: they pass their input on, perhaps in another shape.

Leaves the sharing of the buffer to ``memory.Workspace``.
"""

import math
from collections.abc import Sequence

from fastnn.checks import check_integer, check_shape
from fastnn.layers.base import Layer

__all__ = ["Flatten", "Linear", "Reshape"]


class Linear(Layer):
    """The identity, as an activation.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Dense(3, activation="linear")]).layers
    (Dense(3), Linear())
    """

    records = True
    view = True


class Flatten(Layer):
    """Each sample as one axis, the last of its axes running fastest.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Flatten()], input_shape=(7, 7, 16)).output_shape
    (784,)
    """

    records = True
    view = True

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(input_shape),)


class Reshape(Layer):
    """Each sample in another shape with as many elements.

    Parameters
    ----------
    shape : tuple of int
        Without the batch axis; one axis may be -1, to be computed.

    Raises
    ------
    TypeError, ValueError
        If ``shape`` is not as above, or the input has another number of elements.

    Examples
    --------
    >>> Reshape((4, -1)).build((8, 2))
    (4, 4)
    """

    records = True
    view = True

    def __init__(self, shape: int | Sequence[int]) -> None:
        axes = shape if isinstance(shape, (tuple, list)) else (shape,)
        self.shape = tuple(check_integer("shape", axis, -1) for axis in axes)
        if self.shape.count(-1) > 1 or 0 in self.shape or not self.shape:
            raise ValueError(f"shape: got {shape}, expected positive axes, at most one of them -1")

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        total, known = math.prod(input_shape), math.prod(axis for axis in self.shape if axis > 0)
        if total % known or (-1 not in self.shape and total != known):
            raise ValueError(
                f"input shape {input_shape} ({total} elements) does not fit shape {self.shape}"
            )
        shape = tuple(total // known if axis == -1 else axis for axis in self.shape)
        return check_shape("shape", shape)
