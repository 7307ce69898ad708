"""Owns the scaling of data to mean 0 and standard deviation 1.

Leaves the scaling of pixels to [0, 1] to the training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn.checks import PIXEL_SCALE, Array, check_integer, to_array

__all__ = ["Standardize"]

_BLOCK = 1 << 16  # values
_ROUNDING = 10 * np.finfo(np.float64).eps  # deviation, as a share of the mean, of equal values


class Standardize:
    """Shift and scale data to mean 0 and standard deviation 1, as learned from a training set.

    uint8 data are images, so they count as scaled by 1/255, as everywhere in fastnn. Statistics
    are taken in float64. A feature that varies by no more than rounding is shifted but not scaled.

    Parameters
    ----------
    axis : int, tuple or list of int, or None
        The axes over which one mean and one deviation are taken. 0, the rows: each feature has
        its own. None: one for everything. (0, 1, 2): one per channel of images (N, H, W, C).

    Attributes
    ----------
    mean, std : ndarray, float64, or None before `fit`
        Without the row axis: shape ``x.shape[1:]``, with 1 for each further axis in `axis`;
        shape () for ``axis=None``.

    Raises
    ------
    TypeError, ValueError
        If `axis` is not None, 0 or a tuple or list of distinct axes that includes 0.

    Examples
    --------
    >>> import numpy as np
    >>> scale = Standardize()
    >>> scale.fit_transform(np.array([[0.0, 5.0], [2.0, 5.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    >>> scale.transform([[1.0, 6.0]])
    array([[0., 1.]], dtype=float32)
    """

    def __init__(self, axis: int | tuple[int, ...] | list[int] | None = 0) -> None:
        if axis is not None:
            axis = tuple(axis) if isinstance(axis, list) else axis
            axes = tuple(check_integer("axis", a, 0) for a in _axes(axis))
            if 0 not in axes or len(set(axes)) != len(axes):
                raise ValueError(f"axis: got {axis}, expected distinct axes with 0, the rows")
        self.axis = axis
        self.mean: NDArray[np.float64] | None = None
        self.std: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        return f"Standardize(axis={self.axis!r})"

    def fit(self, x: ArrayLike) -> Standardize:
        """Learn mean and standard deviation.

        Parameters
        ----------
        x : array_like, shape (N, ...)
            Finite numbers, N at least 1.

        Returns
        -------
        Standardize
            Itself.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If `x` is empty, lacks an axis of `axis`, or holds a value that is not finite.

        Examples
        --------
        >>> Standardize(axis=None).fit([[1.0, 3.0]]).mean
        array(2.)
        """
        x = _numbers(x)
        axes = tuple(range(x.ndim)) if self.axis is None else _axes(self.axis)
        if max(axes) >= x.ndim:
            raise ValueError(f"x: got shape {x.shape}, expected it to have axis {max(axes)}")
        count = math.prod(x.shape[a] for a in axes)
        if count == 0:
            raise ValueError(f"x: got shape {x.shape}, expected at least one value to average")

        # Deviations from the first row: exactly zero where nothing varies, and no cancellation.
        first = tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))
        origin = _scaled(x[first])
        total = np.zeros_like(origin)
        square = np.zeros_like(origin)
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in _row_blocks(x):
                total += (_scaled(x[rows]) - origin).sum(axis=axes, keepdims=True)
            centre = total / count
            for rows in _row_blocks(x):
                deviation = _scaled(x[rows]) - origin - centre
                square += np.square(deviation).sum(axis=axes, keepdims=True)
            mean, std = origin + centre, np.sqrt(square / count)
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError(_not_finite(x))
        std[std <= _ROUNDING * np.abs(mean)] = 1
        shape = () if self.axis is None else mean.shape[1:]
        self.mean, self.std = mean.reshape(shape), std.reshape(shape)
        return self

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``(x - mean) / std``.

        Parameters
        ----------
        x : array_like, shape (M, ...)
            Finite numbers; rows shaped as those of `fit` (any shape for ``axis=None``).

        Returns
        -------
        ndarray
            float32, the shape of `x`; a new array.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            Before `fit`, for rows of another shape, or for a value that is not finite.

        Examples
        --------
        >>> Standardize(axis=None).fit([1.0, 3.0]).transform([4.0])
        array([2.], dtype=float32)
        """
        mean, std = self._fitted("transform")
        return _by_blocks(self._checked(x), lambda block: (block - mean) / std)

    def fit_transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``fit(x).transform(x)``.

        Parameters
        ----------
        x : array_like, shape (N, ...)
            As for `fit`.

        Returns
        -------
        ndarray
            As from `transform`.

        Raises
        ------
        TypeError, ValueError
            As `fit`.

        Examples
        --------
        >>> Standardize().fit_transform([1.0, 3.0])
        array([-1.,  1.], dtype=float32)
        """
        x = _numbers(x)
        return self.fit(x).transform(x)

    def inverse_transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``x * std + mean``: back to the units of `fit` (0 to 1 for uint8 images).

        Parameters
        ----------
        x : array_like, shape (M, ...)
            Standardized data, not uint8.

        Returns
        -------
        ndarray
            float32, the shape of `x`; a new array.

        Raises
        ------
        TypeError, ValueError
            As `transform`.

        Examples
        --------
        >>> Standardize().fit([1.0, 3.0]).inverse_transform([-1.0, 0.0])
        array([1., 2.], dtype=float32)
        """
        mean, std = self._fitted("inverse_transform")
        x = self._checked(x)
        if x.dtype == np.uint8:
            raise TypeError("x: got uint8, expected standardized data")
        return _by_blocks(x, lambda block: block * std + mean)

    def _fitted(self, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.mean is None or self.std is None:
            raise ValueError(f"Standardize.{method}: nothing learned yet; call fit first")
        return self.mean, self.std

    def _checked(self, x: ArrayLike) -> Array:
        x = _numbers(x)
        if self.axis is not None:
            assert self.mean is not None
            fixed = self.mean.shape
            axes = _axes(self.axis)
            free = [a in axes for a in range(1, x.ndim)]
            same = x.ndim == len(fixed) + 1 and all(
                f or a == b for f, a, b in zip(free, x.shape[1:], fixed, strict=True)
            )
            if not same:
                raise ValueError(f"x: got rows of shape {x.shape[1:]}, expected {fixed} as in fit")
        return x


def _numbers(x: ArrayLike) -> Array:
    array = to_array("x", x)
    if array.ndim == 0:
        raise ValueError(f"x: got {array}, expected an array with rows")
    return array


def _row_blocks(x: Array) -> Iterator[slice]:
    """Slices of rows of about 64 Ki values, so that float64 temporaries stay in the cache."""
    step = max(1, _BLOCK // max(1, math.prod(x.shape[1:])))
    return (slice(i, i + step) for i in range(0, len(x), step))


def _scaled(block: Array) -> NDArray[np.float64]:
    """float64, by the rule for all of fastnn: uint8 is an image."""
    return block * PIXEL_SCALE if block.dtype == np.uint8 else block.astype(np.float64)


def _by_blocks(
    x: Array, formula: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float32]:
    out = np.empty(x.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _row_blocks(x):
            out[rows] = formula(_scaled(x[rows]))
    if not np.isfinite(out).all():
        raise ValueError(_not_finite(x))
    return out


def _not_finite(x: Array) -> str:
    bad = ~np.isfinite(x)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), x.shape))
        return f"x: got {x[index]} at {index}, expected finite numbers"
    return f"x: got values up to {np.abs(x).max()}, too large to standardize in float32"


def _axes(axis: int | tuple[int, ...]) -> tuple[int, ...]:
    return axis if isinstance(axis, tuple) else (axis,)
