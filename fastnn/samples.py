"""Owns samples and targets: from what a user gives to the matrices that steps fetch from.

Checks that they fit the model and the loss, and says how many rows a step takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastnn.checks import Array, to_array, to_lengths, to_rows
from fastnn.formats import inside, rows_inside
from fastnn.layers.base import Layer
from fastnn.layers.embedding import Embedding
from fastnn.layers.normalization import BatchNorm
from fastnn.losses import Loss, included, loss_weights

if TYPE_CHECKING:
    from fastnn.model import Sequential

__all__ = [
    "Data",
    "chunk_rows",
    "first_stateful",
    "rows_at_once",
    "sequence_lengths",
    "to_data",
    "to_samples",
    "to_validation",
]

_CHUNK_BYTES = 2**21
_MAX_CHUNK = 1024


class Data(NamedTuple):
    """Samples and targets as matrices, each with the factor to read it with.

    ``y`` may be class numbers, (N,) or (N, P) int32. ``weights`` (N, P) are those of the P rows
    that a sample has in the loss; None stands for ones. ``lengths`` (N,) int32 are those of
    sequences. ``rows`` is P. ``pixels`` says what targets of uint8 were taken for.
    """

    x: Array
    x_scale: float
    y: Array
    y_scale: float
    weights: Array | None = None
    lengths: Array | None = None
    rows: int = 1
    pixels: bool | None = None


# ---- samples -----------------------------------------------------------------------------------


def to_samples(model: Sequential, name: str, x: ArrayLike) -> tuple[Array, float]:
    """Return samples as the first layer takes them, in a matrix, and their factor.

    Builds the model if they are its first.

    Raises
    ------
    TypeError, ValueError
        If they do not fit.
    """
    first = model.layers[0]
    if model.input_shape is None:
        array = to_array(name, x)
        tokens = array.ndim == 1 and isinstance(first, Embedding)
        if not (array.ndim > 1 or tokens) or not array.size:
            raise ValueError(
                f"{name}: got shape {array.shape}, expected (rows, ...), none of them 0, "
                f"for {first.label}"
            )
        model.build(array.shape[1:] or 1)
        x = array
    if isinstance(first, Embedding):
        return first.to_rows(name, x), 1.0
    assert model.input_shape is not None
    rows, scale = to_rows(name, x, model.input_shape, model.dtype)
    return rows_inside(rows, model.input_shape, model.data_format), scale


def sequence_lengths(
    model: Sequential, name: str, lengths: ArrayLike | None, rows: int, end: int | None = None
) -> Array | None:
    """Return lengths for this many samples as (N,) int32; None stands for all steps.

    Raises
    ------
    TypeError, ValueError
        If they do not fit, or no layer takes sequences, or those before layer ``end`` do not have
        the same number of steps.
    """
    if lengths is None:
        return None
    takers = [layer for layer in model.layers if layer.takes_lengths]
    if not takers:
        raise ValueError(f"{name}: got lengths, expected None, because no layer is recurrent")
    steps = [layer.input_shape[0] for layer in takers if end is None or layer.index < end]
    steps = steps or [takers[0].input_shape[0]]
    if len(set(steps)) > 1:
        raise ValueError(
            f"{name}: got lengths, expected None, because the recurrent layers have different "
            f"numbers of steps: {', '.join(map(str, steps))}"
        )
    with takers[0].named():
        return to_lengths(name, lengths, rows, steps[0])


# ---- with targets ------------------------------------------------------------------------------


def to_data(
    model: Sequential,
    x: ArrayLike,
    y: ArrayLike,
    loss: Loss,
    names: tuple[str, str, str] = ("x", "y", "lengths"),
    *,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[int, float] | None = None,
    lengths: ArrayLike | None = None,
    pixels: bool | None = None,
) -> Data:
    """Convert and check samples and targets, once.

    Parameters
    ----------
    model : Sequential
        Built at these samples if it is not yet.
    x, y, loss, sample_weight, class_weight, lengths
        As for ``Sequential.fit``.
    names : tuple of str
        What errors call ``x``, ``y`` and ``lengths``.
    pixels : bool, optional
        Whether targets of uint8 are pixels. If nobody knows, they are where x has as many, unless
        they alone are all 0 or 1: a mask.

    Raises
    ------
    TypeError, ValueError
        If they do not fit the model, the loss or each other.
    """
    x_name, y_name, lengths_name = names
    rows, x_scale = to_samples(model, x_name, x)
    assert model.output_shape is not None
    included(loss, model.layers)  # or an error, while nothing has begun
    y = to_array(y_name, y)
    shown = y.dtype == np.uint8
    if pixels is None:
        pixels = shown and rows.dtype == np.uint8
        pixels = pixels and math.prod(model.output_shape) == rows.shape[1]
        if pixels and y.size and rows.size:
            pixels = bool(y.max() > 1 or rows.max() <= 1)
    seen_as = model.output_shape
    if loss.by_rows:
        y, seen_as = _classes_last(model, y_name, y)
    targets, y_scale = loss.targets(y_name, y, seen_as, model.dtype, pixels)
    if len(targets) != len(rows):
        raise ValueError(
            f"{y_name}: got {len(targets)} rows, expected {len(rows)}, as many as {x_name} has"
        )
    if not loss.by_rows:
        targets = rows_inside(targets, model.output_shape, model.data_format)
    ends = sequence_lengths(model, lengths_name, lengths, len(rows))
    steps = None if ends is None else _output_steps(model)
    yes_or_no = loss.counts_elements and model.output_shape == (1,)
    classes = 2 if yes_or_no else seen_as[-1]
    per_sample = math.prod(targets.shape[1:]) if targets.dtype == np.int32 else steps or 1
    if loss.by_rows:
        per_sample = math.prod(seen_as[:-1])
    weights = loss_weights(
        targets,
        sample_weight,
        class_weight,
        classes,
        model.dtype,
        per_sample,
        lengths=ends if steps else None,
        steps=steps or 1,
    )
    decided = pixels if shown else None
    return Data(rows, x_scale, targets, y_scale, weights, ends, per_sample, decided)


def to_validation(
    model: Sequential, data: tuple[ArrayLike, ...], loss: Loss, training: Data
) -> Data:
    """Convert and check ``validation_data``, whose pixels are what those of the training are."""
    several = isinstance(data, (tuple, list))
    if not several or len(data) not in (2, 3):
        what = type(data).__name__ + (f" of {len(data)}" if several else "")
        raise TypeError(f"validation_data: got {what}, expected (x, y) or (x, y, lengths)")
    return to_data(
        model,
        data[0],
        data[1],
        loss,
        ("validation_data[0]", "validation_data[1]", "validation_data[2], the lengths"),
        lengths=data[2] if len(data) == 3 else None,
        pixels=training.pixels,
    )


def _classes_last(model: Sequential, name: str, y: ArrayLike) -> tuple[ArrayLike, tuple[int, ...]]:
    """Return targets of pixels with the classes last, and the output's shape like that."""
    assert model.output_shape is not None
    shape = inside(model.output_shape, model.data_format)
    if model.data_format == "channels_last" or len(shape) != 3:
        return y, shape
    array = to_array(name, y)
    if array.shape[1:] == model.output_shape:
        return np.moveaxis(array, 1, -1), shape
    if array.shape[1:] != shape[:-1]:
        raise ValueError(
            f"{name}: got shape {array.shape}, expected (rows, {shape[0]}, {shape[1]}) or "
            f"(rows, {', '.join(map(str, model.output_shape))})"
        )
    return array, shape


def _output_steps(model: Sequential) -> int | None:
    """Return how many steps the output has; None if its rows are no steps of a sequence."""
    last = max(layer.index for layer in model.layers if layer.takes_lengths)
    steps = model.layers[last].input_shape[0]
    kept = all(
        len(layer.output_shape) > 1 and layer.output_shape[0] == steps
        for layer in model.layers[last:]
    )
    return steps if kept else None


# ---- rows at a time ----------------------------------------------------------------------------


def chunk_rows(model: Sequential) -> int:
    """Return how many samples to compute at once: as many as leave their activations in cache."""
    floats = max(
        math.prod(layer.input_shape) + math.prod(layer.output_shape) for layer in model.layers
    )
    return max(16, min(_MAX_CHUNK, _CHUNK_BYTES // (4 * floats)))


def first_stateful(model: Sequential) -> Layer | None:
    """Return the first layer that carries its state from batch to batch."""
    return next((layer for layer in model.layers if layer.stateful), None)


def rows_at_once(
    model: Sequential, name: str, rows: int, batch_size: int | None, train: bool = False
) -> int:
    """Return how many of these rows a step takes; a state goes on in whole batches only.

    Raises
    ------
    ValueError
        If a layer cannot take such batches.
    """
    stateful = first_stateful(model)
    if stateful is None and not train:
        return chunk_rows(model)
    n = min(batch_size or rows, rows)
    if train and n == 1:
        _check_variance(model, name)
    if stateful is not None and rows % n:
        raise ValueError(
            f"{name}: got {rows} rows, expected a multiple of batch_size {n}, because "
            f"{stateful.label} is stateful"
        )
    return n


def _check_variance(model: Sequential, name: str) -> None:
    """Refuse batches of one row where they have no variance."""
    for layer in model.layers:
        if isinstance(layer, BatchNorm) and math.prod(layer.input_shape[:-1]) == 1:
            raise ValueError(
                f"{name}: got batches of one row, expected more, because they have no variance "
                f"for {layer.label}"
            )
