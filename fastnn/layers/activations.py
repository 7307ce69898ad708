"""Owns the activation layers; each is one kernel forward and one backward.

Leaves ``Linear``, which computes nothing, to ``shape``.
"""

from types import ModuleType, SimpleNamespace

from fastnn.checks import Array, check_real
from fastnn.layers.base import Layer
from fastnn.layers.shape import Linear

__all__ = ["ACTIVATIONS", "GELU", "LeakyGELU", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Layer):
    """Rectifier ``max(x, 0)``, of any shape.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.ReLU()]).predict([[-2.0, 0.0, 3.0]])
    array([[0., 0., 3.]], dtype=float32)
    """

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
    """Logistic function ``1 / (1 + exp(-x))``, of any shape.

    As a model's last layer it is not computed under ``BinaryCrossEntropy``, which includes it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Sigmoid()]).predict([[-2.0, 0.0, 2.0]]).round(3)
    array([[0.119, 0.5  , 0.881]], dtype=float32)
    """

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
    """Hyperbolic tangent, of any shape.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Tanh()]).predict([[-2.0, 0.0, 2.0]]).round(3)
    array([[-0.964,  0.   ,  0.964]], dtype=float32)
    """

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


class Softmax(Layer):
    """Softmax over the last axis: ``exp(x) / sum(exp(x))``, positive numbers that sum to 1.

    As a model's last layer it is not computed under ``CrossEntropy``, which includes it.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Softmax()]).predict([[1.0, 2.0, 3.0]]).round(3)
    array([[0.09 , 0.245, 0.665]], dtype=float32)
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
