"""Owns buffers: aligned vectors, and the workspace in which a batch passes through the layers.

Leaves what is computed in them to the layers; sizes come first, then one arena is allocated, and
no buffer moves afterwards, which is what makes recording a step valid.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import DTypeLike

from fastnn.checks import Array
from fastnn.layers.base import Layer

__all__ = ["Stage", "Workspace", "aligned_zeros"]

_ALIGNMENT = 64
_MAX_BYTES = 2**62
_UNWRITTEN = -(2.0**-120)
_PIECE = 2**23
"""Bytes that are asked of the system at once; it may take a millisecond for each MiB."""


def aligned_zeros(n: int, dtype: DTypeLike) -> Array:
    """Return n zeros that start at a multiple of 64 bytes.

    Examples
    --------
    >>> aligned_zeros(3, np.float32).ctypes.data % 64
    0
    """
    nbytes = n * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    for start in range(0, raw.size, _PIECE):  # between two, Ctrl-C is noticed
        raw[start : start + _PIECE] = 0
    start = -raw.ctypes.data % _ALIGNMENT
    aligned: Array = raw[start : start + nbytes].view(dtype)
    return aligned


@dataclass(slots=True)
class Stage:
    """One layer with the arrays that it computes on; ``dout`` and ``dx`` are None if not wanted."""

    layer: Layer
    x: Array
    out: Array
    dout: Array | None
    dx: Array | None
    saved: SimpleNamespace
    seen: set[str] = field(default_factory=set)
    """The results that were once looked at."""

    def forward(self, k: ModuleType) -> None:
        """Compute ``out``."""
        with self.layer.named(), _recording(k, "forward"), self._writing("out", self.out, self.x):
            self.layer.forward(k, self.x, self.out, self.saved)

    def backward(self, k: ModuleType) -> None:
        """Compute ``dx`` and the weights' gradients."""
        assert self.dout is not None
        with (
            self.layer.named(),
            _recording(k, "backward", wanted=self._wants_gradient),
            self._writing("dx", self.dx, self.dout),
        ):
            self.layer.backward(k, self.dout, self.x, self.out, self.dx, self.saved)

    def update(self, k: ModuleType) -> None:
        """Change the layer's buffers and carry its state, at the end of a step."""
        with self.layer.named(), _recording(k, "update"):
            self.layer.update(k, self.x, self.saved)

    @contextmanager
    def _writing(self, name: str, result: Array | None, given: Array) -> Iterator[None]:
        """Make sure that a user's layer, when it first runs, writes into its result."""
        watched = not self.layer.records and name not in self.seen and result is not None
        if result is None or not watched or np.may_share_memory(result, given):
            yield
            return
        self.seen.add(name)
        result.fill(_UNWRITTEN)
        yield
        if (result == _UNWRITTEN).all():
            raise ValueError(
                f"nothing was written into {name}: assign to its elements, {name}[...] = …, "
                f"for {name} = … only makes the name stand for another array"
            )

    @property
    def _wants_gradient(self) -> bool:
        return self.dx is not None or bool(self.layer.weights)


@contextmanager
def _recording(k: ModuleType, method: str, wanted: bool = True) -> Iterator[None]:
    """Make sure that, while a plan is captured, something is: NumPy would compute only once."""
    before = k.recorded() if hasattr(k, "recorded") else None
    yield
    if wanted and before is not None and k.recorded() == before:
        raise ValueError(
            f"{method} called no kernel, so a plan cannot repeat it: set records = False in the "
            "class, or compute through k only"
        )


@dataclass(slots=True)
class _Place:
    """The numbers of one layer's buffers."""

    x: int
    out: int
    dout: int | None
    dx: int | None
    saved: dict[str, int]


class Workspace:
    """All buffers for n samples on their way through the layers, and back if training.

    In training every output has its own buffer, and every gradient, unless a layer may work in
    place: memory that another thread has used is slow to write. Outside training the outputs
    alternate between two.

    Parameters
    ----------
    layers : sequence of Layer
        Built, at least one.
    n : int
        Samples in a batch.
    dtype : float dtype
    training : bool
    clock : (3,) int64
    seed : int
    skip : Layer, optional
        Left out: its output is its input.
    target : (shape, dtype), optional
        Of one sample's target, to get a buffer for the batch's.
    lengths : bool
        Whether the samples are sequences of different lengths, to get a buffer for the batch's.
    weights : int
        How many weights of the loss a sample has, to get a buffer for the batch's.

    Attributes
    ----------
    x, out : (n, *shape)
        Input of the first layer, output of the last.
    rows : (n, F)
        ``x`` as a matrix.
    dout : (n, *shape) or None
        Gradient of ``out``; None when nothing is to be trained.
    target : (n, *shape) or None
    lengths : (n,) int32 or None
        Of the sequences.
    weights : (n, weights) or None
    stages : list of Stage
        Layers that compute, in order.
    backward : list of Stage
        Those from the last to the first one with weights to be trained.
    states : list of (n, H)
        Initial states of stateful layers, in order.

    Examples
    --------
    >>> import fastnn as fnn
    >>> layers = fnn.Sequential([fnn.Dense(4), fnn.ReLU()], input_shape=(3,)).layers
    >>> ws = Workspace(layers, 8, np.float32, training=True)
    >>> ws.out.shape, np.shares_memory(ws.stages[0].out, ws.stages[1].out)
    ((8, 4), True)
    >>> ws.narrow(5).rows.shape
    (5, 3)
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        n: int,
        dtype: DTypeLike,
        *,
        training: bool,
        clock: Array | None = None,
        seed: int = 0,
        skip: Layer | None = None,
        target: tuple[tuple[int, ...], DTypeLike] | None = None,
        weights: int = 0,
        lengths: bool = False,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._layers = list(layers)
        self._training = training
        self._clock = np.zeros(3, np.int64) if clock is None else clock
        self._seed = seed
        self._skip = skip
        self._target = target
        self._weights = weights
        self._with_lengths = lengths
        self._capacity = n
        self._sizes: list[int] = []
        self._places: list[_Place] = []
        self._lay_out()
        starts = np.cumsum([0, *self._sizes], dtype=object)
        self._starts = [int(start) for start in starts]
        if self._starts[-1] >= _MAX_BYTES:
            raise ValueError(
                f"batch: got {n} samples, which need {self._starts[-1]} bytes of buffers, expected "
                f"fewer than {_MAX_BYTES}"
            )
        self.arena = aligned_zeros(self._starts[-1], np.uint8)
        self._bind(n)

    def narrow(self, m: int) -> "Workspace":
        """Return a workspace for m <= n samples in the same memory."""
        narrow = copy.copy(self)
        narrow._bind(m)
        return narrow

    def _buffer(self, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> int:
        """Reserve a buffer for the full batch and return its number."""
        self._sizes.append(0)
        self._widen(len(self._sizes) - 1, shape, dtype)
        return len(self._sizes) - 1

    def _widen(self, buffer: int, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> None:
        nbytes = math.prod(shape) * np.dtype(dtype or self.dtype).itemsize
        padded = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        self._sizes[buffer] = max(self._sizes[buffer], padded)

    def _is_view(self, layer: Layer) -> bool:
        return layer.view or layer is self._skip or (layer.train_only and not self._training)

    def _lay_out(self) -> None:
        """Decide which buffers each layer uses, and how large they are."""
        n, layers = self._capacity, self._layers
        current = self._buffer((n, *layers[0].input_shape), layers[0].input_dtype)
        pair = [current] if not self._training else []
        needed = False
        for layer in layers:
            x, shape = current, (n, *layer.output_shape)
            if self._is_view(layer):
                pass
            elif not self._training and (layer.inplace or layer.elementwise):
                pass
            elif layer.inplace and not needed:
                needed = True
            else:
                if self._training or len(pair) < 2:
                    current = self._buffer(shape)
                    pair.append(current)
                else:
                    current = pair[pair[0] == current]
                    self._widen(current, shape)
                # An in-place layer after this one must leave what its backward reads.
                needed = self._training and (layer.reads_output or layer.inplace)
            saved = {
                name: self._buffer(kept, kind)
                for name, (kept, kind) in layer.saved(n, self.dtype).items()
                if not self._is_view(layer)
            }
            self._places.append(_Place(x, current, None, None, saved))
        self._lay_out_gradients()
        self._target_buffer = (
            None if self._target is None else self._buffer((n, *self._target[0]), self._target[1])
        )
        self._weights_buffer = self._buffer((n, self._weights)) if self._weights else None
        self._lengths_buffer = self._buffer((n,), np.int32) if self._with_lengths else None

    def _lay_out_gradients(self) -> None:
        n, layers = self._capacity, self._layers
        trained = [i for i, layer in enumerate(layers) if layer.weights and layer.trainable]
        if not (self._training and trained):
            return
        current = self._buffer((n, *layers[-1].output_shape))
        for i in range(len(layers) - 1, trained[0] - 1, -1):
            layer, place = layers[i], self._places[i]
            place.dout = current
            if i == trained[0]:
                break
            if not (self._is_view(layer) or layer.inplace or layer.elementwise):
                current = self._buffer((n, *layer.input_shape))
            place.dx = current

    def _view(self, buffer: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        assert nbytes <= self._sizes[buffer]
        start = self._starts[buffer]
        array: Array = self.arena[start : start + nbytes].view(dtype).reshape(shape)
        return array

    def _bind(self, n: int) -> None:
        """Make the views for n samples."""
        if not 1 <= n <= self._capacity:
            raise ValueError(f"n: got {n}, expected 1 to {self._capacity}")

        def view(buffer: int | None, shape: tuple[int, ...]) -> Array | None:
            return None if buffer is None else self._view(buffer, (n, *shape), self.dtype)

        first, last = self._layers[0], self._layers[-1]
        self.n = n
        kind = first.input_dtype or self.dtype
        self.x = self._view(self._places[0].x, (n, *first.input_shape), kind)
        self.rows = self.x.reshape(n, -1)
        self.out = self._view(self._places[-1].out, (n, *last.output_shape), self.dtype)
        self.dout = view(self._places[-1].dout, last.output_shape)
        self.target = None
        if self._target is not None and self._target_buffer is not None:
            shape, dtype = self._target
            self.target = self._view(self._target_buffer, (n, *shape), dtype)
        self.weights = view(self._weights_buffer, (self._weights,))
        self.lengths = None
        if self._lengths_buffer is not None:
            self.lengths = self._view(self._lengths_buffer, (n,), np.int32)
        self.stages = []
        for layer, place in zip(self._layers, self._places, strict=True):
            if self._is_view(layer):
                continue
            specs = layer.saved(n, self.dtype)
            arrays = {name: self._view(place.saved[name], *specs[name]) for name in specs}
            stage = Stage(
                layer,
                self._view(place.x, (n, *layer.input_shape), layer.input_dtype or self.dtype),
                self._view(place.out, (n, *layer.output_shape), self.dtype),
                view(place.dout, layer.output_shape),
                view(place.dx, layer.input_shape),
                SimpleNamespace(
                    **arrays,
                    training=self._training,
                    clock=self._clock,
                    seed=self._seed,
                    lengths=self.lengths,
                ),
            )
            self.stages.append(stage)
        self.states = [a for stage in self.stages for a in stage.layer.initial_state(stage.saved)]
        self.backward = [stage for stage in reversed(self.stages) if stage.dout is not None]
