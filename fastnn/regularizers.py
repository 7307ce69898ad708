"""Owns the penalties on weights: which sums of their sizes are added to a loss.

Leaves the sums and their gradients to the kernels, and the choice of weights to layers and losses.
"""

from fastnn.checks import check_real
from fastnn.component import Component

__all__ = ["L1", "L1L2", "L2", "REGULARIZERS", "Regularizer"]


class Regularizer(Component):
    """A penalty ``l1 * sum(abs(w)) + l2 * sum(w**2)`` on a weight: sums, not means.

    It is added to the loss of each batch, and its gradient, ``l1 * sign(w) + 2 * l2 * w``, to that
    of the weight. With plain SGD, L2 is a weight decay of ``2 * alpha * lr`` a step.

    Examples
    --------
    >>> import fastnn as fnn
    >>> isinstance(fnn.L1L2(l1=0.1, l2=0.2), fnn.Regularizer)
    True
    """

    l1 = 0.0
    l2 = 0.0


class L1(Regularizer):
    """Penalty ``alpha * sum(abs(w))``, which makes small weights 0.

    Parameters
    ----------
    alpha : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If ``alpha`` is no finite number, or is negative.

    Examples
    --------
    >>> import fastnn as fnn
    >>> ones = fnn.Constant(1.0)
    >>> layer = fnn.Dense(2, kernel_initializer=ones, kernel_regularizer=fnn.L1(0.5))
    >>> model = fnn.Sequential([layer], input_shape=3)
    >>> model.evaluate([[0.0, 0.0, 0.0]], [[0.0, 0.0]], "mse")  # 0.5 * 6 weights
    {'loss': 3.0}
    """

    def __init__(self, alpha: float = 0.01) -> None:
        self.l1 = self.alpha = check_real("alpha", alpha, 0)


class L2(Regularizer):
    """Penalty ``alpha * sum(w**2)``, which keeps weights small.

    Parameters
    ----------
    alpha : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If ``alpha`` is no finite number, or is negative.

    Examples
    --------
    >>> import fastnn as fnn
    >>> ones = fnn.Constant(1.0)
    >>> layer = fnn.Dense(2, kernel_initializer=ones, kernel_regularizer=fnn.L2(0.5))
    >>> model = fnn.Sequential([layer], input_shape=3)
    >>> model.evaluate([[0.0, 0.0, 0.0]], [[0.0, 0.0]], "mse")  # 0.5 * 6 weights
    {'loss': 3.0}
    """

    def __init__(self, alpha: float = 0.01) -> None:
        self.l2 = self.alpha = check_real("alpha", alpha, 0)


class L1L2(Regularizer):
    """The sum of both, ``l1 * sum(abs(w)) + l2 * sum(w**2)`` (the elastic net).

    Parameters
    ----------
    l1, l2 : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If one is no finite number, or is negative.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.CrossEntropy(penalty=fnn.L1L2(0.001, 0.01))
    CrossEntropy(penalty=L1L2(l1=0.001))
    """

    def __init__(self, l1: float = 0.01, l2: float = 0.01) -> None:
        self.l1 = check_real("l1", l1, 0)
        self.l2 = check_real("l2", l2, 0)


REGULARIZERS: dict[str, type[Regularizer]] = {"l1": L1, "l2": L2, "l1_l2": L1L2}
