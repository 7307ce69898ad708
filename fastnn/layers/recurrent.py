"""Owns the recurrent layers: their weights, and which states forward keeps for backward.

Leaves the steps in time to the kernels, which take whole sequences.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastnn.checks import Array, check_finite, check_flag, check_integer, to_array
from fastnn.component import choose
from fastnn.initializers import INITIALIZERS, Initializer
from fastnn.layers.weighted import Weighted
from fastnn.regularizers import Regularizer

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]

_REVERSE = "_reverse"
_START = np.zeros(3, np.int64)


class Recurrent(Weighted):
    """What the three cells share; a subclass names its gates, its states and its kernels."""

    records = True
    takes_lengths = True
    gates: ClassVar[int]
    """Blocks of H columns in the weights."""
    states: ClassVar[dict[str, tuple[int, int]]]
    """Each array kept for backward, or used there: its steps beyond T, its width in H."""
    carried: ClassVar[tuple[str, ...]] = ("h",)
    """The states that go from step to step."""
    functions: ClassVar[tuple[str, str]]
    """The kernels forward and back."""
    _state: tuple[Array, ...] = ()

    def __init__(
        self,
        units: int,
        return_sequences: bool = False,
        *,
        bidirectional: bool = False,
        bptt_steps: int | None = None,
        stateful: bool = False,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        recurrent_initializer: str | Initializer = "orthogonal",
        bias_initializer: str | Initializer = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
    ) -> None:
        super().__init__(None, use_bias, kernel_initializer, bias_initializer, kernel_regularizer)
        self.recurrent_initializer = choose(
            "recurrent_initializer", recurrent_initializer, Initializer, INITIALIZERS
        )
        self.units = check_integer("units", units, 1)
        self.return_sequences = check_flag("return_sequences", return_sequences)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.bptt_steps = None if bptt_steps is None else check_integer("bptt_steps", bptt_steps, 1)
        self.stateful = check_flag("stateful", stateful)
        if self.stateful and self.bidirectional:
            raise ValueError(
                "stateful: got True, expected False with bidirectional=True, whose backward "
                "direction begins at the end"
            )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the names of each direction's weights and states."""
        return ("", _REVERSE) if self.bidirectional else ("",)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(input_shape) != 2:
            raise ValueError(f"input shape is {input_shape}, expected (steps, features)")
        steps, features = input_shape
        width = self.gates * self.units
        for suffix in self.suffixes:
            self.add_weight(f"wx{suffix}", (features, width), self.kernel_initializer)
            self.add_weight(f"wh{suffix}", (self.units, width), self.recurrent_initializer)
            if self.use_bias:
                self.add_biases(suffix)
        self.kernels = tuple(name + suffix for suffix in self.suffixes for name in ("wx", "wh"))
        outputs = self.units * len(self.suffixes)
        return (steps, outputs) if self.return_sequences else (outputs,)

    def add_biases(self, suffix: str) -> None:
        """Declare the biases of a direction."""
        self.add_weight(f"b{suffix}", (self.gates * self.units,), self.bias_initializer)

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        steps, features = self.input_shape
        shapes = {
            name: (n, steps + more, width * self.units)
            for name, (more, width) in self.states.items()
        }
        kept: dict[str, tuple[tuple[int, ...], DTypeLike]] = {}
        for suffix in self.suffixes:
            kept |= {name + suffix: (shape, dtype) for name, shape in shapes.items()}
            kept |= {f"d{name}{suffix}": ((n, self.units), dtype) for name in self.carried}
        if self.stateful:
            kept |= {f"{name}0": ((n, self.units), dtype) for name in self.carried}
        if self.bidirectional:
            kept["dx_reverse"] = ((n, steps, features), dtype)
        return kept

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        for i, suffix in enumerate(self.suffixes):
            call(
                getattr(k, self.functions[0]),
                **self.arguments(suffix, i, saved),
                x=x,
                out=out if self.return_sequences else out[:, None],
            )

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        for i, suffix in enumerate(self.suffixes):
            call(
                getattr(k, self.functions[1]),
                **self.arguments(suffix, i, saved),
                dout=dout if self.return_sequences else dout[:, None],
                x=x,
                dx=saved.dx_reverse if suffix and dx is not None else dx,
                bptt_steps=self.bptt_steps or 0,
            )
        if self.bidirectional and dx is not None:
            k.add(dx.reshape(-1), saved.dx_reverse.reshape(-1), dx.reshape(-1))

    def arguments(self, suffix: str, direction: int, saved: SimpleNamespace) -> dict[str, Any]:
        """Return what both kernels of a direction take, by the names of their parameters."""
        arguments: dict[str, Any] = {
            name: getattr(saved, name + suffix)
            for name in (*self.states, *(f"d{name}" for name in self.carried))
        }
        for name in ("wx", "wh", "b", "bh"):
            arguments[name] = getattr(self, name + suffix, None)
            arguments[f"d{name}"] = getattr(self, f"d{name}{suffix}", None)
        return arguments | {
            "h0": getattr(saved, "h0", None),
            "c0": getattr(saved, "c0", None),
            "lengths": saved.lengths,
            "reverse": bool(suffix),
            "column": direction * self.units,
        }

    def initial_state(self, saved: SimpleNamespace) -> tuple[Array, ...]:
        return tuple(getattr(saved, f"{name}0") for name in self.carried if self.stateful)

    def update(self, k: ModuleType, x: Array, saved: SimpleNamespace) -> None:
        for name, first in zip(self.carried, self.initial_state(saved), strict=True):
            states = getattr(saved, f"{name}s")
            rows, per_sequence = states.reshape(-1, self.units), states.shape[1]
            last = np.arange(per_sequence - 1, len(rows), per_sequence)
            k.gather_rows(rows, last, 1.0, _START, first)

    @property
    def state(self) -> Any:
        """Where the next prediction of a stateful layer begins: (N, H), of an LSTM a pair (h, c).

        A copy. None stands for zeros. It can be set to arrays of these shapes, or to None.

        Raises
        ------
        TypeError, ValueError
            If it is set to what is no state of this layer.
        """
        copies = [array.copy() for array in self._state]
        return tuple(copies) if len(copies) > 1 else copies[0] if copies else None

    @state.setter
    def state(self, value: Any) -> None:
        with self.named():
            if not self.stateful:
                what = type(value).__name__
                raise ValueError(f"state: got {what}, expected a layer with stateful=True")
            self._state = () if value is None else self._to_state(value)

    def _to_state(self, value: Any) -> tuple[Array, ...]:
        """Return copies of a state's arrays."""
        count = len(self.carried)
        if count > 1 and not (isinstance(value, (tuple, list)) and len(value) == count):
            raise TypeError(f"state: got {type(value).__name__}, expected a pair (h, c) of arrays")
        arrays: list[Array] = []
        for name, item in zip(self.carried, value if count > 1 else (value,), strict=True):
            array = to_array("state", item)
            array = np.array(array, np.result_type(array, np.float32), order="C")
            rows = len(arrays[0]) if arrays else len(array) if array.ndim else 0
            if array.ndim != 2 or array.shape != (rows, self.units) or not rows:
                raise ValueError(
                    f"state: got {name} of shape {array.shape}, expected "
                    f"({rows if arrays else 'rows'}, {self.units})"
                )
            check_finite("state", array)
            arrays.append(array)
        return tuple(arrays)

    def begin(self, rows: int, dtype: DTypeLike) -> tuple[Array, ...]:
        """Return copies of the state's arrays for a batch of so many rows.

        Raises
        ------
        ValueError
            If the state has another number of rows, or is too large for ``dtype``.
        """
        if not self._state:
            return tuple(np.zeros((rows, self.units), dtype) for _ in self.carried)
        found = len(self._state[0])
        if found != rows:
            raise ValueError(
                f"{self.label}: the state has {found} rows, x has {rows}; expected as many, or "
                "reset_states() before"
            )
        arrays = []
        for given in self._state:
            with np.errstate(over="ignore"):
                array = given.astype(dtype)
            if given.dtype != dtype:
                with self.named():
                    check_finite("state", array)
            arrays.append(array)
        return tuple(arrays)

    def end(self, state: tuple[Array, ...]) -> None:
        """Keep the state in which a batch ended."""
        self._state = state


@functools.cache
def parameters(function: Callable[..., None]) -> tuple[str, ...]:
    """Return the names of a kernel's parameters."""
    return tuple(inspect.signature(function).parameters)


def call(function: Callable[..., None], **arguments: Any) -> None:
    """Call a kernel with those of the arguments that it takes."""
    function(*(arguments[name] for name in parameters(function)))


class RNN(Recurrent):
    """Simple recurrence ``h = tanh(x @ wx + b + h @ wh)`` over sequences (Elman 1990).

    Takes (T, I), T steps of I features, and gives the last state (H,), or all states (T, H).
    The first state is zero, unless the layer is stateful.

    Parameters
    ----------
    units : int
        H, the size of the state.
    return_sequences : bool
        Give the states of all steps.
    activation : {"tanh", "relu"}
    bidirectional : bool
        Go through the sequence backwards as well, with weights of its own (``wx_reverse``, ...);
        the output is twice as wide, the backward direction second.
    bptt_steps : int, optional
        The gradient does not cross the borders of windows of so many steps, the state does
        (truncated back-propagation through time, Williams & Peng 1990). Windows count from where a
        sequence begins, for the backward direction from its end.
    stateful : bool
        Each row of a batch goes on where the same row of the batch before ended. In ``fit`` and
        ``evaluate`` the state begins at zero in each pass over the data, takes batches of the same
        size in their order, and is not seen outside. In ``predict`` all samples are one batch, and
        ``state`` goes on from call to call. The gradient stays within a batch.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
        Of ``wx``, ``wh`` and ``b``.
    kernel_regularizer : str or Regularizer, optional
        Penalty on ``wx`` and ``wh``.

    Attributes
    ----------
    wx : (I, H) float32
    wh : (H, H) float32
    b : (H,) float32
        Stands for the sum of PyTorch's two.
    state : (N, H) float or None
        Of a stateful layer: where the next prediction of N rows begins; None stands for zeros.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the input is no sequence (T, I).

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.RNN(32), fnn.Dense(10)], input_shape=(28, 28))
    >>> model.layers[0].wh.shape, model.layers[0].output_shape
    ((32, 32), (32,))
    >>> model = fnn.Sequential([fnn.RNN(4, stateful=True)], input_shape=(5, 3))
    >>> bool((model.predict(np.ones((2, 5, 3))) == model.layers[0].state).all())
    True
    >>> stack = [fnn.RNN(8, return_sequences=True), fnn.RNN(8, bidirectional=True)]
    >>> fnn.Sequential(stack, input_shape=(5, 3)).output_shape
    (16,)
    """

    records = True
    gates = 1
    functions = ("rnn_forward", "rnn_backward")
    states: ClassVar = {"hs": (1, 1), "dz": (0, 1)}

    def __init__(
        self,
        units: int,
        return_sequences: bool = False,
        activation: str = "tanh",
        *,
        bidirectional: bool = False,
        bptt_steps: int | None = None,
        stateful: bool = False,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        recurrent_initializer: str | Initializer = "orthogonal",
        bias_initializer: str | Initializer = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
    ) -> None:
        super().__init__(
            units,
            return_sequences,
            bidirectional=bidirectional,
            bptt_steps=bptt_steps,
            stateful=stateful,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
        )
        if activation not in ("tanh", "relu"):
            raise ValueError(f"activation: got {activation!r}, expected 'tanh' or 'relu'")
        self.cell_activation = activation

    def config(self) -> dict[str, Any]:
        return super().config() | {"activation": self.cell_activation}

    def arguments(self, suffix: str, direction: int, saved: SimpleNamespace) -> dict[str, Any]:
        relu = self.cell_activation == "relu"
        return super().arguments(suffix, direction, saved) | {"relu": relu}


class LSTM(Recurrent):
    """Long short-term memory over sequences (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    ``i, f, g, o = split(x @ wx + b + h @ wh)``, ``c = sigmoid(f) * c + sigmoid(i) * tanh(g)``,
    ``h = sigmoid(o) * tanh(c)``: PyTorch's order of gates. Takes (T, I) and gives the last state
    (H,), or all (T, H).

    Parameters
    ----------
    units, return_sequences, bidirectional, bptt_steps, stateful, use_bias
        As in ``RNN``.
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer : str or Regularizer, optional

    Attributes
    ----------
    wx : (I, 4*H) float32
    wh : (H, 4*H) float32
    b : (4*H,) float32
        Stands for the sum of PyTorch's two.
    state : pair of (N, H) float, or None
        h and c, as in ``RNN``.

    Raises
    ------
    TypeError, ValueError
        As of ``RNN``.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.LSTM(128)], input_shape=(28, 28)).layers[0].wx.shape
    (28, 512)
    """

    records = True
    gates = 4
    functions = ("lstm_forward", "lstm_backward")
    states: ClassVar = {"gates": (0, 4), "hs": (1, 1), "cs": (1, 1), "tanh_c": (0, 1), "dz": (0, 4)}
    carried = ("h", "c")


class GRU(Recurrent):
    """Gated recurrent unit over sequences (Cho et al. 2014), in PyTorch's form.

    ``r, u = sigmoid(x @ wx_ru + b_ru + h @ wh_ru)``,
    ``n = tanh(x @ wx_n + b_n + r * (h @ wh_n + bh))``, ``h = (1 - u) * n + u * h``. Takes (T, I)
    and gives the last state (H,), or all (T, H).

    Parameters
    ----------
    units, return_sequences, bidirectional, bptt_steps, stateful, use_bias
        As in ``RNN``.
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer : str or Regularizer, optional

    Attributes
    ----------
    wx : (I, 3*H) float32
        Of r, u (PyTorch's z) and n.
    wh : (H, 3*H) float32
    b : (3*H,) float32
        For r and u the sum of PyTorch's two, for n that of the input.
    bh : (H,) float32
        For n, that of the state.
    state : (N, H) float or None
        As in ``RNN``.

    Raises
    ------
    TypeError, ValueError
        As of ``RNN``.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.GRU(128)], input_shape=(28, 28)).n_parameters
    60416
    """

    records = True
    gates = 3
    functions = ("gru_forward", "gru_backward")
    states: ClassVar = {
        "gates": (0, 3),
        "hn": (0, 1),
        "hs": (1, 1),
        "dz": (0, 3),
        "dzh": (0, 3),
    }

    def add_biases(self, suffix: str) -> None:
        super().add_biases(suffix)
        self.add_weight(f"bh{suffix}", (self.units,), self.bias_initializer)
