"""Owns the one shape check that every reference kernel makes before it computes.

Leaves types to NumPy: the reference computes in whatever float dtype it is given.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def check_shapes(kernel: str, **arguments: tuple[Array | None, str]) -> None:
    """Check that arrays agree with the letters that name their axes.

    Parameters
    ----------
    kernel : str
        Name for the error message.
    **arguments : (array or None, str)
        Each array with one letter per axis; a digit is a fixed size. Equal letters must have
        equal sizes. ``None`` is skipped.

    Raises
    ------
    ValueError
        If an array has another number of axes, or an axis another size.

    Examples
    --------
    >>> check_shapes("dense_forward", x=(np.ones((2, 3)), "NI"), w=(np.ones((4, 5)), "IO"))
    Traceback (most recent call last):
    ...
    ValueError: dense_forward: w of shape (4, 5) does not fit x of shape (2, 3): I is 4 and 3
    """
    seen: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, (array, letters) in arguments.items():
        if array is None:
            continue
        wanted = "(" + ", ".join(letters) + ("," if len(letters) == 1 else "") + ")"
        if array.ndim != len(letters):
            raise ValueError(f"{kernel}: {name} has shape {array.shape}, expected {wanted}")
        for letter, size in zip(letters, array.shape, strict=True):
            if letter.isdigit():
                if size != int(letter):
                    raise ValueError(f"{kernel}: {name} has shape {array.shape}, expected {wanted}")
                continue
            other, shape, known = seen.setdefault(letter, (name, array.shape, size))
            if size != known:
                raise ValueError(
                    f"{kernel}: {name} of shape {array.shape} does not fit {other} of shape "
                    f"{shape}: {letter} is {size} and {known}"
                )
