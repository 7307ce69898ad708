"""Owns the embedding layer, which turns tokens into vectors.

Leaves how text becomes tokens to the user, and checks of the data to ``checks``.
"""

from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastnn.checks import Array, check_integer, to_tokens
from fastnn.component import choose
from fastnn.initializers import INITIALIZERS, Initializer, RandomNormal
from fastnn.layers.base import Layer

__all__ = ["Embedding"]

_STANDARD = RandomNormal(0.0, 1.0)


class Embedding(Layer):
    """A vector of its own for each token: row ``w[token]`` of a table.

    Takes (T,), integers in [0, tokens), and gives (T, units). It is the first layer of a model,
    whose samples are then integers: (N, T), or (N,) where T is 1. In a step only the rows of the
    tokens in the batch get a gradient, so penalties do not apply; ``AdamW`` decays all rows.

    Parameters
    ----------
    tokens : int
        V, how many there are.
    units : int
        Size of the vectors.
    kernel_initializer : str or Initializer
        Of ``w``; by default standard normal, as in PyTorch.

    Attributes
    ----------
    w : (V, units) float32

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or a sample not (T,).

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Embedding(100, 8), fnn.LSTM(16), fnn.Dense(2)], input_shape=5)
    >>> model.predict(np.array([[3, 1, 4, 1, 5]])).shape
    (1, 2)
    """

    records = True
    reads_output = False
    input_dtype = np.int32
    w: Array
    dw: Array

    def __init__(
        self, tokens: int, units: int, *, kernel_initializer: str | Initializer = _STANDARD
    ) -> None:
        self.tokens = check_integer("tokens", tokens, 1, 2**31 - 1)
        self.units = check_integer("units", units, 1)
        self.kernel_initializer = choose(
            "kernel_initializer", kernel_initializer, Initializer, INITIALIZERS
        )

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.index:
            raise ValueError("expected as the first layer, which takes the data")
        if len(input_shape) != 1:
            raise ValueError(f"input shape is {input_shape}, expected (steps,)")
        self.add_weight("w", (self.tokens, self.units), self.kernel_initializer)
        return (*input_shape, self.units)

    def to_rows(self, name: str, value: ArrayLike) -> Array:
        """Return samples as int32 (N, T).

        Raises
        ------
        TypeError, ValueError
            If they are no such thing.
        """
        with self.named():
            return to_tokens(name, value, self.input_shape[0], self.tokens)

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        # of each row of dw, whether this epoch has left it 0
        return {"clean": ((self.tokens,), np.uint8)}

    def start_epoch(self, saved: SimpleNamespace) -> None:
        # what ran since the last one may have written into dw
        if hasattr(saved, "clean"):
            saved.clean.fill(0)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.embedding_forward(x.reshape(-1), self.w, out.reshape(-1, self.units))

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        k.embedding_backward(
            dout.reshape(-1, self.units), x.reshape(-1), getattr(saved, "clean", None), self.dw
        )
