"""Owns the file from which a run goes on: the model, and the state of everything that decides bits.

Leaves the bytes to ``files``, the model's part to ``saving``, and when to save to ``run``.
"""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.callbacks import Callback
from fastnn.checks import Array, check_integer, check_real
from fastnn.files import (
    TRAINING,
    FileFormatError,
    TensorFile,
    check_folder,
    parse,
    to_path,
    write,
)
from fastnn.history import History
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.samples import Data

if TYPE_CHECKING:
    from fastnn.model import Sequential

__all__ = ["Checkpoint"]

_SHARE = 10
"""Saving takes at most one in so many seconds."""


class Checkpoint:
    """The state of one run, and its file.

    Parameters
    ----------
    path : str or path
    model : Sequential
        Built.
    loss : Loss
    optimizer : Optimizer
    history : History
    callbacks : sequence of Callback

    Attributes
    ----------
    over : bool
        The run that wrote the file was ended by a callback.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        history: History,
        callbacks: Sequence[Callback],
    ) -> None:
        self.path = to_path(path)
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.history, self.callbacks = history, callbacks
        self.over = False
        self._settings: dict[str, str] = {}
        self._lr = 0.0  # with which the run began
        self._next = 0.0

    def restore(self, data: Data, held: Data | None, options: Mapping[str, object]) -> None:
        """Take over what the file holds; where there is no file, the run begins.

        Parameters
        ----------
        data, held : Data
            To train on, and to validate with.
        options : mapping of str to object
            What else decides the bits.

        Raises
        ------
        ValueError
            If the file is of another run; nothing is changed then.
        FileFormatError
            If the file is damaged, or a model file without a training.
        """
        self._settings = {
            "data": _shown(data),
            "validation_data": _shown(held),
            "callbacks": _shown([type(one).__name__ for one in self.callbacks]),
            **{f"callbacks[{i}]": _made(one) for i, one in enumerate(self.callbacks)},
            **{name: _shown(value) for name, value in options.items()},
        }
        self._began(self.optimizer.lr)
        try:
            file = TensorFile(self.path)
        except FileNotFoundError:
            check_folder(self.path)
            return
        with file:
            try:
                found = parse(file.model)
                if "training" not in found:
                    raise FileFormatError(
                        f"{self.path}: no checkpoint of a training that can go on, but a model, as "
                        "model.save writes it; give another path"
                    )
                training = found.pop("training")
                if training["parts"]["optimizer"]["lr"] == self.optimizer.lr:
                    self._began(training["lr"])  # a callback has set the rate of this very object
                self._compare(found, training["settings"])
                arrays = {name: np.empty(e.shape, e.dtype) for name, e in file.entries.items()}
                file.read(arrays)
                self._take(training, arrays, found)
            except FileFormatError:
                raise
            except _OtherRunError as error:
                raise ValueError(str(error)) from None
            except (Exception, RecursionError) as error:
                what = f"{type(error).__name__}: {error}"
                raise FileFormatError(
                    f"{self.path}: no checkpoint of a training that can go on ({what:.300})"
                ) from error

    def _began(self, lr: object) -> None:
        """Note the rate with which the run began, and the optimizer as it was."""
        optimizer = copy.copy(self.optimizer)
        optimizer.lr = self._lr = check_real("lr", lr, 0, open_low=True)
        self._settings["optimizer"] = _shown(optimizer)

    def _compare(self, found: dict[str, Any], settings: dict[str, str]) -> None:
        """Check that the file is of this run."""
        mine = self._described()
        if self.model._drawn:
            mine["seed"] = check_integer("seed", found["seed"], 0, 2**64 - 1)
        for theirs, ours in ((found, mine), (settings, self._settings)):
            for name in ours:
                was, now = theirs[name], ours[name]
                if was != now:
                    difference = "" if isinstance(now, (list, dict)) else f": {was}, here {now}"
                    raise _OtherRunError(
                        f"checkpoint: the run in {self.path} has other {name}{difference}; give "
                        "another path, or remove the file"
                    )

    def _described(self) -> dict[str, Any]:
        from fastnn.saving import describe

        return describe(self.model, self.loss)

    def _take(
        self, training: dict[str, Any], arrays: dict[str, Array], found: dict[str, Any]
    ) -> None:
        """Set model, optimizer, history and callbacks."""
        parts: dict[str, dict[str, Any]] = training["parts"]
        weights = {}
        for name, array in arrays.items():
            _, part, key = (*name.split("/", 2), "", "")[:3]
            if part in parts:
                parts[part][key] = array
            else:
                weights[name] = array
        model, optimizer, own = self.model, self.optimizer, parts["optimizer"]
        state = optimizer.state(model)
        step = check_integer("step", own["step"], 0, 2**62)
        epoch = check_integer("epoch", own["epoch"], 0, 2**62)
        stream = check_integer("stream", own["stream"], 0, 2**62)
        streams = check_integer("streams", found["streams"], 0, 2**62)
        lr = check_real("lr", own["lr"], 0, open_low=True)
        for name, buffer in state.buffers.items():
            if own[name].shape != buffer.shape:
                raise ValueError(f"{name}: got {own[name].shape}, expected {buffer.shape}")
        model.load_state_dict(weights)
        model.seed, model._streams = found["seed"], max(model._streams, streams)
        for name, buffer in state.buffers.items():
            buffer[:] = own[name]
        state.step, state.epoch, state.stream, optimizer.lr = step, epoch, stream, lr
        self.history.load_state_dict(parts["history"])
        for i, callback in enumerate(self.callbacks):
            callback.load_state_dict(parts[f"callback{i}"])
        self.over = bool(training["over"])

    def save(self, over: bool, last: bool) -> None:
        """Replace the file, unless the last time was too short ago.

        Parameters
        ----------
        over : bool
            A callback ends the run.
        last : bool
            It has all its epochs.

        Raises
        ------
        OSError
            If the file cannot be written; then the older one is as it was.
        """
        began = time.perf_counter()
        if began < self._next and not (over or last):
            return
        from fastnn.saving import finite_weights

        state = self.optimizer.state(self.model)
        own = {name: getattr(state, name) for name in ("step", "epoch", "stream")}
        own["lr"] = check_real("lr", self.optimizer.lr, 0, open_low=True)
        parts: dict[str, dict[str, Any]] = {
            "optimizer": {**own, **state.buffers},
            "history": self.history.state_dict(),
            **{f"callback{i}": one.state_dict() for i, one in enumerate(self.callbacks)},
        }
        try:
            arrays = finite_weights(self.model)
        except ValueError:
            return  # They diverged in the last step, as the next one will say.
        scalars: dict[str, dict[str, Any]] = {}
        for part, values in parts.items():
            scalars[part] = {}
            for name, value in values.items():
                if isinstance(value, (np.ndarray, np.generic)):
                    arrays[f"{TRAINING}{part}/{name}"] = np.asarray(value)
                else:
                    scalars[part][name] = value
        training = {"settings": self._settings, "lr": self._lr, "over": over, "parts": scalars}
        found = {**self._described(), "streams": self.model._streams, "training": training}
        write(self.path, arrays, json.dumps(found))
        ended = time.perf_counter()
        self._next = ended + _SHARE * (ended - began)


class _OtherRunError(Exception):
    """The file is intact, but of another run."""


def _made(callback: Callback) -> str:
    """Return what a callback of fastnn's was made with: its options, but no path or function."""
    kind = type(callback)
    options = callback.config() if kind.__module__ == Callback.__module__ else {}
    kept = {n: value for n, value in options.items() if n != "path" and not callable(value)}
    return f"{kind.__name__}({', '.join(f'{n}={value!r}' for n, value in kept.items())})"


def _shown(value: object) -> str:
    """Return what a setting is, in words that the next process uses as well."""
    if isinstance(value, Data):
        fields = value._asdict().items()
        return ", ".join(
            f"{name} {item.dtype} {item.shape}"
            if isinstance(item, np.ndarray)
            else f"{name} {item}"
            for name, item in fields
        )
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
