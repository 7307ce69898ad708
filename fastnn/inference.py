"""Owns the forward pass of a trained model: in chunks of rows, with plans for the sizes in use.

Leaves who may use which predictor at a time to ``Sequential``.
"""

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastnn import backend
from fastnn.checks import Array
from fastnn.formats import outside, seen
from fastnn.layers.recurrent import Recurrent
from fastnn.memory import Workspace
from fastnn.reference.norms import CHUNK
from fastnn.samples import chunk_rows, sequence_lengths, to_samples
from fastnn.trainer import record, unrecordable, warn_eager

if TYPE_CHECKING:
    from fastnn.model import Sequential

__all__ = ["Predictor"]

_MAX_RUNS = 64
_FLOAT32 = np.dtype(np.float32)

# Where the input goes, the same as a matrix in the layers' order, sums of its squares, which are
# finite if all of it is, the output, what computes it.
_Run = tuple[Array, Array, memoryview, Array, Callable[[], Any]]


class Predictor:
    """Computes the output of a model's layer ``end - 1``; not for two threads at a time.

    Parameters
    ----------
    model : Sequential
        Built.
    end : int
        How many layers to compute, at least 1.
    with_lengths : bool
        Whether the samples are sequences of different lengths.
    """

    def __init__(self, model: "Sequential", end: int, with_lengths: bool) -> None:
        self.model, self.end, self.with_lengths = model, end, with_lengths
        self.chunk = chunk_rows(model)
        recurrent = [layer for layer in model.layers[:end] if isinstance(layer, Recurrent)]
        self.stateful = [layer for layer in recurrent if layer.stateful]
        self._use(backend.kernels_for(model.dtype), 1)

    def _use(self, k: Any, n: int) -> None:
        """Start anew, with these kernels and room for n rows at a time."""
        model = self.model
        self.k = k
        layers = model.layers[: self.end]
        lengths = self.with_lengths
        self.workspace = Workspace(layers, n, model.dtype, training=False, lengths=lengths)
        self.clock = np.zeros(3, np.int64)
        blocker = unrecordable(k, layers)
        if blocker is not None:
            warn_eager(model, blocker)
        self.eager = blocker is not None or k is not backend.compiled
        self.direct = not (
            self.eager or self.stateful or lengths or model.layers[0].input_dtype is not None
        )
        self.runs: dict[tuple[int, ...], _Run] = {}

    def _run(self, n: int) -> _Run:
        """Return what computes n rows."""
        if n > self.workspace.n:
            self._use(self.k, min(self.chunk, max(n, 2 * self.workspace.n)))
        data_format = self.model.data_format
        shape = (n, *outside(self.workspace.x.shape[1:], data_format))
        if shape not in self.runs:
            if len(self.runs) >= _MAX_RUNS:
                self.runs.clear()
            ws = self.workspace.narrow(n)
            squares = np.zeros(-(-ws.x.size // CHUNK) if self.direct else 0)
            compute = partial(self._forward, ws, squares)
            if not self.eager and ws.stages:
                compute = record(self.k, compute, fuse=True).replay
            inputs, out = seen(ws.x, data_format), seen(ws.out, data_format)
            self.runs[shape] = (inputs, ws.rows, squares.data, out, compute)
        return self.runs[shape]

    def _forward(self, ws: Workspace, squares: Array) -> None:
        if squares.size:
            self.k.chunk_sums(ws.x.reshape(-1), 0.0, 1.0, squares)
        for stage in ws.stages:
            stage.forward(self.k)
            if stage.layer.stateful:
                stage.update(self.k)

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return the output for samples ``x`` (N, *input_shape), sequences of these lengths."""
        # The short way, for a few microseconds: float32 of a shape that was seen before.
        if (
            type(x) is np.ndarray
            and x.dtype is _FLOAT32
            and self.direct
            and self.k is backend.active
        ):
            run = self.runs.get(x.shape)
            if run is not None:
                inputs, _, squares, out, compute = run
                inputs[...] = x
                compute()
                if all(map(isfinite, squares)):
                    return out.copy()
        return self._in_chunks(x, lengths)

    def _in_chunks(self, x: ArrayLike, lengths: ArrayLike | None) -> Array:
        model = self.model
        k = backend.kernels_for(model.dtype)
        if k is not self.k:
            self._use(k, self.workspace.n)
        rows, scale = to_samples(model, "x", x)
        ends = sequence_lengths(model, "lengths", lengths, len(rows), self.end)
        shape = outside(model.layers[self.end - 1].output_shape, model.data_format)
        out = np.empty((len(rows), *shape), model.dtype)
        begun = [layer.begin(len(rows), model.dtype) for layer in self.stateful]
        states = [array for arrays in begun for array in arrays]
        for start in range(0, len(rows), self.chunk):
            stop = min(start + self.chunk, len(rows))
            _, inputs, _, result, compute = self._run(stop - start)
            self.clock[0] = start
            if rows.dtype == np.int32:
                self.k.gather_labels(rows, None, self.clock, inputs)
            else:
                self.k.gather_rows(rows, None, scale, self.clock, inputs)
            for state, buffer in zip(states, self.workspace.states, strict=True):
                buffer[: stop - start] = state[start:stop]
            if ends is not None and self.workspace.lengths is not None:
                self.workspace.lengths[: stop - start] = ends[start:stop]
            compute()
            out[start:stop] = result
            for state, buffer in zip(states, self.workspace.states, strict=True):
                state[start:stop] = buffer[: stop - start]
        for layer, arrays in zip(self.stateful, begun, strict=True):
            layer.end(arrays)
        return out
