"""Owns batch normalisation of features and of images' channels, with its running statistics.

Leaves when these are updated to the trainer: after a step's new weights, as a whole.
"""

from math import prod
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import DTypeLike

from fastnn.checks import Array, check_real
from fastnn.component import choose
from fastnn.initializers import INITIALIZERS, Initializer
from fastnn.layers.base import Layer
from fastnn.reference.batchnorm import CHUNK_ROWS

__all__ = ["BatchNorm"]


class BatchNorm(Layer):
    """Each channel (the last axis) with mean 0 and variance 1 in a batch, then scaled and moved.

    ``out = (x - mean) / sqrt(var + eps) * gamma + beta`` (Ioffe & Szegedy 2015). In training, mean
    and variance are those of the batch, over samples and pixels. Otherwise they are running means
    of these: after each step ``mean += momentum * (batch's - mean)``, ``var`` likewise with the
    batch's unbiased variance. All this, with the defaults, is as in PyTorch, but that a last batch
    of a single row is allowed: it leaves the running means as they are.

    Parameters
    ----------
    momentum : float
        In [0, 1].
    eps : float
        Positive.
    gamma_initializer, beta_initializer : str or Initializer

    Attributes
    ----------
    gamma, beta : (C,) float32
        Weights.
    mean, var : (C,) float32
        Running statistics: buffers, which are saved but not trained.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> layers = [fnn.Dense(8, use_bias=False), fnn.BatchNorm(), fnn.ReLU(), fnn.Dense(2)]
    >>> model = fnn.Sequential(layers, input_shape=4, seed=0)
    >>> sorted(key for key in model.state_dict() if key.startswith("1."))
    ['1.beta', '1.gamma', '1.mean', '1.var']
    """

    records = True
    reads_output = False
    gamma: Array
    dgamma: Array
    beta: Array
    dbeta: Array
    mean: Array
    var: Array

    def __init__(
        self,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        gamma_initializer: str | Initializer = "ones",
        beta_initializer: str | Initializer = "zeros",
    ) -> None:
        self.momentum = check_real("momentum", momentum, 0, 1)
        self.eps = check_real("eps", eps, 0, open_low=True)
        self.gamma_initializer = choose(
            "gamma_initializer", gamma_initializer, Initializer, INITIALIZERS
        )
        self.beta_initializer = choose(
            "beta_initializer", beta_initializer, Initializer, INITIALIZERS
        )

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels = input_shape[-1:]
        self.add_weight("gamma", channels, self.gamma_initializer)
        self.add_weight("beta", channels, self.beta_initializer)
        self.add_buffer("mean", channels, 0.0)
        self.add_buffer("var", channels, 1.0)
        return input_shape

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        *rows, channels = n, *self.input_shape
        return {
            "mean": ((channels,), dtype),
            "var": ((channels,), dtype),
            "scratch": ((-(-prod(rows) // CHUNK_ROWS), 2, channels), np.float64),
        }

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        x, out = (array.reshape(-1, array.shape[-1]) for array in (x, out))
        if saved.training:
            arrays = saved.scratch, saved.mean, saved.var, out
            k.batchnorm_forward(x, self.gamma, self.beta, self.eps, *arrays)
        else:
            statistics = self.mean, self.var
            k.batchnorm_inference(x, self.gamma, self.beta, *statistics, self.eps, out)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        channels = x.shape[-1]
        k.batchnorm_backward(
            dout.reshape(-1, channels),
            x.reshape(-1, channels),
            self.gamma,
            self.eps,
            saved.mean,
            saved.var,
            saved.scratch,
            None if dx is None else dx.reshape(-1, channels),
            self.dgamma,
            self.dbeta,
        )

    def update(self, k: ModuleType, x: Array, saved: SimpleNamespace) -> None:
        rows = x.size // x.shape[-1]
        # the last batch may have a single row, and so no variance
        momentum = self.momentum if rows > 1 else 0.0
        k.batchnorm_update(saved.mean, saved.var, rows, momentum, self.mean, self.var)
