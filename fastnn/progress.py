"""Owns what a training run prints: nothing; a line per epoch, and on a terminal a bar; lines only.

Leaves the figures to the history.
"""

import sys
from collections.abc import Sequence
from typing import Any

from fastnn.history import History

__all__ = ["Progress"]


class Progress:
    """Shows a run: nothing (``verbose=0``); lines, and on a terminal a bar (1); lines only (2).

    Examples
    --------
    >>> progress = Progress(2, epochs=3, samples=1000)
    >>> progress.start(0)
    >>> history = History()
    >>> history.add_epoch({"loss": 0.25, "accuracy": 0.9}, samples=1000, seconds=0.5)
    >>> progress.finish(history)
    epoch 1/3  loss 0.2500  accuracy 0.9000  0.50 s  2,000 samples/s
    """

    def __init__(self, verbose: int, epochs: int, samples: int) -> None:
        self._verbose = verbose
        self._epochs = epochs
        self._samples = samples
        self._title = ""
        self._bar: Any = None

    def start(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        width = len(str(self._epochs))
        self._title = f"epoch {epoch + 1:{width}}/{self._epochs}"
        if self._verbose == 1 and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._samples, desc=self._title, unit=" samples", leave=False, miniters=1
            )

    def update(self, samples: int) -> None:
        """Show that this many more samples are done."""
        if self._bar is not None:
            self._bar.update(samples)

    def finish(self, history: History, remarks: Sequence[str] = ()) -> None:
        """End an epoch with its figures, the history's last, and what callbacks remark."""
        self.close()
        if self._verbose:
            figures = [f"{name} {values[-1]:.4f}" for name, values in history.items()]
            shown = "  ".join([*figures, *filter(None, remarks)])
            rate = f"{history.samples_per_second[-1]:,.0f} samples/s"
            print(f"{self._title}  {shown}  {history.seconds[-1]:.2f} s  {rate}", flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
