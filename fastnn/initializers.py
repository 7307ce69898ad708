"""Owns the first values of weights.

Leaves the random generator to the model, which draws for its layers in order, from one seed.
"""

from __future__ import annotations

import math

import numpy as np

from fastnn.checks import Array, check_real
from fastnn.component import Component

__all__ = [
    "INITIALIZERS",
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "Zeros",
    "fans",
]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many inputs an output depends on, and the reverse.

    The last two axes are inputs and outputs; those before them are a kernel's window.

    Examples
    --------
    >>> fans((784, 128)), fans((3, 3, 16, 32)), fans((10,))
    ((784, 128), (144, 288), (10, 10))
    """
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


class Initializer(Component):
    """Makes a weight's first values: ``initializer(shape, rng)`` returns a float array.

    Examples
    --------
    >>> import fastnn as fnn
    >>> class Small(fnn.Initializer):
    ...     def __call__(self, shape, rng):
    ...         return rng.normal(0, 1e-3, shape)
    >>> layer = fnn.Dense(2, kernel_initializer=Small())
    >>> bool(fnn.Sequential([layer], input_shape=3, seed=0).layers[0].w.std() < 0.01)
    True
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return values for a weight of this shape, drawn from ``rng``."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(shape, rng)")


class Constant(Initializer):
    """All values equal.

    Parameters
    ----------
    value : float

    Raises
    ------
    TypeError, ValueError
        If ``value`` is no number, or NaN or infinite.

    Examples
    --------
    >>> Constant(1.0)((2,), np.random.default_rng(0))
    array([1., 1.])
    """

    def __init__(self, value: float) -> None:
        self.value = check_real("value", value)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.full(shape, self.value)


class Zeros(Initializer):
    """All values 0.

    Examples
    --------
    >>> Zeros()((2,), np.random.default_rng(0))
    array([0., 0.])
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.zeros(shape)


class Ones(Initializer):
    """All values 1.

    Examples
    --------
    >>> Ones()((2,), np.random.default_rng(0))
    array([1., 1.])
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.ones(shape)


class RandomUniform(Initializer):
    """Uniform in [low, high).

    Parameters
    ----------
    low, high : float

    Raises
    ------
    TypeError, ValueError
        If one is no finite number, or ``high`` is less than ``low``.

    Examples
    --------
    >>> w = RandomUniform(-1, 1)((100,), np.random.default_rng(0))
    >>> bool((abs(w) <= 1).all())
    True
    """

    def __init__(self, low: float = -0.05, high: float = 0.05) -> None:
        self.low = check_real("low", low)
        self.high = check_real("high", high, self.low)
        check_real("high - low", self.high - self.low)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.uniform(self.low, self.high, shape)


class RandomNormal(Initializer):
    """Gaussian with this mean and standard deviation.

    Parameters
    ----------
    mean, std : float
        The latter at least 0.

    Raises
    ------
    TypeError, ValueError
        If one is no finite number, or ``std`` is negative.

    Examples
    --------
    >>> w = RandomNormal(std=0.1)((100, 100), np.random.default_rng(0))
    >>> f"{w.mean():.2f}, {w.std():.2f}"
    '0.00, 0.10'
    """

    def __init__(self, mean: float = 0.0, std: float = 0.05) -> None:
        self.mean = check_real("mean", mean)
        self.std = check_real("std", std, 0)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.normal(self.mean, self.std, shape)


class GlorotUniform(Initializer):
    """Uniform with variance ``2 / (inputs + outputs)`` (Glorot & Bengio 2010; Xavier).

    Examples
    --------
    >>> w = GlorotUniform()((200, 300), np.random.default_rng(0))
    >>> bool(abs(w.var() / (2 / 500) - 1) < 0.02)
    True
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        limit = math.sqrt(6 / sum(fans(shape)))
        return rng.uniform(-limit, limit, shape)


class GlorotNormal(Initializer):
    """Gaussian with variance ``2 / (inputs + outputs)`` (Glorot & Bengio 2010; Xavier).

    Examples
    --------
    >>> w = GlorotNormal()((200, 300), np.random.default_rng(0))
    >>> bool(abs(w.var() / (2 / 500) - 1) < 0.02)
    True
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.normal(0, math.sqrt(2 / sum(fans(shape))), shape)


class HeUniform(Initializer):
    """Uniform with variance ``2 / inputs`` (He et al. 2015), made for ReLU.

    Examples
    --------
    >>> w = HeUniform()((200, 300), np.random.default_rng(0))
    >>> bool(abs(w.var() / (2 / 200) - 1) < 0.02)
    True
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        limit = math.sqrt(6 / fans(shape)[0])
        return rng.uniform(-limit, limit, shape)


class HeNormal(Initializer):
    """Gaussian with variance ``2 / inputs`` (He et al. 2015), made for ReLU.

    Examples
    --------
    >>> w = HeNormal()((200, 300), np.random.default_rng(0))
    >>> bool(abs(w.var() / (2 / 200) - 1) < 0.02)
    True
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.normal(0, math.sqrt(2 / fans(shape)[0]), shape)


class Orthogonal(Initializer):
    """Square blocks of orthonormal columns (Saxe et al. 2014), so that a product keeps lengths.

    The last axis is cut in blocks as wide as there are rows: one per gate of a recurrent layer.

    Examples
    --------
    >>> w = Orthogonal()((3, 6), np.random.default_rng(0))
    >>> [bool(np.allclose(block.T @ block, np.eye(3))) for block in (w[:, :3], w[:, 3:])]
    [True, True]
    """

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        blocks = []
        for start in range(0, columns, rows):
            wide = min(rows, columns - start)
            q, r = np.linalg.qr(rng.normal(size=(rows, wide)))
            blocks.append(q * np.sign(np.diag(r)))  # else not uniform over all rotations
        return np.concatenate(blocks, axis=1).reshape(shape)


INITIALIZERS: dict[str, type[Initializer]] = {
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "xavier_uniform": GlorotUniform,
    "xavier_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "random": RandomUniform,
    "random_uniform": RandomUniform,
    "uniform": RandomUniform,
    "random_normal": RandomNormal,
    "gaussian": RandomNormal,
    "normal": RandomNormal,
    "ones": Ones,
    "orthogonal": Orthogonal,
    "zeros": Zeros,
}
