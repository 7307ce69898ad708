"""Owns the record of a training run.

Leaves its figures to the trainer, and their drawing to ``fastnn.plots``.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from fastnn.checks import Array
from fastnn.files import replace

__all__ = ["History"]

_EPOCHS, _ITERATIONS = "epochs.", "iterations."


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
    iterations : dict of str to list of float
        With ``validation_every``, the measurements between: ``"iteration"`` (how many steps were
        made), ``"loss"`` (mean of the steps' losses since the last one), ``"val_loss"`` and, if
        the loss counts it, ``"val_accuracy"``.

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
        self.iterations: dict[str, list[float]] = {}
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

    def add_iteration(self, figures: Mapping[str, float]) -> None:
        """Append the figures of a measurement within or at the end of an epoch."""
        for name, value in figures.items():
            self.iterations.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Array]:
        """Return all figures as arrays, by a name."""
        lists = {"seconds": self.seconds, "samples_per_second": self.samples_per_second}
        lists |= {f"{_EPOCHS}{name}": values for name, values in self._figures.items()}
        lists |= {f"{_ITERATIONS}{name}": values for name, values in self.iterations.items()}
        arrays = {name: np.asarray(values) for name, values in lists.items()}
        return arrays | {"batch_losses": self.batch_losses}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over all figures."""
        lists = {name: array.tolist() for name, array in state.items()}
        self.seconds, self.samples_per_second = lists["seconds"], lists["samples_per_second"]
        self._figures = _named(lists, _EPOCHS)
        self.iterations = _named(lists, _ITERATIONS)
        self._batches = [state["batch_losses"]]
        self.epochs = len(self.seconds)

    def to_csv(self, path: str | os.PathLike[str], by: str = "epoch") -> None:
        """Write the figures to a CSV file, which is replaced at once or not at all.

        Parameters
        ----------
        path : str or path
        by : {"epoch", "iteration"}
            A line for each epoch, with ``seconds`` and ``samples_per_second``, or for each
            measurement in ``iterations``.

        Raises
        ------
        ValueError
            If ``by`` is neither, or nothing was measured by iteration.
        OSError
            If the file cannot be written.
        """
        if by not in ("epoch", "iteration"):
            raise ValueError(f"by: got {by!r}, expected 'epoch' or 'iteration'")
        columns = self._columns() if by == "epoch" else self.iterations
        if not columns:
            raise ValueError("by: got 'iteration', which fit measures with validation_every only")
        text = io.StringIO(newline="")
        csv.writer(text).writerow(columns)
        _write_rows(text, columns)
        replace(path, [text.getvalue().encode()])

    def write_csv(self, file: Any, start: int) -> None:
        """Write the lines of ``to_csv`` from epoch ``start`` on, counted from 0, to a text file."""
        _write_rows(file, self._columns(), start)

    def _columns(self) -> dict[str, list[float]]:
        epochs: list[float] = list(range(1, self.epochs + 1))
        times = {"seconds": self.seconds, "samples_per_second": self.samples_per_second}
        return {"epoch": epochs} | self._figures | times

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


def _named(lists: Mapping[str, list[float]], start: str) -> dict[str, list[float]]:
    """Return the lists whose names begin so, without that beginning."""
    return {name.removeprefix(start): v for name, v in lists.items() if name.startswith(start)}


def _write_rows(file: Any, columns: Mapping[str, list[float]], start: int = 0) -> None:
    """Write rows of the columns, which may differ in length, as CSV."""
    rows = zip_longest(*columns.values(), fillvalue="")
    csv.writer(file).writerows(islice(rows, start, None))
