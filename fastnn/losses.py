"""Owns the losses: which targets they take, and which kernel gives value and gradient.

Leaves the mean over an epoch's batches to the trainer.
"""

from types import ModuleType
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastnn.checks import PIXEL_SCALE, Array, check_finite, packed, to_array, to_labels
from fastnn.component import Component

__all__ = ["LOSSES", "CrossEntropy", "Loss", "MeanSquaredError"]


class Loss(Component):
    """A mean over the batch of a function of outputs and targets.

    Attributes
    ----------
    counts_correct : bool
        True: ``compute`` counts right predictions, and accuracy is reported.
    includes_softmax : bool
        True: the loss takes logits; a model's last layer, if it is a ``Softmax``, is left out.
    """

    recorded: ClassVar[tuple[str, ...]] = ("compute",)
    counts_correct: ClassVar[bool] = False
    includes_softmax: ClassVar[bool] = False

    def targets(
        self, name: str, y: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, pixels: bool
    ) -> tuple[Array, float]:
        """Return the targets as (N,) int32 or (N, F) uint8 or ``dtype``, and a factor for them.

        Parameters
        ----------
        name : str
        y : array_like
        shape : tuple of int
            Of the model's output for one sample.
        dtype : float dtype
        pixels : bool
            Inputs are uint8 pixels and outputs have their size; then uint8 targets are pixels, too.

        Raises
        ------
        TypeError, ValueError
            If they do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must define targets")

    def compute(
        self,
        k: ModuleType,
        x: Array,
        target: Array,
        dx: Array | None,
        loss: Array,
        correct: Array,
    ) -> None:
        """Compute ``loss`` (1,), the gradient ``dx`` unless it is None, and ``correct`` (1,).

        ``x`` is the model's output (N, ...), ``target`` the batch's rows of ``targets``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute")


class CrossEntropy(Loss):
    """Cross-entropy of the softmax of the output, in nats.

    Targets are class numbers (N,), integers only, or rows (N, C) of probabilities, such as one-hot.

    Examples
    --------
    >>> CrossEntropy().targets("y", [[0, 1], [1, 0]], (2,), np.float32, False)
    (array([1, 0], dtype=int32), 1.0)
    """

    records = True
    counts_correct = True
    includes_softmax = True

    def targets(
        self, name: str, y: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, pixels: bool
    ) -> tuple[Array, float]:
        array = to_array(name, y)
        if len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                f"loss: CrossEntropy needs an output of shape (classes,) with at least 2 classes, "
                f"the model's is {shape}"
            )
        if array.ndim == 1:
            return to_labels(name, array, shape[0]), 1.0
        if array.ndim != 2 or array.shape[1] != shape[0]:
            raise ValueError(
                f"{name}: got shape {array.shape}, expected (rows,) or (rows, {shape[0]})"
            )
        rows = packed(array, dtype)
        check_finite(name, rows)
        if np.array_equal(rows, rows.astype(bool)) and (rows.sum(axis=1) == 1).all():
            return rows.argmax(axis=1).astype(np.int32), 1.0
        bad = np.flatnonzero((rows < 0).any(axis=1) | (abs(rows.sum(axis=1) - 1) > 1e-3))
        if bad.size:
            raise ValueError(
                f"{name}: got row {bad[0]} = {rows[bad[0]]}, expected probabilities that sum to 1"
            )
        return rows, 1.0

    def compute(
        self,
        k: ModuleType,
        x: Array,
        target: Array,
        dx: Array | None,
        loss: Array,
        correct: Array,
    ) -> None:
        if target.ndim == 1:
            k.softmax_cross_entropy(x, target, dx, loss, correct)
        else:
            k.softmax_cross_entropy_soft(x, target, dx, loss, correct)


class MeanSquaredError(Loss):
    """Mean over all elements of the squared difference.

    Targets have the output's shape. uint8 targets are pixels, scaled to [0, 1], where the inputs
    are and have as many elements (an autoencoder); elsewhere they are numbers.
    """

    records = True

    def targets(
        self, name: str, y: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, pixels: bool
    ) -> tuple[Array, float]:
        array = to_array(name, y)
        if array.ndim == 1 and shape == (1,):
            array = array[:, None]
        if array.ndim == 0 or array.shape[1:] != shape:
            raise ValueError(
                f"{name}: got shape {array.shape}, expected (rows, {', '.join(map(str, shape))})"
            )
        if array.dtype == np.uint8 and pixels:
            return packed(array).reshape(len(array), -1), PIXEL_SCALE
        with np.errstate(over="ignore"):
            rows = packed(array, dtype).reshape(len(array), -1)
        check_finite(name, rows)
        return rows, 1.0

    def compute(
        self,
        k: ModuleType,
        x: Array,
        target: Array,
        dx: Array | None,
        loss: Array,
        correct: Array,
    ) -> None:
        flat = None if dx is None else dx.reshape(-1)
        k.mean_squared_error(x.reshape(-1), target.reshape(-1), flat, loss)


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
}
