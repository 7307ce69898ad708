"""Owns the record of a training run.

Leaves its figures to the trainer, and their drawing to ``fastnn.plots``.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from fastnn.checks import Array

__all__ = ["History"]


class History(Mapping[str, list[float]]):
    """Figures of a run, one per whole epoch: ``history["loss"]``, also after an interruption.

    Keys are ``loss``, then ``accuracy`` if the loss counts it, and ``val_loss``, ``val_accuracy``
    with validation data. Loss and accuracy are means over the epoch's samples, measured in
    training. A run that is interrupted while it validates has one ``val_loss`` less.

    Attributes
    ----------
    epochs : int
        Whole epochs so far.
    seconds, samples_per_second : list of float
        Of each epoch's training.

    Examples
    --------
    >>> history = History()
    >>> history.add_epoch({"loss": 0.5}, samples=100, seconds=0.1)
    >>> history["loss"], history.epochs
    ([0.5], 1)
    """

    def __init__(self) -> None:
        self.epochs = 0
        self.seconds: list[float] = []
        self.samples_per_second: list[float] = []
        self._figures: dict[str, list[float]] = {}
        self._batches: list[Array] = []

    @property
    def batch_losses(self) -> Array:
        """Loss of every whole step, in order: (steps,) float."""
        return np.concatenate(self._batches) if self._batches else np.empty(0, np.float32)

    def add_epoch(self, figures: Mapping[str, float], samples: int, seconds: float) -> None:
        """Append the figures of a whole epoch."""
        self.add(figures)
        self.seconds.append(seconds)
        self.samples_per_second.append(samples / seconds)
        self.epochs += 1

    def add(self, figures: Mapping[str, float]) -> None:
        """Append further figures of an epoch, such as those on validation data."""
        for name, value in figures.items():
            self._figures.setdefault(name, []).append(value)

    def add_batches(self, losses: Array) -> None:
        """Append a copy of the losses of whole steps, also of an epoch that is not whole."""
        self._batches.append(losses.copy())

    def __getitem__(self, name: str) -> list[float]:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.items())
        return f"History(epochs={self.epochs}{', ' if last else ''}{last})"
