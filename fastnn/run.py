"""Owns a training run: the order of epochs, validation and callbacks, and its end in any case.

Leaves the steps to ``trainer``, and what a callback does to ``callbacks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastnn.callbacks import Callback
from fastnn.checks import Array, DivergenceError
from fastnn.history import History
from fastnn.progress import Progress
from fastnn.trainer import Trainer

if TYPE_CHECKING:
    from fastnn.checkpoint import Checkpoint
    from fastnn.model import Sequential

__all__ = ["Run"]


class Run:
    """One ``fit``, after its arguments are checked.

    Parameters
    ----------
    model : Sequential
    history : History
        Of the epochs before, if this run goes on.
    trainer : Trainer
    measure : Trainer, optional
        Of the validation data, without an optimizer.
    every : int, optional
        Validate every so many steps, too.
    callbacks : sequence of Callback
    checkpoint : Checkpoint, optional
    """

    def __init__(
        self,
        model: Sequential,
        history: History,
        trainer: Trainer,
        measure: Trainer | None,
        every: int | None,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.model, self.history = model, history
        self.trainer, self.measure, self.every = trainer, measure, every
        self.callbacks, self.checkpoint = callbacks, checkpoint
        self._doing = "batch"
        losses = history.batch_losses
        self._steps = len(losses)  # before this epoch
        self._tail = losses[len(losses) - len(losses) % every :] if every else losses[:0]
        self._noted = 0  # batches of this epoch before the last measurement; then comes the tail
        self._measured: dict[str, float] = {}  # at the end of the epoch

    def train(self, epochs: int, progress: Progress) -> None:
        """Train until the history has so many epochs, or a callback ends the run.

        Raises
        ------
        DivergenceError
            If a loss is not finite.
        """
        interrupts, saved = self.trainer.interrupts, self.checkpoint
        over = saved is not None and saved.over
        begun: list[Callback] = []
        try:
            with interrupts:
                try:
                    for callback in self.callbacks:
                        callback.on_train_begin(self.model, self.history)
                        begun.append(callback)
                    interrupts.release()
                    while self.history.epochs < epochs and not over:
                        over = self._epoch(progress)
                        if saved is not None:
                            saved.save(over, self.history.epochs >= epochs)
                finally:
                    interrupts.hold = True
                    self._end(begun)
        finally:
            progress.close()

    def _end(self, begun: Sequence[Callback]) -> None:
        """Tell all callbacks that the run is over, also if one of them fails."""
        if begun:
            try:
                begun[0].on_train_end(self.model, self.history)
            finally:
                self._end(begun[1:])

    def _epoch(self, progress: Progress) -> bool:
        """Train for an epoch; say whether a callback ends the run."""
        model, history, epoch = self.model, self.history, self.history.epochs
        for callback in self.callbacks:
            callback.on_epoch_begin(model, history)
        progress.start(epoch)
        try:
            self._train(progress)
            self.trainer.check_weights()
            if self.measure is not None:
                history.add(self._measured or self._validate())
        except DivergenceError as error:
            raise DivergenceError(
                f"epoch {epoch + 1}, {self._doing} {error.batch}: {error}",
                epoch=epoch + 1,
                batch=error.batch,
                layer=error.layer,
            ) from None
        progress.close()
        try:
            # All are called, so that one that ends the run does not hide it from others.
            answers = [one.on_epoch_end(model, history) for one in self.callbacks]
            return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)
        finally:
            progress.finish(history, [one.status(history) for one in self.callbacks])

    def _train(self, progress: Progress) -> None:
        trainer, every = self.trainer, self.every
        assert trainer.state is not None
        self._noted, self._measured = 0, {}
        pauses = range(every - self._steps % every, trainer.batches + 1, every) if every else ()
        try:
            trainer.run_epoch(trainer.state.epoch, progress.update, pauses, self._note)
        finally:
            # Once begun, the books are brought to their end, to agree with the weights.
            trainer.interrupts.hold = True
            self._steps += int(trainer.clock[2])
            self._tail = self._since()
            trainer.close_epoch(self.history)
            trainer.interrupts.release()

    def _since(self) -> Array:
        """Return the losses of the steps since the last measurement."""
        losses = self.trainer.losses[self._noted : self.trainer.clock[2]]
        return np.concatenate([self._tail, losses])

    def _note(self) -> None:
        """Measure within an epoch, or at its end."""
        figures, losses = self._validate(), self._since()
        batch = int(self.trainer.clock[2])
        mean = float(losses.mean(dtype=np.float64))
        self.history.add_iteration({"iteration": self._steps + batch, "loss": mean, **figures})
        self._noted, self._tail = batch, losses[:0]
        if batch == self.trainer.batches:
            self._measured = figures

    def _validate(self) -> dict[str, float]:
        """Measure the validation data."""
        assert self.measure is not None
        self._doing = "validation batch"
        self.measure.run_epoch()
        self._doing = "batch"
        return {f"val_{name}": value for name, value in self.measure.figures().items()}
