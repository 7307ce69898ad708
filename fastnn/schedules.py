"""Owns schedules of the learning rate: the factor on an optimizer's ``lr``, by the step.

Leaves rates that depend on an epoch's figures to ``callbacks``.
"""

import math
from collections.abc import Callable

from fastnn.checks import check_integer, check_real
from fastnn.component import Component

__all__ = ["CosineDecay", "ExponentialDecay", "Schedule", "StepDecay", "WarmUp"]


class Schedule(Component):
    """A function of the number of steps made so far; any other function will do as well.

    Examples
    --------
    >>> import fastnn as fnn
    >>> class InverseRoot(fnn.Schedule):
    ...     def __call__(self, step):
    ...         return (1 + step) ** -0.5
    >>> optimizer = fnn.SGD(0.1, schedule=InverseRoot())
    """

    def __call__(self, step: int) -> float:
        """Return the factor on ``lr`` for the next step."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step)")


class StepDecay(Schedule):
    """Multiply the rate by ``factor`` every so many steps: ``factor ** (step // every)``.

    Parameters
    ----------
    every : int
        Steps; an epoch has ``ceil(samples / batch_size)`` of them.
    factor : float
        In (0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> schedule = StepDecay(every=100, factor=0.5)
    >>> [schedule(step) for step in (0, 99, 100, 200)]
    [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, every: int, factor: float = 0.1) -> None:
        self.every = check_integer("every", every, 1)
        self.factor = check_real("factor", factor, 0, 1, open_low=True)

    def __call__(self, step: int) -> float:
        return self.factor ** (step // self.every)


class ExponentialDecay(Schedule):
    """Shrink the rate a little in each step: ``factor ** (step / steps)``.

    Parameters
    ----------
    steps : int
        After so many the rate has shrunk by ``factor``.
    factor : float
        In (0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> schedule = ExponentialDecay(100, 0.25)
    >>> [schedule(step) for step in (0, 50, 100)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, steps: int, factor: float = 0.1) -> None:
        self.steps = check_integer("steps", steps, 1)
        self.factor = check_real("factor", factor, 0, 1, open_low=True)

    def __call__(self, step: int) -> float:
        return float(self.factor ** (step / self.steps))


class CosineDecay(Schedule):
    """Follow half a cosine from 1 to ``floor``, and stay there (Loshchilov & Hutter 2017).

    Parameters
    ----------
    steps : int
        Until the floor is reached.
    floor : float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> schedule = CosineDecay(100, floor=0.2)
    >>> [round(schedule(step), 3) for step in (0, 50, 100, 999)]
    [1.0, 0.6, 0.2, 0.2]
    """

    def __init__(self, steps: int, floor: float = 0.0) -> None:
        self.steps = check_integer("steps", steps, 1)
        self.floor = check_real("floor", floor, 0, 1)

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


class WarmUp(Schedule):
    """Rise from ``1 / steps`` to 1 in equal parts, then follow another schedule from its start.

    Parameters
    ----------
    steps : int
    after : callable, optional
        A schedule; the rate stays at 1 without it.

    Raises
    ------
    TypeError, ValueError
        If ``steps`` is no integer of at least 1, or ``after`` no function.

    Examples
    --------
    >>> schedule = WarmUp(4, after=StepDecay(100))
    >>> [round(schedule(step), 3) for step in (0, 1, 3, 4, 103, 104)]
    [0.25, 0.5, 1.0, 1.0, 1.0, 0.1]
    """

    def __init__(self, steps: int, after: Callable[[int], float] | None = None) -> None:
        self.steps = check_integer("steps", steps, 1)
        if after is not None and not callable(after):
            raise TypeError(f"after: got {after!r}, expected a function of the step")
        self.after = after

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return (step + 1) / self.steps
        return 1.0 if self.after is None else self.after(step - self.steps)
