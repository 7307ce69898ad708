"""Owns the step: written once, run eagerly or recorded in a plan, over one data set.

Leaves conversion of the data to ``samples``, epochs and history to ``run``, buffers to ``memory``,
and all arithmetic to layers, losses, optimizers and their kernels.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastnn import backend
from fastnn.checks import Array, DivergenceError, users_frame
from fastnn.component import Component
from fastnn.history import History
from fastnn.interrupts import Interrupts
from fastnn.layers.base import Layer
from fastnn.losses import Loss, included
from fastnn.memory import Workspace
from fastnn.optimizers import Optimizer, OptimizerState
from fastnn.reference.norms import CHUNK
from fastnn.samples import Data

if TYPE_CHECKING:
    from fastnn.model import Sequential

__all__ = ["Trainer", "generator", "record", "unrecordable", "warn_eager"]


def generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the random numbers of one epoch; they depend on nothing else."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))


class Penalty(NamedTuple):
    """A weight with its gradient, flat, the factors of its penalty, and where its sums go."""

    w: Array
    dw: Array
    l1: float
    l2: float
    trainable: bool
    sums: Array


def penalties(model: Sequential, loss: Loss) -> tuple[list[Penalty], Array]:
    """Return the penalties of layers and loss, and the sums of all of them, in float64."""
    found = []
    for layer in model.layers:
        rules = [rule for rule in (layer.kernel_regularizer, loss.penalty) if rule is not None]
        l1, l2 = sum(rule.l1 for rule in rules), sum(rule.l2 for rule in rules)
        for name in layer.kernels if l1 or l2 else ():
            w, dw = getattr(layer, name), getattr(layer, f"d{name}")
            found.append((w.reshape(-1), dw.reshape(-1), l1, l2, layer.trainable))
    ends = np.cumsum([0, *(-(-w.size // CHUNK) for w, *_ in found)])
    sums = np.zeros(ends[-1])
    return [
        Penalty(*rest, sums[start:stop])
        for rest, start, stop in zip(found, ends[:-1], ends[1:], strict=True)
    ], sums


def trained_parts(model: Sequential) -> list[slice]:
    """Return the parts of the model's vectors whose layers are trained, as few as will do."""
    found: list[slice] = []
    for layer, part in zip(model.layers, model._parts, strict=True):
        if layer.trainable and part.start < part.stop:
            follows = found and found[-1].stop == part.start
            found.append(slice(found.pop().start if follows else part.start, part.stop))
    return found


def unrecordable(k: ModuleType, components: Sequence[Component]) -> Component | None:
    """Return what keeps a plan from being recorded: the first component that computes by itself."""
    if k is not backend.compiled:
        return None
    return next((component for component in components if not component.records), None)


def warn_eager(model: Sequential, blocker: Component) -> None:
    """Say, once for a model, why it runs step by step."""
    if model._warned:
        return
    model._warned = True
    name = blocker.label if isinstance(blocker, Layer) else type(blocker).__name__
    warnings.warn(
        f"{name} computes outside the kernels, so no plan can be recorded and the model runs "
        "eagerly, each step in Python. To record it, compute through the kernels k only and "
        f"set records = True in class {type(blocker).__name__}",
        stacklevel=users_frame(),
    )


def record(k: ModuleType, step: Callable[[], None], fuse: bool) -> Any:
    """Return a plan of what ``step`` makes the compiled kernels do."""
    plan = k.Plan()
    with plan.capture():
        step()
    if fuse:
        k.fuse(plan)
    return plan


class Trainer:
    """Runs epochs over one data set; without an optimizer it only measures.

    Parameters
    ----------
    model : Sequential
        Built.
    data : Data
    loss : Loss
    optimizer : Optimizer, optional
    batch_size : int
    shuffle : bool
        Take the rows in another order in each epoch.
    seed : int
        Of that order, and of dropout.
    eager : bool
        Run each step in Python even where a plan can be recorded.
    fuse : bool
        Let the plan merge neighbouring kernels.

    Attributes
    ----------
    clock : (3,) int64
        Rows used in this epoch, steps ever made, batches made in this epoch. Only whole steps
        advance it, so it is right after any interruption.
    losses, corrects : (batches,)
        What each batch of this epoch gave.
    plan : fastnn.kernels.Plan or None
        Of a full batch.
    interrupts : Interrupts
        To be entered around a run, so that Ctrl-C does not come inside an eager step.
    """

    def __init__(
        self,
        model: Sequential,
        data: Data,
        loss: Loss,
        optimizer: Optimizer | None = None,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        eager: bool = False,
        fuse: bool = True,
    ) -> None:
        self.model, self.data, self.loss, self.optimizer = model, data, loss, optimizer
        self.seed = seed
        self.k = backend.kernels_for(model.dtype)
        self.samples = len(data.x)
        n = min(batch_size, self.samples)
        self.batches = -(-self.samples // n)
        self.clock = np.zeros(3, np.int64)
        self.losses = np.zeros(self.batches, model.dtype)
        self.corrects = np.zeros(self.batches, np.int64) if loss.counts_correct else None
        self._loss = np.zeros(1, model.dtype)
        self._correct = np.zeros(1, np.int64)
        self._penalties, self._penalty_sums = penalties(model, loss)
        self._trained = trained_parts(model)
        ends = np.cumsum([0, *(-(-(part.stop - part.start) // CHUNK) for part in self._trained)])
        self._squares = np.zeros(ends[-1])
        self._chunks = list(map(slice, ends[:-1], ends[1:]))
        self._start = 0.0
        self.interrupts = Interrupts()
        self._rows = np.arange(self.samples) if shuffle and self.batches > 1 else None
        self.state = None if optimizer is None else optimizer.state(model)
        if self.state is not None:
            self.clock[1] = self.state.step
        scheduled = optimizer is not None and optimizer.schedule is not None
        self._lr = np.zeros(self.batches if scheduled else 1, np.float32)
        self.workspace = Workspace(
            model.layers,
            n,
            model.dtype,
            training=optimizer is not None,
            clock=self.clock,
            seed=seed,
            skip=included(loss, model.layers),
            target=(data.y.shape[1:], np.int32 if data.y.dtype == np.int32 else model.dtype),
            lengths=data.lengths is not None,
            weights=0 if data.weights is None else data.weights.shape[1],
        )
        components = [*model.layers, loss, *([] if optimizer is None else [optimizer])]
        blocker = unrecordable(self.k, components)
        if blocker is not None and not eager:
            warn_eager(model, blocker)
        self.eager = eager or blocker is not None or self.k is not backend.compiled
        self.parts = [(self.workspace, self.samples // n)]
        if self.samples % n:
            self.parts.append((self.workspace.narrow(self.samples % n), 1))
        self.plans = [
            None if self.eager else record(self.k, lambda ws=ws: self.step(ws), fuse)  # type: ignore[misc]
            for ws, _ in self.parts
        ]
        self.plan = self.plans[0]

    def step(self, ws: Workspace) -> None:
        """Make one step: fetch a batch, forward, loss, and in training backward and update."""
        self._fetch(ws)
        for stage in ws.stages:
            stage.forward(self.k)
        assert ws.target is not None
        weights = None if ws.weights is None else ws.weights.reshape(-1)
        self.loss.compute(self.k, ws.out, ws.target, weights, ws.dout, self._loss, self._correct)
        for penalty in self._penalties:
            self.k.chunk_sums(penalty.w, penalty.l1, penalty.l2, penalty.sums)
        if self._penalties:
            self.k.add_chunk_sums(self._penalty_sums, self._loss)
        correct = None if self.corrects is None else self._correct
        self.k.log_step(self._loss, correct, self.clock, self.losses, self.corrects)
        if self.eager and not math.isfinite(self._loss[0]):
            raise self._diverged(ws)
        for stage in ws.backward:
            stage.backward(self.k)
        if self.optimizer is not None and self.state is not None and ws.backward:
            self._update(self.optimizer, self.state)
        for stage in ws.stages:
            if stage.layer.stateful or (ws.backward and stage.layer.buffers):
                stage.update(self.k)
        self.k.advance(ws.n, self.clock)

    def _update(self, optimizer: Optimizer, state: OptimizerState) -> None:
        """Complete the gradient and change the weights."""
        k, model = self.k, self.model
        for penalty in self._penalties:
            if penalty.trainable:
                k.penalty_gradient(penalty.w, penalty.l1, penalty.l2, penalty.dw)
        if optimizer.clip_norm is not None:
            for part, chunks in zip(self._trained, self._chunks, strict=True):
                k.chunk_sums(model.grad[part], 0, 1, self._squares[chunks])
            for part in self._trained:
                k.clip_gradient(self._squares, optimizer.clip_norm, model.grad[part])
        for part in self._trained:
            # Layers may rely on it that rows of zeros stay so.
            grad = model.grad[part]
            grad.flags.writeable = False
            buffers = {name: buffer[part] for name, buffer in state.buffers.items()}
            optimizer.update(k, grad, self._lr, self.clock, buffers, model.theta[part])

    def _fetch(self, ws: Workspace) -> None:
        k, data = self.k, self.data
        assert ws.target is not None
        if data.x.dtype == np.int32:
            k.gather_labels(data.x, self._rows, self.clock, ws.rows)
        else:
            k.gather_rows(data.x, self._rows, data.x_scale, self.clock, ws.rows)
        if data.lengths is not None and ws.lengths is not None:
            k.gather_labels(data.lengths[:, None], self._rows, self.clock, ws.lengths[:, None])
        if data.y.dtype == np.int32:
            labels = data.y.reshape(self.samples, -1)
            k.gather_labels(labels, self._rows, self.clock, ws.target.reshape(ws.n, -1))
        else:
            k.gather_rows(data.y, self._rows, data.y_scale, self.clock, ws.target)
        if data.weights is not None:
            k.gather_rows(data.weights, self._rows, 1.0, self.clock, ws.weights)

    def run_epoch(
        self,
        epoch: int = 0,
        report: Callable[[int], None] = lambda done: None,
        pauses: Iterable[int] = (),
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Pass once over the data, with states that begin at zero.

        Parameters
        ----------
        epoch : int
            Counted from 0; with the seed it decides the order of the rows.
        report : callable
            Called with the number of samples done since its last call, every 40 ms or so.
        pauses : iterable of int
            After so many batches of this epoch, in order, ``pause`` is called; its time does not
            count.

        Raises
        ------
        DivergenceError
            If a batch's loss is not finite; the weights are those before that batch.
        KeyboardInterrupt
            The weights are those after the last whole step.
        """
        self._start = time.perf_counter()
        self.clock[0] = self.clock[2] = 0
        for stage in self.workspace.stages:
            stage.layer.start_epoch(stage.saved)
        if self._rows is not None:
            self._rows[:] = np.arange(self.samples)
            generator(self.seed, epoch).shuffle(self._rows)
        if self.optimizer is not None:
            self.optimizer.fill(self._lr, int(self.clock[1]))
        for stop in pauses:
            self._run_to(stop, report)
            began = time.perf_counter()
            pause()
            self._start += time.perf_counter() - began
        self._run_to(self.batches, report)

    def _run_to(self, stop: int, report: Callable[[int], None]) -> None:
        """Make the steps up to batch ``stop`` of this epoch."""
        end = 0
        for (ws, steps), plan in zip(self.parts, self.plans, strict=True):
            end += steps
            left = min(stop, end) - int(self.clock[2])
            if plan is None:
                self._run_eagerly(ws, left, report)
            else:
                self._replay(plan, ws, left, report)

    def _replay(self, plan: Any, ws: Workspace, steps: int, report: Callable[[int], None]) -> None:
        while steps > 0:
            done = plan.replay(steps)
            if plan.stopped:
                raise self._diverged(ws)
            steps -= done
            report(done * ws.n)

    def _run_eagerly(self, ws: Workspace, steps: int, report: Callable[[int], None]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                self.interrupts.hold = True
                self.step(ws)
                self.interrupts.release()
                report(ws.n)

    def close_epoch(self, history: History) -> None:
        """Write the steps since ``run_epoch`` into the books: of a whole epoch, or of a part."""
        if self.state is not None:
            self.state.step = int(self.clock[1])
        history.add_batches(self.losses[: self.clock[2]])
        if self.clock[0] == self.samples:
            if self.state is not None:
                self.state.epoch += 1
            history.add_epoch(self.figures(), self.samples, time.perf_counter() - self._start)
        self.clock[0] = self.clock[2] = 0

    def figures(self) -> dict[str, float]:
        """Return the means over the rows that count in the batches of this epoch."""
        rows = self._counted()
        figures = {"loss": float(rows @ self.losses.astype(np.float64) / rows.sum())}
        if self.corrects is not None:
            outputs = self.workspace.out.size // (self.workspace.n * self.data.rows)
            answers = rows.sum() * (outputs if self.loss.counts_elements else 1)
            figures["accuracy"] = float(self.corrects.sum() / answers)
        return figures

    def _counted(self) -> Array:
        """Return how many rows of each batch of this epoch count in the loss: (batches,)."""
        starts = np.arange(0, self.samples, self.workspace.n)
        if self.data.weights is None:
            return self.data.rows * np.diff(starts, append=self.samples)
        counts = np.count_nonzero(self.data.weights, axis=1)
        counted: Array = np.add.reduceat(
            counts if self._rows is None else counts[self._rows], starts
        )
        return counted

    def check_weights(self) -> None:
        """Refuse weights that the last step has made infinite: no loss has met them yet.

        Raises
        ------
        DivergenceError
            If one is not finite.
        """
        for layer in self.model.layers:
            for name in layer.weights:
                if not np.isfinite(getattr(layer, name)).all():
                    raise DivergenceError(
                        f"{layer.label}: {name} is not finite after this step; a smaller learning "
                        "rate may help",
                        batch=self.batches,
                        layer=layer.index,
                    )

    def _diverged(self, ws: Workspace) -> DivergenceError:
        """Compute the batch at the clock once more, and name the layer that went wrong."""
        value = self.losses[self.clock[2]]
        self._fetch(ws)
        layer, reason = None, "all layers' outputs are finite, the loss of them is not"
        with np.errstate(over="ignore", invalid="ignore"):
            for stage in ws.stages:
                index, name = stage.layer.index, stage.layer.label
                weights = [getattr(stage.layer, weight) for weight in stage.layer.weights]
                if not all(np.isfinite(weight).all() for weight in weights):
                    layer, reason = index, f"{name} is the first with weights that are not finite"
                    break
                stage.forward(self.k)
                if not np.isfinite(stage.out).all():
                    layer, reason = index, f"{name} is the first whose output is not finite"
                    break
        return DivergenceError(
            f"the loss is {value}: {reason}; a smaller learning rate may help",
            batch=int(self.clock[2]) + 1,
            layer=layer,
        )
