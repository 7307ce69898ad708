"""Owns models as files: layers and options as JSON, weights as arrays, and the way back.

Leaves the bytes to ``files``, and the state of a training to ``checkpoint``.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastnn.checks import Array, check_finite, check_integer, check_shape
from fastnn.component import Component
from fastnn.files import TRAINING, FileFormatError, TensorFile, parse, write
from fastnn.initializers import Initializer
from fastnn.layers import Layer
from fastnn.losses import Loss
from fastnn.model import Sequential
from fastnn.regularizers import Regularizer

__all__ = ["describe", "finite_weights", "load", "save"]

_KINDS = (Layer, Initializer, Loss, Regularizer)


@functools.cache
def _public() -> dict[str, type[Component]]:
    """Return the classes that a file may name: nothing else is ever looked up."""
    import fastnn

    found = {name: getattr(fastnn, name) for name in fastnn.__all__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, _KINDS) and value not in _KINDS
    }


def _encode(name: str, value: object) -> Any:
    """Return an option as JSON knows it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (tuple, list)):
        return [_encode(name, item) for item in value]
    if isinstance(value, np.dtype):
        return value.name
    if not isinstance(value, Component):
        raise TypeError(
            f"{name}: got {value!r:.60}, a file can hold numbers, strings, None, lists, layers, "
            "initializers, losses and regularizers"
        )
    kind = type(value)
    if _public().get(kind.__name__, kind) is not kind:
        raise ValueError(f"{name}: {kind.__name__} is the name of a fastnn class; rename yours")
    config = value.config()
    made = (
        inspect.signature(kind.__init__).parameters if kind.__init__ is not object.__init__ else ()
    )
    for option in list(made)[1:]:
        if not hasattr(value, option):
            raise ValueError(
                f"{name}: {kind.__name__} does not keep its argument as self.{option}, so a file "
                "cannot make it again"
            )
    return {
        "class": kind.__name__,
        "config": {key: _encode(f"{name}: {key}", item) for key, item in config.items()},
    }


def _decode(value: Any, known: Mapping[str, type[Component]]) -> Any:
    """Return the option that JSON stands for."""
    if isinstance(value, list):
        return tuple(_decode(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    if set(value) != {"class", "config"} or not isinstance(value["config"], dict):
        raise ValueError(f"got an object with {sorted(value)!r:.60}, expected 'class' and 'config'")
    name, config = value["class"], value["config"]
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"unknown class {name!r:.60}; if it is your own, pass "
            f"custom_objects={{{name!r:.60}: ...}}"
        )
    return known[name](**{key: _decode(item, known) for key, item in config.items()})


def describe(model: Sequential, loss: Loss) -> dict[str, Any]:
    """Return what makes the model again, without its weights, as JSON knows it."""
    names = inspect.signature(Sequential).parameters
    options = {name: getattr(model, name) for name in names if name != "layers"}
    layers = [_encode(layer.label, layer) for layer in model.layers]
    return {
        "layers": layers,
        **{name: _encode(name, value) for name, value in options.items()},
        "loss": _encode("loss", loss),
    }


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model to a file; see ``Sequential.save``."""
    description = describe(model, model._loss) | {"streams": model._streams}
    write(path, finite_weights(model), json.dumps(description))


def finite_weights(model: Sequential) -> dict[str, Array]:
    """Return the weights, as views, after a check that they are finite."""
    weights = model.arrays()
    for name, weight in weights.items():
        check_finite(f"weight {name}", weight)
    return weights


def load(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, type[Component]] | None = None
) -> Sequential:
    """Read a model from a file that ``Sequential.save`` or a checkpoint of ``fit`` wrote.

    The file may come from anyone: it is data, from which no code is run, and nothing is allocated
    that the file does not hold. Layers are looked up by name among fastnn's own.

    Parameters
    ----------
    path : str or path
    custom_objects : mapping of str to class, optional
        Your own layers, initializers, losses and regularizers, by name.

    Returns
    -------
    Sequential
        With its weights, and the loss for ``evaluate``.

    Raises
    ------
    TypeError
        If an argument is not as above.
    FileFormatError
        If the file is damaged or no model file; a ``ValueError``.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Dense(4, "relu"), fnn.Dense(2)], input_shape=3, seed=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> model.save(path)
    >>> fnn.load(path).layers
    (Dense(4), ReLU(), Dense(2))
    """
    known = _public() | _checked(custom_objects or {})
    with TensorFile(path) as file:
        try:
            description = parse(file.model)
            if not isinstance(description, dict):
                raise ValueError("expected a JSON object")
            if description.get("dtype") not in ("float32", "float64"):  # NumPy knows longer ones
                raise ValueError(f"dtype: got {description.get('dtype')!r:.60}")
            description.pop("training", None)
            streams = check_integer("streams", description.pop("streams"), 0, 2**62)
            options = {name: _decode(value, known) for name, value in description.items()}
            loss, shape = options.pop("loss"), options.pop("input_shape")
            if not isinstance(loss, Loss):
                raise TypeError(f"loss: got {loss!r:.60}")
            model = Sequential(**options)
            model._restore(
                check_shape("input_shape", shape),
                lambda shapes: _check(file, shapes, model.dtype),
                file.read,
            )
            finite_weights(model)
        except (FileFormatError, OSError):
            raise
        except (Exception, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise FileFormatError(f"{file.path}: cannot make its model ({what:.300})") from error
    model._loss, model._streams = loss, streams
    return model


def _checked(custom: Mapping[str, type[Component]]) -> dict[str, type[Component]]:
    if not isinstance(custom, Mapping):
        raise TypeError(f"custom_objects: got {custom!r:.60}, expected a dict of classes")
    for name, kind in custom.items():
        if not isinstance(kind, type) or not issubclass(kind, _KINDS):
            raise TypeError(
                f"custom_objects[{name!r}]: got {kind!r:.60}, expected a class of layers, "
                "initializers, losses or regularizers"
            )
    return dict(custom)


def _check(file: TensorFile, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]) -> None:
    """Check that the file holds these weights, and besides them nothing but a training."""
    file.check(shapes, dtype)
    for name in file.entries:
        if name not in shapes and not name.startswith(TRAINING):
            file.fail(f"array {name!r:.60} belongs to no layer")
