"""Owns the losses: targets, kernels for value and gradient, and the layers that they include.

Leaves the mean over an epoch's batches to the trainer.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastnn.checks import (
    PIXEL_SCALE,
    Array,
    check_finite,
    check_integer,
    check_real,
    packed,
    to_array,
    to_labels,
    to_weights,
)
from fastnn.component import Component, choose
from fastnn.layers import Layer, Sigmoid, Softmax
from fastnn.regularizers import REGULARIZERS, Regularizer

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "ElementwiseLoss",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "included",
    "last_computing",
    "loss_weights",
]


class Loss(Component):
    """A mean over the batch of a function of outputs and targets.

    Attributes
    ----------
    counts_correct : bool
        True: ``compute`` counts right predictions, and accuracy is reported.
    counts_elements : bool
        True: each output is a prediction, not each row of them.
    by_rows : bool
        True: the mean is over the rows (..., C) of an output, each with a target of its own.
    includes : type of Layer or None
        The loss takes what comes before a layer of this class, such as logits; a model's last
        layer, if it is one, is left out. Views of its output may follow it.

    Parameters
    ----------
    penalty : str or Regularizer, optional
        On all kernels of the model, not on biases.

    Raises
    ------
    TypeError, ValueError
        If ``penalty`` is neither a name nor a Regularizer.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Linear()], input_shape=2)
    >>> model.evaluate([[3.0, 5.0]], [[0.0, 0.0]], loss=fnn.MeanSquaredError())
    {'loss': 17.0}
    """

    recorded: ClassVar[tuple[str, ...]] = ("compute",)
    counts_correct: ClassVar[bool] = False
    counts_elements: ClassVar[bool] = False
    by_rows: ClassVar[bool] = False
    includes: ClassVar[type[Layer] | None] = None
    penalty: Regularizer | None = None

    def __init__(self, penalty: str | Regularizer | None = None) -> None:
        if penalty is not None:
            self.penalty = choose("penalty", penalty, Regularizer, REGULARIZERS)

    def targets(
        self, name: str, y: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, pixels: bool
    ) -> tuple[Array, float]:
        """Return the targets, (N,) or (N, T) int32 or (N, F) uint8 or ``dtype``, and a factor.

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
        weights: Array | None,
        dx: Array | None,
        loss: Array,
        correct: Array,
    ) -> None:
        """Compute ``loss`` (1,), the gradient ``dx`` unless it is None, and ``correct`` (1,).

        ``x`` is the model's output (N, ...), ``target`` the batch's rows of ``targets``. With
        ``weights`` (N,), at least 0, the loss is
        ``sum(weights * row_losses) / count(weights != 0)``, and rows of weight 0 count in nothing;
        None stands for ones.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute")


class CrossEntropy(Loss):
    """Cross-entropy of the softmax of the output, in nats.

    Targets are class numbers (N,), integers only, or rows (N, C) of probabilities, such as one-hot.

    Parameters
    ----------
    penalty : str or Regularizer, optional
        On all kernels of the model, not on biases.

    Raises
    ------
    TypeError, ValueError
        If ``penalty`` is neither a name nor a Regularizer.

    Examples
    --------
    >>> CrossEntropy().targets("y", [[0, 1], [1, 0]], (2,), np.float32, False)
    (array([1, 0], dtype=int32), 1.0)
    """

    records = True
    counts_correct = True
    by_rows = True
    includes = Softmax

    def targets(
        self, name: str, y: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, pixels: bool
    ) -> tuple[Array, float]:
        array = to_array(name, y)
        if shape[-1] < 2:
            raise ValueError(
                f"loss: CrossEntropy needs an output of shape (..., classes) with at least 2 "
                f"classes, the model's is {shape}"
            )
        if array.ndim and array.shape[1:] == shape[:-1]:
            return to_labels(name, array, shape[-1]), 1.0
        if array.ndim == 0 or array.shape[1:] != shape:
            *most, last = map(str, shape)
            labels = f"(rows, {', '.join(most)})" if most else "(rows,)"
            hint = ""
            if most and array.ndim == 1:
                hint = "; is a Flatten() missing in the model, or return_sequences=False?"
            raise ValueError(
                f"{name}: got shape {array.shape}, expected {labels} or "
                f"(rows, {', '.join([*most, last])}){hint}"
            )
        rows = packed(array, dtype).reshape(-1, shape[-1])
        check_finite(name, rows)
        if np.array_equal(rows, rows.astype(bool)) and (rows.sum(axis=1) == 1).all():
            return rows.argmax(axis=1).astype(np.int32).reshape(array.shape[:-1]), 1.0
        bad = np.flatnonzero((rows < 0).any(axis=1) | (abs(rows.sum(axis=1) - 1) > 1e-3))
        if bad.size:
            raise ValueError(
                f"{name}: got row {bad[0]} = {rows[bad[0]]}, expected probabilities that sum to 1"
            )
        return rows.reshape(len(array), -1), 1.0

    def compute(
        self,
        k: ModuleType,
        x: Array,
        target: Array,
        weights: Array | None,
        dx: Array | None,
        loss: Array,
        correct: Array,
    ) -> None:
        rows = x.reshape(-1, x.shape[-1])
        gradient = None if dx is None else dx.reshape(rows.shape)
        if target.dtype == np.int32:
            labels = target.reshape(-1)
            k.softmax_cross_entropy(rows, labels, weights, gradient, loss, correct)
        else:
            probabilities = target.reshape(rows.shape)
            k.softmax_cross_entropy_soft(rows, probabilities, weights, gradient, loss, correct)


class ElementwiseLoss(Loss):
    """A mean over all elements of a function of output and target, which have the same shape.

    uint8 targets are pixels, scaled to [0, 1], where the inputs are and have as many elements (an
    autoencoder), and in validation data if they are in the training data; else they are numbers.
    """

    records = True
    kernel: ClassVar[str]
    numbers: tuple[float, ...] = ()
    """What the kernel takes after the targets."""

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
        weights: Array | None,
        dx: Array | None,
        loss: Array,
        correct: Array,
    ) -> None:
        rows = len(x) if weights is None else len(weights)
        gradient = None if dx is None else dx.reshape(rows, -1)
        outputs = [gradient, loss, correct] if self.counts_correct else [gradient, loss]
        kernel = getattr(k, self.kernel)
        kernel(x.reshape(rows, -1), target.reshape(rows, -1), *self.numbers, weights, *outputs)


class MeanSquaredError(ElementwiseLoss):
    """Mean over all elements of the squared difference.

    Targets have the output's shape. uint8 targets are pixels, scaled to [0, 1], where the inputs
    are and have as many elements (an autoencoder), unless they alone are all 0 or 1 (a mask).
    Else they are numbers. ``validation_data``, and ``evaluate`` after ``fit``, go by the training.

    Parameters
    ----------
    penalty : str or Regularizer, optional
        On all kernels of the model, not on biases.

    Raises
    ------
    TypeError, ValueError
        If ``penalty`` is neither a name nor a Regularizer.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Linear()], input_shape=2)
    >>> model.evaluate([[3.0, 5.0]], [[0.0, 0.0]], "mean_squared_error")
    {'loss': 17.0}
    """

    kernel = "mean_squared_error"


class MeanAbsoluteError(ElementwiseLoss):
    """Mean over all elements of the size of the difference; targets as for ``MeanSquaredError``.

    Parameters
    ----------
    penalty : str or Regularizer, optional
        On all kernels of the model, not on biases.

    Raises
    ------
    TypeError, ValueError
        If ``penalty`` is neither a name nor a Regularizer.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Linear()], input_shape=2)
    >>> model.evaluate([[3.0, 5.0]], [[0.0, 0.0]], "mean_absolute_error")
    {'loss': 4.0}
    """

    kernel = "mean_absolute_error"


class Huber(ElementwiseLoss):
    """Mean over all elements of Huber's function (1964) of the difference ``d``.

    That is ``d**2 / 2`` where ``abs(d) <= delta``, else ``delta * (abs(d) - delta / 2)``, so that
    outliers count less than in a squared error. Targets as for ``MeanSquaredError``.

    Parameters
    ----------
    delta : float
        Positive.
    penalty : str or Regularizer, optional
        On all kernels of the model, not on biases.

    Raises
    ------
    TypeError, ValueError
        If ``delta`` is no positive finite number, or ``penalty`` neither a name nor a Regularizer.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Linear()], input_shape=2)
    >>> model.evaluate([[1.0, 5.0]], [[0.0, 0.0]], fnn.Huber(2.0))  # (1 / 2 + 2 * 4) / 2
    {'loss': 4.25}
    """

    kernel = "huber"

    def __init__(self, delta: float = 1.0, penalty: str | Regularizer | None = None) -> None:
        super().__init__(penalty)
        self.delta = check_real("delta", delta, 0, open_low=True)
        self.numbers = (self.delta,)


class BinaryCrossEntropy(ElementwiseLoss):
    """Mean over all outputs of the cross-entropy of their sigmoid, in nats.

    Each output is a yes or no of its own. Targets have the output's shape, or are (N,) for one
    output, and lie in [0, 1]. The accuracy is the share of outputs on the target's side of 1/2.

    Parameters
    ----------
    penalty : str or Regularizer, optional
        On all kernels of the model, not on biases.

    Raises
    ------
    TypeError, ValueError
        If ``penalty`` is neither a name nor a Regularizer.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Linear()], input_shape=1)
    >>> model.evaluate([[0.0], [0.0]], [0, 1], "binary_cross_entropy")
    {'loss': 0.6931471824645996, 'accuracy': 0.5}
    """

    counts_correct = True
    counts_elements = True
    includes = Sigmoid
    kernel = "binary_cross_entropy"

    def targets(
        self, name: str, y: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, pixels: bool
    ) -> tuple[Array, float]:
        rows, scale = super().targets(name, y, shape, dtype, pixels)
        if scale == 1:
            bad = np.argwhere((rows < 0) | (rows > 1))
            if bad.size:
                i, j = bad[0]
                raise ValueError(f"{name}: got {rows[i, j]} in row {i}, expected values in [0, 1]")
        return rows, scale


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mean_squared_error": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
}


def last_computing(layers: Sequence[Layer]) -> Layer | None:
    """Return the last layer that computes something; views of its output may follow it."""
    return next((layer for layer in reversed(layers) if not layer.view), None)


def included(loss: Loss, layers: Sequence[Layer]) -> Layer | None:
    """Return the last activation if the loss computes it itself.

    Raises
    ------
    ValueError
        If it is a softmax over other rows than those of the output.
    """
    layer = last_computing(layers)
    if loss.includes is None or not isinstance(layer, loss.includes):
        return None
    if loss.by_rows and any(
        one.output_shape[-1] != layer.output_shape[-1] for one in layers[layer.index :]
    ):
        raise ValueError(
            f"{layer.label}: its rows of {layer.output_shape[-1]} are not those of the output, of "
            "which the loss takes the softmax"
        )
    return layer


def loss_weights(
    targets: Array,
    sample_weight: ArrayLike | None,
    class_weight: Mapping[int, float] | None,
    classes: int,
    dtype: DTypeLike,
    rows: int = 1,
    lengths: Array | None = None,
    steps: int = 1,
) -> Array | None:
    """Return the weight of each row in the loss, (N, P), or None if all count alike.

    Parameters
    ----------
    targets : (N, ...)
        As ``Loss.targets`` returns them.
    sample_weight : (N,) array_like, optional
    class_weight : mapping of int to float, optional
        By class number; 1 for those that it leaves out.
    classes : int
        How many the model tells apart; two by a single output.
    dtype : float dtype
    rows : int
        P, how many rows a sample has in the loss.
    lengths : (N,) int32, optional
        Of sequences of outputs; the rows of the steps beyond do not count.
    steps : int
        Of those sequences.

    Raises
    ------
    TypeError, ValueError
        If they do not fit the targets, or are no finite numbers >= 0, one of them positive.

    Examples
    --------
    >>> labels = np.array([0, 1, 1], np.int32)
    >>> loss_weights(labels, [1, 1, 0], {1: 4.0}, 2, np.float32).ravel()
    array([1., 4., 0.], dtype=float32)
    """
    if sample_weight is None and class_weight is None and lengths is None:
        return None
    labels = targets.reshape(len(targets), -1) if targets.dtype == np.int32 else None
    weights = np.ones((len(targets), rows), dtype)
    if sample_weight is not None:
        weights *= to_weights("sample_weight", sample_weight, (len(targets),), dtype)[:, None]
    if class_weight is not None:
        if not isinstance(class_weight, Mapping):
            raise TypeError(
                f"class_weight: got {class_weight!r:.60} ({type(class_weight).__name__}), expected "
                "a dict of weights by class number"
            )
        single = classes == 2 and targets.dtype == dtype and targets.shape[1:] == (1,)
        if single and np.isin(targets, (0, 1)).all():
            labels = targets.astype(int)
        if labels is None:
            raise ValueError(
                f"class_weight: got {class_weight!r:.60}, expected None, because the targets are "
                "neither class numbers of cross-entropy nor 0 and 1 of binary cross-entropy with "
                "a single output"
            )
        table = np.ones(classes)
        for label, weight in class_weight.items():
            row = check_integer("class_weight", label, 0, classes - 1)
            table[row] = check_real(f"class_weight[{row}]", weight, 0)
        weights = to_weights("class_weight", weights * table[labels], weights.shape, dtype)
    if lengths is not None:
        weights *= np.arange(rows) * steps // rows < lengths[:, None]
    return weights
