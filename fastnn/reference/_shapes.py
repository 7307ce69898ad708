"""Owns the one shape check that every reference kernel makes before it computes.

Leaves types to NumPy: the reference computes in whatever float dtype it is given.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
FIXED = {str(size): size for size in range(10)}


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
    sizes = FIXED.copy()
    for name, (array, letters) in arguments.items():
        if array is None:
            continue
        shape = array.shape
        if len(shape) != len(letters):
            raise ValueError(f"{kernel}: {name} has shape {shape}, expected {axes(letters)}")
        for letter, size in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                if letter in FIXED:
                    raise ValueError(
                        f"{kernel}: {name} has shape {shape}, expected {axes(letters)}"
                    )
                other, found = next(
                    (other, a.shape)
                    for other, (a, its) in arguments.items()
                    if a is not None and letter in its
                )
                raise ValueError(
                    f"{kernel}: {name} of shape {shape} does not fit {other} of shape {found}: "
                    f"{letter} is {size} and {sizes[letter]}"
                )


def axes(letters: str) -> str:
    """Return the letters as a shape is written."""
    return "(" + ", ".join(letters) + ("," if len(letters) == 1 else "") + ")"
