"""Owns the choice of kernels: the compiled ones where they can be imported, else the reference.

Leaves the kernels to ``fastnn.kernels`` and ``fastnn.reference``, which have equal signatures.
"""

import os
import platform
import sys
import warnings
from types import ModuleType, TracebackType

import numpy as np

from fastnn import reference
from fastnn.checks import check_integer

__all__ = [
    "get_num_threads",
    "kernels_for",
    "set_num_threads",
    "show_config",
    "use_backend",
]

compiled: ModuleType | None
"""``fastnn.kernels``, or None where it cannot be imported."""
missing = ""
"""Why not."""

try:
    from fastnn import kernels as compiled
except ImportError as error:
    compiled, missing = None, f"{type(error).__name__}: {error}"
    warnings.warn(
        "fastnn: the compiled kernels cannot be imported, so the slow NumPy reference is used "
        f"({missing}); build them with: pip install . (or, in a source tree, pip install -e .)",
        stacklevel=3,
    )

active: ModuleType = compiled or reference
"""The kernels in use."""


def kernels_for(dtype: "np.dtype[np.floating]") -> ModuleType:
    """Return the kernels in use for this dtype: the compiled ones are float32 only."""
    return active if dtype == np.float32 else reference


class _Choice:
    """What ``use_backend`` returns: leaving it restores the backend before."""

    def __init__(self, previous: ModuleType) -> None:
        self._previous = previous

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global active
        active = self._previous


def use_backend(name: str) -> _Choice:
    """Choose the kernels for all models: from now on, or, with ``with``, for a block.

    Parameters
    ----------
    name : {"compiled", "reference"}

    Raises
    ------
    ValueError
        If the name is neither.
    ImportError
        If the compiled kernels cannot be imported.

    Examples
    --------
    >>> import fastnn as fnn
    >>> with fnn.use_backend("reference"):
    ...     y = fnn.Sequential([fnn.Dense(2)], seed=0).predict(np.ones((1, 3)))
    """
    global active
    choice = _Choice(active)
    if name == "reference":
        active = reference
    elif name != "compiled":
        raise ValueError(f"name: got {name!r:.60}, expected 'compiled' or 'reference'")
    elif compiled is None:
        raise ImportError(f"the compiled kernels cannot be imported ({missing})")
    else:
        active = compiled
    return choice


def set_num_threads(n: int) -> None:
    """Set how many threads the compiled kernels use at most; results do not depend on it.

    Parameters
    ----------
    n : int
        1 to 256. The reference runs on NumPy's own threads.

    Raises
    ------
    TypeError, ValueError
        If it is no such integer.

    Examples
    --------
    >>> import fastnn as fnn
    >>> before = fnn.get_num_threads()
    >>> fnn.set_num_threads(before)
    """
    n = check_integer("n", n, 1, 256)
    if compiled is not None:
        compiled.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads the compiled kernels use at most; 1 without them.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.get_num_threads() >= 1
    True
    """
    return 1 if compiled is None else int(compiled.get_num_threads())


def _name(kernels: ModuleType) -> str:
    return "compiled" if kernels is compiled else "reference"


def show_config() -> None:
    """Print backend, instruction set, threads and versions.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.show_config()  # doctest: +ELLIPSIS
              fastnn  ...
             backend  ...
     instruction set  ...
             threads  ...
    """
    import fastnn

    lines = {
        "fastnn": fastnn.__version__,
        "backend": f"reference ({missing})" if missing else _name(active),
        "instruction set": "none" if compiled is None else compiled.get_isa(),
        "threads": f"{get_num_threads()} of {os.cpu_count()} CPUs",
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({sys.implementation.name})",
        "platform": platform.platform(),
    }
    for name, value in lines.items():
        print(f"{name:>16}  {value}")
