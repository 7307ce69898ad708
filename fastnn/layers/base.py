"""Owns the protocol between a layer and what runs it: shapes, weights, forward and backward.

Leaves buffers to ``memory.Workspace`` and the flat weight vectors to ``Sequential``.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakMethod

from numpy.typing import DTypeLike

from fastnn.checks import Array, assign, check_finite, check_flag, check_real, check_shape
from fastnn.component import Component, choose
from fastnn.initializers import INITIALIZERS, Initializer
from fastnn.regularizers import Regularizer

__all__ = ["Layer"]


class Layer(Component):
    """A function of a batch, with weights or without.

    A subclass defines ``forward`` and ``backward``, in ``build`` the output's shape and the
    weights, and says with the attributes below what the buffers may be used for. The defaults are
    right for any layer in plain NumPy.

    Attributes
    ----------
    records : bool
        True: forward and backward compute through the kernels ``k`` only, so a plan can record
        them. Otherwise the whole model runs step by step.
    view : bool
        True: the output is the input in another shape; there is nothing to compute.
    train_only : bool
        True: outside training the layer is a view.
    inplace : bool
        True: the output may share the input's buffer, and ``dx`` that of ``dout``; then backward
        must not read ``x``.
    elementwise : bool
        True: forward may write over its input, as it does outside training, and backward over
        ``dout``, but backward reads ``x``.
    reads_output : bool
        True: backward reads ``out``.
    takes_lengths : bool
        True: the input is a sequence, which may end before its last step.
    stateful : bool
        True: each batch begins with the state in which the one before ended.
    input_dtype : dtype, optional
        Of the input, where it is not the model's; of a first layer only.
    kernels : tuple of str
        Names of the weights that penalties apply to.
    input_shape, output_shape : tuple of int
        Of one sample, without the batch axis; set when the model is built.
    index : int
        The layer's place in its model.
    trainable : bool
        False: the next ``fit`` leaves the weights as they are; a ``BatchNorm`` still gathers its
        statistics while another layer is trained. Copies keep it, files do not. Where it is set
        back, a new optimizer is best: one that counts steps takes its first, large ones at once.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> class Scale(fnn.Layer):
    ...     def build(self, input_shape):
    ...         self.add_weight("w", input_shape, fnn.Constant(2.0))
    ...         return input_shape
    ...     def forward(self, k, x, out, saved):
    ...         np.multiply(x, self.w, out=out)
    ...     def backward(self, k, dout, x, out, dx, saved):
    ...         np.sum(dout * x, axis=0, out=self.dw)
    ...         if dx is not None:
    ...             np.multiply(dout, self.w, out=dx)
    >>> with fnn.use_backend("reference"):
    ...     fnn.Sequential([Scale()]).predict(np.ones((1, 3)))
    array([[2., 2., 2.]], dtype=float32)
    """

    recorded: ClassVar[tuple[str, ...]] = ("forward", "backward", "update")
    view: ClassVar[bool] = False
    train_only: ClassVar[bool] = False
    inplace: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    reads_output: ClassVar[bool] = True
    takes_lengths: ClassVar[bool] = False
    stateful: bool = False
    input_dtype: ClassVar[DTypeLike | None] = None
    kernels: tuple[str, ...] = ()

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    index: int
    activation: "Layer | None" = None
    """Sugar: a layer that the model appends after this one."""
    kernel_regularizer: Regularizer | None = None
    """Penalty on the kernels."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            setattr(cls, "__init__", _with_named_errors(vars(cls)["__init__"]))  # noqa: B010

    def _bind(self, arrays: Mapping[str, Array], changed: Callable[[], None]) -> None:
        """Make a model's arrays the attributes of these names, and tell it when options change."""
        self.__dict__.update(arrays, _bound=frozenset(arrays), _changed=WeakMethod(changed))

    def _unbind(self) -> None:
        """Forget what a model has bound."""
        for name in (*self.__dict__.get("_bound", ()), "_bound", "_changed"):
            self.__dict__.pop(name, None)

    def _take_copies(self) -> None:
        """Take over the weights and buffers of the layer that this is a copy of."""
        copies = self.__dict__.get("_copies")
        if copies is None:
            return
        shapes = {name: shape for name, (shape, _) in {**self.weights, **self.buffers}.items()}
        found = {name: value.shape for name, value in copies.items()}
        if found != shapes:
            raise ValueError(
                f"{self.label}: it is a copy of a layer with arrays of shapes {found}, expected "
                f"{shapes}; make a new layer to begin anew"
            )
        for name, value in copies.items():
            with self.named():
                assign(name, self.__dict__[name], value)
                check_finite(name, self.__dict__[name])

    if not TYPE_CHECKING:  # to which any attribute could then be set

        def __setattr__(self, name: str, value: Any) -> None:
            # The model and its plans stay with the array that was bound.
            if name not in self.__dict__.get("_bound", ()):
                super().__setattr__(name, value)
                if "_changed" in self.__dict__ and name in _options(type(self)):
                    forget_plans = self._changed()
                    if forget_plans is not None:
                        forget_plans()
            elif value is not self.__dict__[name]:  # as it is after self.w += ...
                with self.named():
                    assign(name, self.__dict__[name], value)

        def __delattr__(self, name: str) -> None:
            if name in self.__dict__.get("_bound", ()):
                raise AttributeError(f"{self.label}: {name} belongs to a model")
            super().__delattr__(name)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Declare the weights with ``add_weight`` and return the output's shape.

        Raises
        ------
        ValueError
            If the layer cannot take this input; the model puts the layer's name before it.
        """
        return input_shape

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Return shape and dtype of each array that the layer needs for n samples.

        Such as what forward keeps for backward. They begin as zeros, and belong to one run.
        """
        return {}

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        """Compute ``out`` (n, *output_shape) from ``x`` (n, *input_shape).

        ``saved`` holds the arrays that ``saved()`` declared, and ``training`` (bool), ``seed``
        (int), ``clock`` ((3,) int64, see ``fastnn.reference.step``) and ``lengths`` ((n,) int32 of
        sequences, or None).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        """Compute the weights' gradients ``self.d*`` and, if it is not None, ``dx``.

        All are fully overwritten. ``out`` is valid only if ``reads_output``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define backward")

    def start_epoch(self, saved: SimpleNamespace) -> None:
        """Prepare ``saved`` before the first step of an epoch: states begin at zero."""
        for state in self.initial_state(saved):
            state.fill(0)

    def update(self, k: ModuleType, x: Array, saved: SimpleNamespace) -> None:
        """Change the buffers, at the end of a training step; carry the state, at that of any."""

    def initial_state(self, saved: SimpleNamespace) -> tuple[Array, ...]:
        """Return those arrays of ``saved`` that ``update`` fills for the next batch."""
        return ()

    def add_weight(self, name: str, shape: tuple[int, ...], initializer: str | Initializer) -> None:
        """Declare a weight, to be ``self.<name>``, with its gradient ``self.d<name>``.

        In a built model to assign to either copies the values, which must have its shape.

        Parameters
        ----------
        name : str
        shape : tuple of int
        initializer : Initializer or str
        """
        self._check_new("weight", name)
        checked = choose(f"initializer of {name}", initializer, Initializer, INITIALIZERS)
        self.weights[name] = (check_shape(f"shape of {name}", shape), checked)

    def add_buffer(self, name: str, shape: tuple[int, ...], value: float) -> None:
        """Declare an array that belongs to the model but is not trained, to be ``self.<name>``.

        It is saved and copied with the weights. In training only ``update`` may change it; to
        assign to it copies the values.

        Parameters
        ----------
        name : str
        shape : tuple of int
        value : float
            To begin with.
        """
        self._check_new("buffer", name)
        value = check_real(f"value of {name}", value)
        self.buffers[name] = (check_shape(f"shape of {name}", shape), value)

    def _check_new(self, kind: str, name: str) -> None:
        declared = {*self.weights, *self.buffers, *(f"d{name}" for name in self.weights)}
        taken = declared | {*dir(Layer), *Layer.__annotations__}
        used = not taken.isdisjoint({name, f"d{name}"} if kind == "weight" else {name})
        if used or callable(getattr(type(self), name, None)) or not name.isidentifier():
            raise ValueError(f"name of a {kind}: got {name!r}, expected a new identifier")

    @property
    def trainable(self) -> bool:
        """Whether ``fit`` changes the weights.

        Raises
        ------
        TypeError
            If it is set to anything but True or False.
        """
        trainable: bool = self.__dict__.get("_trainable", True)
        return trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        with self.named():
            self._trainable = check_flag("trainable", value)

    @property
    def weights(self) -> dict[str, tuple[tuple[int, ...], Initializer]]:
        """Shape and initializer of each declared weight."""
        declared: dict[str, tuple[tuple[int, ...], Initializer]]
        declared = self.__dict__.setdefault("_weights", {})
        return declared

    @property
    def buffers(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape and first value of each declared buffer."""
        declared: dict[str, tuple[tuple[int, ...], float]]
        declared = self.__dict__.setdefault("_buffers", {})
        return declared

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer; in a model, activations are layers."""
        options = super().config()
        if hasattr(self, "index"):
            options.pop("activation", None)
        return options

    def __getstate__(self) -> dict[str, Any]:
        if not hasattr(self, "index"):
            return self.__dict__
        # Weights are views of the model's vectors, which a copy would cut.
        bound = self.__dict__.get("_bound", ())
        dropped = {"_weights", "_buffers", "index", "activation", "input_shape", "output_shape"}
        dropped |= {"_bound", "_changed", *bound}
        state = {key: value for key, value in self.__dict__.items() if key not in dropped}
        kept = [name for name in (*self.weights, *self.buffers) if name in bound]
        return state | (
            {"_copies": {name: self.__dict__[name].copy() for name in kept}} if kept else {}
        )

    @property
    def label(self) -> str:
        """Index, if it is in a model, and name, as errors show them."""
        name = type(self).__name__
        return f"layer {self.index} ({name})" if hasattr(self, "index") else name

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the label before the message of a ValueError or TypeError, unless it is there."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if str(error).startswith(self.label):
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            named = kind(f"{self.label}: {error}")
            raise named.with_traceback(error.__traceback__) from error.__cause__


@cache
def _options(layer: type[Layer]) -> frozenset[str]:
    """Return the names of the options of a class and of those that it is made of."""
    inits = [vars(one)["__init__"] for one in layer.__mro__[:-1] if "__init__" in vars(one)]
    return frozenset(name for init in inits for name in inspect.signature(init).parameters)


def _with_named_errors(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def named_init(self: Layer, *args: Any, **kwargs: Any) -> None:
        with self.named():
            init(self, *args, **kwargs)

    return named_init
