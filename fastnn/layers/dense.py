"""Owns the fully connected layer.

Leaves its activation to a layer of its own, which the model appends.
"""

from types import ModuleType, SimpleNamespace

from fastnn.checks import Array, check_integer
from fastnn.initializers import Initializer
from fastnn.layers.base import Layer
from fastnn.layers.weighted import Weighted
from fastnn.regularizers import Regularizer

__all__ = ["Dense"]


class Dense(Weighted):
    """Affine map ``x @ w + b`` of the last axis, such as of each step of a sequence.

    Parameters
    ----------
    units : int
        Size of the output.
    activation : str or Layer, optional
        Sugar for the same layer after this one; it has its own index in the model.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer : str or Regularizer, optional
        Penalty on ``w``.

    Attributes
    ----------
    w : (I, O) float32
    b : (O,) float32
        Absent without ``use_bias``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the input has more than two axes.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Dense(64, activation="relu")], input_shape=(784,))
    >>> model.layers
    (Dense(64), ReLU())
    >>> model.layers[0].w.shape
    (784, 64)
    """

    records = True
    reads_output = False

    def __init__(
        self,
        units: int,
        activation: str | Layer | None = None,
        *,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
    ) -> None:
        super().__init__(
            activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer
        )
        self.units = check_integer("units", units, 1)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(input_shape) > 2:
            raise ValueError(
                f"input shape is {input_shape}, expected (features,) or (steps, features); put "
                "Flatten() before it"
            )
        self.add_kernel((input_shape[-1], self.units), self.units)
        return (*input_shape[:-1], self.units)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.dense_forward(rows(x), self.w, self.b, rows(out))

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        dx = None if dx is None else rows(dx)
        k.dense_backward(rows(dout), rows(x), self.w, dx, self.dw, self.db)


def rows(x: Array) -> Array:
    """Return samples, or steps of them, as rows of a matrix."""
    return x.reshape(-1, x.shape[-1])
