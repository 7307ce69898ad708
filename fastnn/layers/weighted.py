"""Owns what layers with a kernel ``w`` and a bias ``b`` share: their options and declarations.

Leaves shapes, and what is computed, to the layers themselves.
"""

from fastnn.checks import Array, check_flag
from fastnn.component import choose
from fastnn.initializers import INITIALIZERS, Initializer
from fastnn.layers.activations import ACTIVATIONS
from fastnn.layers.base import Layer
from fastnn.regularizers import REGULARIZERS, Regularizer

__all__ = ["Weighted"]


class Weighted(Layer):
    """A layer with a kernel and, if wanted, a bias.

    Parameters
    ----------
    activation : str or Layer, optional
        Sugar for the same layer after this one.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer : str or Regularizer, optional
    """

    kernels: tuple[str, ...] = ("w",)
    w: Array
    dw: Array
    b: Array | None = None
    db: Array | None = None

    def __init__(
        self,
        activation: str | Layer | None,
        use_bias: bool,
        kernel_initializer: str | Initializer,
        bias_initializer: str | Initializer,
        kernel_regularizer: str | Regularizer | None,
    ) -> None:
        if activation is not None:
            self.activation = choose("activation", activation, Layer, ACTIVATIONS)
        self.use_bias = check_flag("use_bias", use_bias)
        self.kernel_initializer = choose(
            "kernel_initializer", kernel_initializer, Initializer, INITIALIZERS
        )
        self.bias_initializer = choose(
            "bias_initializer", bias_initializer, Initializer, INITIALIZERS
        )
        if kernel_regularizer is not None:
            self.kernel_regularizer = choose(
                "kernel_regularizer", kernel_regularizer, Regularizer, REGULARIZERS
            )

    def add_kernel(self, shape: tuple[int, ...], outputs: int) -> None:
        """Declare ``w`` of this shape, and ``b`` with one value per output."""
        self.add_weight("w", shape, self.kernel_initializer)
        if self.use_bias:
            self.add_weight("b", (outputs,), self.bias_initializer)
