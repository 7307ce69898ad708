"""Owns what is done between the epochs of a run: stop, keep the best weights, change the rate, log.

Leaves the order of the calls, also at an interruption or an error, to ``run``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastnn.checks import Array, check_flag, check_integer, check_real
from fastnn.component import Component
from fastnn.files import check_folder, to_path
from fastnn.history import History

if TYPE_CHECKING:
    from fastnn.model import Sequential
    from fastnn.optimizers import Optimizer

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceOnPlateau",
    "to_callbacks",
]


class Callback(Component):
    """Called by ``fit`` at its beginning, before and after each epoch, and at its end.

    A subclass defines what it needs of the methods below. ``history`` is that of the run; it has
    epochs at the beginning only if a run is taken up again.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> class Halved(fnn.Callback):
    ...     def on_epoch_end(self, model, history):
    ...         return history["loss"][-1] < 0.5 * history["loss"][0]  # True ends the run
    ...     def on_train_end(self, model, history):
    ...         print("ended early:", history.epochs < 1000)
    >>> model = fnn.Sequential([fnn.Dense(2)], seed=0)
    >>> _ = model.fit(np.eye(4), [0, 1, 0, 1], epochs=1000, callbacks=[Halved()], verbose=0)
    ended early: True
    """

    def on_train_begin(self, model: Sequential, history: History) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, model: Sequential, history: History) -> None:
        """Before each epoch."""

    def on_epoch_end(self, model: Sequential, history: History) -> object:
        """After each epoch, and its validation; returning True ends the run."""

    def on_train_end(self, model: Sequential, history: History) -> None:
        """At the end, also that by an interruption or an error."""

    def status(self, history: History) -> str:
        """Return what the line of an epoch shows."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that is taken up again needs: numbers, strings, None and arrays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state, before ``on_train_begin`` of the run that goes on."""


class _Function(Callback):
    """A function of model and history, called after each epoch."""

    def __init__(self, function: Callable[[Sequential, History], object]) -> None:
        self.function = function

    def on_epoch_end(self, model: Sequential, history: History) -> object:
        return self.function(model, history)


def to_callbacks(callbacks: Iterable[Any] | None) -> list[Callback]:
    """Return the callbacks, with functions wrapped.

    Raises
    ------
    TypeError
        If one is neither a ``Callback`` nor a function.
    """
    if callbacks is None:
        return []
    given = list(callbacks) if isinstance(callbacks, Iterable) else None
    if given is None or not all(callable(one) or isinstance(one, Callback) for one in given):
        raise TypeError(
            f"callbacks: got {callbacks!r:.60}, expected a list of functions or Callbacks"
        )
    for one in given:
        if isinstance(one, type) and issubclass(one, Callback):
            raise TypeError(
                f"callbacks: got the class {one.__name__}; make an object of it: "
                f"{one.__name__}(...)"
            )
    return [one if isinstance(one, Callback) else _Function(one) for one in given]


class _Best(NamedTuple):
    """The best value of a figure so far: its epoch, and the weights of that epoch if kept."""

    value: float | None = None
    epoch: int = 0
    weights: dict[str, Array] | None = None


class _Watch(Callback):
    """Compares a figure of each epoch with its best so far.

    All that is known stands in one tuple, so that an interruption cannot tear it apart.
    """

    def __init__(self, monitor: str, min_delta: float, mode: str) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: got {monitor!r:.60}, expected a name such as 'val_loss'")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode: got {mode!r:.60}, expected 'auto', 'min' or 'max'")
        self.monitor = monitor
        self.min_delta = check_real("min_delta", min_delta, 0)
        self.mode = mode
        self._best = _Best()

    @property
    def best(self) -> float | None:
        """The best value so far; None before the first epoch."""
        return self._best.value

    @property
    def best_epoch(self) -> int:
        """Its epoch, counted from 1; 0 before the first."""
        return self._best.epoch

    def on_train_begin(self, model: Sequential, history: History) -> None:
        if not history.epochs:
            self._best = _Best()

    def improved(self, model: Sequential, history: History, keep_weights: bool = False) -> bool:
        """Say whether the last epoch was the best so far, and note it if so."""
        if self.monitor not in history:
            measured = "val_loss" in history or not self.monitor.startswith("val_")
            hint = "" if measured else "; give validation_data"
            raise ValueError(
                f"monitor: got {self.monitor!r}, expected one of {list(history)}{hint}"
            )
        value, best = history[self.monitor][-1], self._best.value
        down = self.mode == "min" or (self.mode == "auto" and "accuracy" not in self.monitor)
        gain = math.inf if best is None else best - value if down else value - best
        if gain > self.min_delta and not math.isnan(value):
            self._best = _Best(value, history.epochs, model.state_dict() if keep_weights else None)
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        value, epoch, weights = self._best
        arrays = {f"weights.{name}": array for name, array in (weights or {}).items()}
        return {"best": value, "best_epoch": epoch, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weights = {
            name.removeprefix("weights."): array
            for name, array in state.items()
            if name.startswith("weights.")
        }
        self._best = _Best(state["best"], state["best_epoch"], weights or None)


class EarlyStopping(_Watch):
    """End the run when a figure has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        A key of the history.
    patience : int
        Epochs without improvement after which the run ends.
    min_delta : float
        What the figure must gain to count as improved is more than this.
    mode : {"auto", "min", "max"}
        What is better; "auto" takes the larger accuracy, and the smaller of all else.
    restore_best : bool
        However the run ends, also by an interruption or an error, leave the weights of the best
        epoch. Without it, and before the first epoch is complete, they are the last ones.

    Attributes
    ----------
    best : float or None
    best_epoch : int

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; in ``fit``, if the history has no such figure.

    Examples
    --------
    >>> EarlyStopping(patience=3)
    EarlyStopping(patience=3)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.patience = check_integer("patience", patience, 1)
        self.restore_best = check_flag("restore_best", restore_best)

    def on_epoch_end(self, model: Sequential, history: History) -> object:
        self.improved(model, history, self.restore_best)
        return history.epochs - self.best_epoch >= self.patience

    def on_train_end(self, model: Sequential, history: History) -> None:
        if self._best.weights is not None:
            model.load_state_dict(self._best.weights)

    def status(self, history: History) -> str:
        return f"patience {history.epochs - self.best_epoch}/{self.patience}"


def _optimizer(model: Sequential) -> Optimizer:
    assert model.optimizer is not None, "a callback is called in a run, which has an optimizer"
    return model.optimizer


class LearningRateScheduler(Callback):
    """Set the optimizer's rate for each epoch.

    Parameters
    ----------
    rate : callable
        Takes the epoch, counted from 0, returns its learning rate.

    Raises
    ------
    TypeError, ValueError
        If ``rate`` is no function; in ``fit``, if it returns no positive number.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> halved = fnn.LearningRateScheduler(lambda epoch: 0.1 * 0.5**epoch)
    >>> optimizer = fnn.SGD()
    >>> model = fnn.Sequential([fnn.Dense(2)], seed=0)
    >>> _ = model.fit(
    ...     np.eye(2), [0, 1], optimizer=optimizer, epochs=3, callbacks=[halved], verbose=0
    ... )
    >>> optimizer.lr
    0.025
    """

    def __init__(self, rate: Callable[[int], float]) -> None:
        if not callable(rate):
            raise TypeError(f"rate: got {rate!r:.60}, expected a function of the epoch")
        self.rate = rate

    def on_epoch_begin(self, model: Sequential, history: History) -> None:
        epoch = history.epochs
        _optimizer(model).lr = check_real(f"rate({epoch})", self.rate(epoch), 0, open_low=True)


class ReduceOnPlateau(_Watch):
    """Multiply the optimizer's rate by a factor when a figure has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        A key of the history.
    factor : float
        In (0, 1).
    patience : int
        Epochs without improvement, or since the last reduction, after which the rate is reduced.
    min_delta : float
    mode : {"auto", "min", "max"}
        As of ``EarlyStopping``.
    min_lr : float
        The rate is not reduced below it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; in ``fit``, if the history has no such figure.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> halving = fnn.ReduceOnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    >>> optimizer = fnn.SGD(0.1)
    >>> model = fnn.Sequential([fnn.Dense(2)], seed=0)
    >>> _ = model.fit(
    ...     np.eye(2), [0, 1], optimizer=optimizer, epochs=3, callbacks=[halving], verbose=0
    ... )
    >>> optimizer.lr  # two epochs did not gain 100
    0.025
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: str = "auto",
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.factor = check_real("factor", factor, 0, 1, open_low=True, open_high=True)
        self.patience = check_integer("patience", patience, 1)
        self.min_lr = check_real("min_lr", min_lr, 0)
        self._reduced = 0  # in which epoch the rate was

    def on_train_begin(self, model: Sequential, history: History) -> None:
        super().on_train_begin(model, history)
        if not history.epochs:
            self._reduced = 0

    def on_epoch_end(self, model: Sequential, history: History) -> object:
        optimizer = _optimizer(model)
        since = max(self.best_epoch, self._reduced)
        if not self.improved(model, history) and history.epochs - since >= self.patience:
            lowest = min(self.min_lr, optimizer.lr)
            optimizer.lr = max(optimizer.lr * self.factor, lowest) or optimizer.lr
            self._reduced = history.epochs
        return None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"reduced_epoch": self._reduced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._reduced = state["reduced_epoch"]


class ModelCheckpoint(_Watch):
    """Save the model after each epoch, or after those that are the best so far.

    An error while saving ends the run; the file of before stays whole. To go on with a run that
    was killed, use ``checkpoint=`` of ``fit``.

    Parameters
    ----------
    path : str or path
        As of ``Sequential.save``. May have fields for the epoch, counted from 1, and for figures
        of the history, such as ``"digits-{epoch:03d}-{val_loss:.3f}.safetensors"``; without any,
        the file is replaced.
    monitor : str
        A key of the history, if only the best are saved.
    save_best_only : bool
    min_delta : float
    mode : {"auto", "min", "max"}
        As of ``EarlyStopping``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; in ``fit``, if the history has no such figure.

    Examples
    --------
    >>> ModelCheckpoint("best.safetensors", monitor="val_accuracy", save_best_only=True)
    ModelCheckpoint('best.safetensors', monitor='val_accuracy', save_best_only=True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        min_delta: float = 0.0,
        mode: str = "auto",
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.path = to_path(path)
        self.save_best_only = check_flag("save_best_only", save_best_only)

    def on_train_begin(self, model: Sequential, history: History) -> None:
        super().on_train_begin(model, history)
        if "{" not in os.path.dirname(self.path):
            check_folder(self.path)

    def on_epoch_end(self, model: Sequential, history: History) -> object:
        if not self.save_best_only or self.improved(model, history):
            figures = {name: values[-1] for name, values in history.items()}
            try:
                path = self.path.format(epoch=history.epochs, **figures)
            except (LookupError, ValueError) as error:
                known = ", ".join(["epoch", *figures])
                raise ValueError(
                    f"path: got {self.path!r}, expected no fields but {known} ({error!r})"
                ) from error
            model.save(path)
        return None


class CSVLogger(Callback):
    """Keep a CSV file up to date with the history, a line for each epoch.

    Parameters
    ----------
    path : str or path
        Written anew by each run, as ``History.to_csv`` does; one that is taken up again goes on.

    Raises
    ------
    TypeError
        If ``path`` is no path.
    OSError
        In ``fit``, if the file cannot be written.

    Examples
    --------
    >>> CSVLogger("run.csv")
    CSVLogger('run.csv')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = to_path(path)
        self._columns: list[str] = []

    def on_train_begin(self, model: Sequential, history: History) -> None:
        check_folder(self.path)
        self._columns = []

    def on_epoch_end(self, model: Sequential, history: History) -> object:
        if self._columns == list(history):
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                history.write_csv(file, history.epochs - 1)
        else:
            history.to_csv(self.path)
            self._columns = list(history)
        return None
