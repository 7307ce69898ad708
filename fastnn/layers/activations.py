"""Owns the activation layers; each is one kernel forward and one backward.

Leaves ``Linear``, which computes nothing, to ``shape``.
"""

from types import ModuleType, SimpleNamespace

from fastnn.checks import Array, check_real
from fastnn.layers.base import Layer
from fastnn.layers.shape import Linear

__all__ = ["ACTIVATIONS", "GELU", "LeakyGELU", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Layer):
    """Rectifier ``max(x, 0)``."""

    records = True
    inplace = True

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.relu_forward(x.reshape(-1), out.reshape(-1))

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
            k.relu_backward(dout.reshape(-1), out.reshape(-1), dx.reshape(-1))


class LeakyReLU(Layer):
    """Leaky rectifier: ``x`` where it is positive, else ``slope * x``.

    Parameters
    ----------
    slope : float
        At least 0.
    """

    records = True
    inplace = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = check_real("slope", slope, 0)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.leaky_relu_forward(x.reshape(-1), self.slope, out.reshape(-1))

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
            k.leaky_relu_backward(dout.reshape(-1), out.reshape(-1), self.slope, dx.reshape(-1))


class Sigmoid(Layer):
    """Logistic function ``1 / (1 + exp(-x))``."""

    records = True
    inplace = True

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.sigmoid_forward(x.reshape(-1), out.reshape(-1))

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
            k.sigmoid_backward(dout.reshape(-1), out.reshape(-1), dx.reshape(-1))


class Tanh(Layer):
    """Hyperbolic tangent."""

    records = True
    inplace = True

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.tanh_forward(x.reshape(-1), out.reshape(-1))

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
            k.tanh_backward(dout.reshape(-1), out.reshape(-1), dx.reshape(-1))


class GELU(Layer):
    """Gaussian error linear unit: ``x`` times the normal distribution function of ``x``.

    Parameters
    ----------
    approximate : bool
        Use the tanh form of Hendrycks & Gimpel.
    """

    records = True
    elementwise = True
    reads_output = False
    slope = 0.0

    def __init__(self, approximate: bool = False) -> None:
        if not isinstance(approximate, bool):
            raise TypeError(f"approximate: got {approximate!r}, expected True or False")
        self.approximate = approximate

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.gelu_forward(x.reshape(-1), self.approximate, self.slope, out.reshape(-1))

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
            k.gelu_backward(
                dout.reshape(-1), x.reshape(-1), self.approximate, self.slope, dx.reshape(-1)
            )


class LeakyGELU(GELU):
    """Leaky form of GELU: ``x * (slope + (1 - slope) * P(x))``, ``P`` the normal distribution.

    As GELU is the mean of ``x * m`` where ``m`` is 1 with probability ``P(x)`` and else 0
    (Hendrycks & Gimpel 2016), this is that of an ``m`` which is else ``slope``. So it is
    ``slope * x + (1 - slope) * GELU(x)``, just as LeakyReLU is made of ReLU.

    Parameters
    ----------
    slope : float
        At least 0.
    """

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = check_real("slope", slope, 0)


class Softmax(Layer):
    """Softmax over the last axis.

    As a model's last layer it is not computed under ``CrossEntropy``, which includes it.
    """

    records = True

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        classes = x.shape[-1]
        k.softmax_forward(x.reshape(-1, classes), out.reshape(-1, classes))

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
            c = x.shape[-1]
            k.softmax_backward(dout.reshape(-1, c), out.reshape(-1, c), dx.reshape(-1, c))


ACTIVATIONS: dict[str, type[Layer]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "gelu": GELU,
    "leaky_gelu": LeakyGELU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "softmax": Softmax,
    "linear": Linear,
}
