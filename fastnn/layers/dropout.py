"""Owns dropout, which is active in training only.

Leaves its random numbers to the kernel: they depend on seed, layer and step, not on history.
"""

from math import prod
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import DTypeLike

from fastnn.checks import Array, check_real
from fastnn.layers.base import Layer

__all__ = ["Dropout"]


class Dropout(Layer):
    """Zero a random share of the inputs in each training step, and scale up the others.

    Outside training it does nothing (Srivastava et al. 2014, inverted). The mask follows from the
    model's seed, the layer's index and the step.

    Parameters
    ----------
    rate : float
        Share that is dropped, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        If ``rate`` is no number, or not in [0, 1).

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Dropout(0.5)], seed=0).predict([[1.0, 2.0]])  # as it is, to predict
    array([[1., 2.]], dtype=float32)
    """

    records = True
    train_only = True
    inplace = True
    reads_output = False

    def __init__(self, rate: float) -> None:
        self.rate = check_real("rate", rate, 0, 1, open_high=True)

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        return {"mask": ((n * prod(self.input_shape),), np.uint8)}

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.dropout_forward(
            x.reshape(-1),
            self.rate,
            saved.seed,
            self.index,
            saved.clock,
            saved.mask,
            out.reshape(-1),
        )

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        if dx is not None:
            k.dropout_backward(dout.reshape(-1), self.rate, saved.mask, dx.reshape(-1))
