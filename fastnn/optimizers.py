"""Owns the optimizers: options, state per model, and which kernel makes the update.

Leaves the step count and the batches to the trainer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from fastnn.checks import Array, check_flag, check_real
from fastnn.component import Component
from fastnn.memory import aligned_zeros

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "OptimizerState", "RMSProp"]

_Rate = Callable[[int], float]


@dataclass
class OptimizerState:
    """What an optimizer knows about one model: a later ``fit`` with the same object goes on here.

    Attributes
    ----------
    step, epoch : int
        How many whole ones were made.
    buffers : dict of str to (n,) float
        The kernel's state, one value per weight.
    stream : int or None
        Which random numbers it trains with: how many other states had trained the model before.
    """

    step: int = 0
    epoch: int = 0
    buffers: dict[str, Array] = field(default_factory=dict)
    stream: int | None = None


class Optimizer(Component):
    """Updates the weights of a model, all of the layers that are trained at once.

    Where frozen ones lie between them, ``update`` is called for each part of the vectors: what it
    keeps from step to step belongs into ``slots``.

    A copy, also by pickle, has the options only, and not the state of the models it has trained.

    Parameters
    ----------
    lr : float
        Learning rate. A new value set between two epochs holds from the next one on.
    schedule : callable, optional
        Takes the number of steps made so far, returns the factor on ``lr`` for the next one.
    clip_norm : float, optional
        A gradient whose norm, over all weights together, is larger is scaled down to this norm
        (Pascanu et al. 2013).

    Attributes
    ----------
    slots : tuple of str
        Names of the state buffers that ``update`` needs.

    Raises
    ------
    TypeError, ValueError
        If an argument is no positive number, or ``schedule`` no function.

    Examples
    --------
    >>> import fastnn as fnn
    >>> optimizer = fnn.Adam(0.001, schedule=fnn.CosineDecay(1000), clip_norm=1.0)
    >>> optimizer.lr = 0.0005  # for the epochs to come
    """

    recorded: ClassVar[tuple[str, ...]] = ("update",)

    def __init__(
        self, lr: float, schedule: _Rate | None = None, clip_norm: float | None = None
    ) -> None:
        self.lr = check_real("lr", lr, 0, open_low=True)
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule: got {schedule!r:.60}, expected a function of the step")
        self.schedule = schedule
        if clip_norm is not None:
            clip_norm = check_real("clip_norm", clip_norm, 0, open_low=True)
        self.clip_norm = clip_norm
        self._states: WeakKeyDictionary[Any, OptimizerState] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # A copy begins anew: what is known about a model belongs to that object.
        return {name: value for name, value in self.__dict__.items() if name != "_states"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _states=WeakKeyDictionary())

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state buffers that ``update`` needs."""
        return ()

    def state(self, model: Any) -> OptimizerState:
        """Return the state that belongs to this model, a fresh one at first."""
        state = self._states.setdefault(model, OptimizerState())
        for name in self.slots:
            if name not in state.buffers:
                state.buffers[name] = aligned_zeros(model.theta.size, model.dtype)
        return state

    def fill(self, lr: Array, step: int) -> None:
        """Write the learning rates of an epoch that starts after ``step`` steps: ``lr`` (L,).

        Raises
        ------
        TypeError, ValueError
            If the schedule returns anything but a finite number, at least 0.
        """
        rate = check_real("lr", self.lr, 0, open_low=True)
        if self.schedule is None:
            lr[:] = rate
            return
        for i in range(len(lr)):
            lr[i] = rate * check_real(f"schedule({step + i})", self.schedule(step + i), 0)

    def update(
        self,
        k: ModuleType,
        grad: Array,
        lr: Array,
        clock: Array,
        buffers: dict[str, Array],
        theta: Array,
    ) -> None:
        """Update ``theta`` (n,) and the buffers in place, and leave ``grad`` as it is.

        See ``fastnn.reference.optimizer``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update")


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum as in PyTorch.

    Parameters
    ----------
    lr : float
    momentum : float
        In [0, 1).
    nesterov : bool
        Step by the gradient and the new velocity; needs momentum.
    schedule : callable, optional
    clip_norm : float, optional

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or ``nesterov`` is True without momentum.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9)
    SGD(lr=0.1, momentum=0.9)
    """

    records = True

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        schedule: _Rate | None = None,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, schedule, clip_norm)
        self.momentum = check_real("momentum", momentum, 0, 1, open_high=True)
        self.nesterov = check_flag("nesterov", nesterov)
        if nesterov and not momentum:
            raise ValueError("nesterov: got True with momentum 0, expected a positive momentum")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(
        self,
        k: ModuleType,
        grad: Array,
        lr: Array,
        clock: Array,
        buffers: dict[str, Array],
        theta: Array,
    ) -> None:
        velocity = buffers["velocity"] if self.momentum else None
        k.sgd_update(grad, lr, self.momentum, self.nesterov, clock, velocity, theta)


class RMSProp(Optimizer):
    """Step by the gradient over the root of its running mean square (Tieleman & Hinton 2012).

    Parameters
    ----------
    lr : float
    rho : float
        Share of the mean that stays in a step, in [0, 1).
    eps : float
        Added to the root; positive.
    schedule : callable, optional
    clip_norm : float, optional

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> RMSProp(0.001, rho=0.99)
    RMSProp(rho=0.99)
    """

    records = True

    def __init__(
        self,
        lr: float = 0.001,
        rho: float = 0.9,
        eps: float = 1e-7,
        schedule: _Rate | None = None,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, schedule, clip_norm)
        self.rho = check_real("rho", rho, 0, 1, open_high=True)
        self.eps = check_real("eps", eps, 0, open_low=True)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("sq",)

    def update(
        self,
        k: ModuleType,
        grad: Array,
        lr: Array,
        clock: Array,
        buffers: dict[str, Array],
        theta: Array,
    ) -> None:
        k.rmsprop_update(grad, lr, self.rho, self.eps, clock, buffers["sq"], theta)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    Parameters
    ----------
    lr : float
    beta1, beta2 : float
        Shares of the running means that stay in a step, in [0, 1).
    eps : float
        Added to the root; positive.
    schedule : callable, optional
    clip_norm : float, optional

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> Adam(0.002, beta2=0.99)
    Adam(lr=0.002, beta2=0.99)
    """

    records = True
    weight_decay = 0.0

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        schedule: _Rate | None = None,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, schedule, clip_norm)
        self.beta1 = check_real("beta1", beta1, 0, 1, open_high=True)
        self.beta2 = check_real("beta2", beta2, 0, 1, open_high=True)
        self.eps = check_real("eps", eps, 0, open_low=True)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m", "v")

    def update(
        self,
        k: ModuleType,
        grad: Array,
        lr: Array,
        clock: Array,
        buffers: dict[str, Array],
        theta: Array,
    ) -> None:
        k.adam_update(
            grad,
            lr,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
            clock,
            buffers["m"],
            buffers["v"],
            theta,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), on all weights.

    Parameters
    ----------
    lr : float
    beta1, beta2 : float
    eps : float
        As of ``Adam``.
    weight_decay : float
        Each step also takes ``lr * weight_decay`` of every weight; at least 0.
    schedule : callable, optional
    clip_norm : float, optional

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> AdamW(0.001, weight_decay=0.1)
    AdamW(weight_decay=0.1)
    """

    records = True

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        schedule: _Rate | None = None,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, beta1, beta2, eps, schedule, clip_norm)
        self.weight_decay = check_real("weight_decay", weight_decay, 0)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}
