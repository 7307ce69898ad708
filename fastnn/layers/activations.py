"""Owns the activation layers; each is one kernel forward and one backward.

Leaves ``Linear``, which computes nothing, to ``shape``.
"""

from types import ModuleType, SimpleNamespace
from typing import ClassVar

from fastnn.checks import Array, check_flag, check_real
from fastnn.layers.base import Layer
from fastnn.layers.shape import Linear

__all__ = ["ACTIVATIONS", "GELU", "LeakyGELU", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class Activation(Layer):
    """A function of the elements, or of rows; a subclass names its kernels."""

    records = True
    forward_kernel: ClassVar[str]
    backward_kernel: ClassVar[str]
    rows = False
    """Whether the kernels take the last axis apart from the others."""
    by_output = True
    """Whether the backward kernel takes the output, else the input."""

    def options(self) -> tuple[float, ...]:
        """Return the plain numbers that both kernels take."""
        return ()

    def _flat(self, x: Array) -> Array:
        return x.reshape(-1, x.shape[-1]) if self.rows else x.reshape(-1)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        getattr(k, self.forward_kernel)(self._flat(x), *self.options(), self._flat(out))

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
            read = self._flat(out if self.by_output else x)
            kernel = getattr(k, self.backward_kernel)
            kernel(self._flat(dout), read, *self.options(), self._flat(dx))


class ReLU(Activation):
    """Rectifier ``max(x, 0)``, of any shape.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.ReLU()]).predict([[-2.0, 0.0, 3.0]])
    array([[0., 0., 3.]], dtype=float32)
    """

    forward_kernel, backward_kernel = "relu_forward", "relu_backward"
    inplace = True


class LeakyReLU(Activation):
    """Leaky rectifier: ``x`` where it is positive, else ``slope * x`` (Maas et al. 2013).

    Parameters
    ----------
    slope : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If ``slope`` is no number, or is negative, NaN or infinite.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.LeakyReLU(0.5)]).predict([[-2.0, 0.0, 3.0]])
    array([[-1.,  0.,  3.]], dtype=float32)
    """

    forward_kernel, backward_kernel = "leaky_relu_forward", "leaky_relu_backward"
    inplace = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = check_real("slope", slope, 0)

    def options(self) -> tuple[float, ...]:
        return (self.slope,)


class Sigmoid(Activation):
    """Logistic function ``1 / (1 + exp(-x))``, of any shape.

    As a model's last layer it is not computed under ``BinaryCrossEntropy``, which includes it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Sigmoid()]).predict([[-2.0, 0.0, 2.0]]).round(3)
    array([[0.119, 0.5  , 0.881]], dtype=float32)
    """

    forward_kernel, backward_kernel = "sigmoid_forward", "sigmoid_backward"
    inplace = True


class Tanh(Activation):
    """Hyperbolic tangent, of any shape.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Tanh()]).predict([[-2.0, 0.0, 2.0]]).round(3)
    array([[-0.964,  0.   ,  0.964]], dtype=float32)
    """

    forward_kernel, backward_kernel = "tanh_forward", "tanh_backward"
    inplace = True


class GELU(Activation):
    """Gaussian error linear unit: ``x`` times the normal distribution function of ``x``.

    Parameters
    ----------
    approximate : bool
        Use the tanh form of Hendrycks & Gimpel (2016).

    Raises
    ------
    TypeError
        If ``approximate`` is neither True nor False.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.GELU()]).predict([[-2.0, 0.0, 2.0]]).round(3)
    array([[-0.046,  0.   ,  1.954]], dtype=float32)
    """

    forward_kernel, backward_kernel = "gelu_forward", "gelu_backward"
    elementwise = True
    by_output = reads_output = False
    slope = 0.0

    def __init__(self, approximate: bool = False) -> None:
        self.approximate = check_flag("approximate", approximate)

    def options(self) -> tuple[float, ...]:
        return (self.approximate, self.slope)


class LeakyGELU(GELU):
    """Leaky form of GELU: ``x * (slope + (1 - slope) * P(x))``, ``P`` the normal distribution.

    As GELU is the mean of ``x * m`` where ``m`` is 1 with probability ``P(x)`` and else 0
    (Hendrycks & Gimpel 2016), this is that of an ``m`` which is else ``slope``. So it is
    ``slope * x + (1 - slope) * GELU(x)``, just as LeakyReLU is made of ReLU.

    Parameters
    ----------
    slope : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If ``slope`` is no number, or is negative, NaN or infinite.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.LeakyGELU(0.1)]).predict([[-2.0, 0.0, 2.0]]).round(3)
    array([[-0.241,  0.   ,  1.959]], dtype=float32)
    """

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = check_real("slope", slope, 0)


class Softmax(Activation):
    """Softmax over the last axis: ``exp(x) / sum(exp(x))``, positive numbers that sum to 1.

    As a model's last layer it is not computed under ``CrossEntropy``, which includes it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Softmax()]).predict([[1.0, 2.0, 3.0]]).round(3)
    array([[0.09 , 0.245, 0.665]], dtype=float32)
    """

    forward_kernel, backward_kernel = "softmax_forward", "softmax_backward"
    rows = True


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
