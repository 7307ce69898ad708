"""The rows in fastnn: whole epochs of a recorded plan (or eager steps) over the uint8 pixels.

Unlike the peers, whose batches lie ready as float32, its step itself fetches the batch through the
shuffled order of the rows and scales the pixels; ``predict`` takes and returns NumPy arrays.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import numpy as np

import fastnn as fnn
from bench.peers.rows import (
    Activation,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    Recurrent,
    Row,
    UnsupportedError,
)
from fastnn import backend
from fastnn.samples import Data
from fastnn.trainer import Trainer

COMPILED = backend.compiled
fnn.set_num_threads(int(os.environ.get("FASTNN_NUM_THREADS", fnn.get_num_threads())))
VERSION = f"{fnn.__version__} ({'reference' if COMPILED is None else COMPILED.get_isa()})"


def network(row: Row, weights: list[np.ndarray]) -> fnn.Sequential:
    layers: list[fnn.Layer] = []
    for layer in row.layers:
        match layer:
            case Dense(units):
                layers.append(fnn.Dense(units))
            case Activation("relu"):
                layers.append(fnn.ReLU())
            case Activation("sigmoid"):
                layers.append(fnn.Sigmoid())
            case Activation("gelu"):
                layers.append(fnn.GELU())
            case Dropout(rate):
                layers.append(fnn.Dropout(rate))
            case Conv(filters, kernel, stride, padding):
                layers.append(fnn.Conv2D(filters, kernel, stride, padding))
            case ConvTranspose(filters, kernel, stride, padding, more):
                layers.append(fnn.ConvTranspose2D(filters, kernel, stride, padding, more))
            case MaxPool(size):
                layers.append(fnn.MaxPool2D(size))
            case Flatten():
                layers.append(fnn.Flatten())
            case Recurrent("rnn", units):
                layers.append(fnn.RNN(units))
            case Recurrent("lstm", units):
                layers.append(fnn.LSTM(units))
            case Recurrent("gru", units):
                layers.append(fnn.GRU(units, use_bias=False))
            case _:
                raise UnsupportedError(f"fastnn: {layer}")
    model = fnn.Sequential(layers, input_shape=row.shape, seed=0)
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model


def training(
    row: Row,
    weights: list[np.ndarray],
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    eager: bool = False,
    fuse: bool = True,
    shuffle: bool = True,
) -> Trainer:
    """What ``fit`` makes, over as many whole batches as the samples give."""
    kinds = {"sgd": fnn.SGD, "rmsprop": fnn.RMSProp, "adam": fnn.Adam}
    squares = row.loss == "mse"
    samples = len(pixels) // row.batch * row.batch
    return Trainer(
        network(row, weights),
        Data(
            pixels[:samples],
            1 / 255,
            pixels[:samples] if squares else labels[:samples],
            1 / 255 if squares else 1.0,
        ),
        fnn.MeanSquaredError() if squares else fnn.CrossEntropy(),
        kinds[str(row.optimizer)](row.lr),
        batch_size=row.batch,
        shuffle=shuffle,
        eager=eager,
        fuse=fuse,
    )


def stepper(trainer: Trainer) -> Callable[[int], float]:
    """Function that makes a number of steps, in whole epochs and the beginning of one more."""
    epochs = itertools.count()

    def run(steps: int) -> float:
        whole, rest = divmod(steps, trainer.batches)
        for _ in range(whole):
            trainer.run_epoch(next(epochs))
        trainer.clock[0] = trainer.clock[2] = 0
        while rest:
            if trainer.plan is None:
                trainer.step(trainer.workspace)
                rest -= 1
            else:
                rest -= trainer.plan.replay(rest)
        return float(trainer.losses[max(0, int(trainer.clock[2]) - 1)])

    trainer.run_epoch(next(epochs))  # sets the learning rate, once for all
    return run


def losses(
    row: Row,
    weights: list[np.ndarray],
    pixels: np.ndarray,
    labels: np.ndarray,
    count: int,
    eager: bool = False,
) -> list[float]:
    """The first losses with the rows in order."""
    rows = slice(count * row.batch)
    trainer = training(row, weights, pixels[rows], labels[rows], eager=eager, shuffle=False)
    trainer.run_epoch()
    return [float(loss) for loss in trainer.losses]


def trainer(
    row: Row,
    weights: list[np.ndarray],
    pixels: np.ndarray,
    labels: np.ndarray,
    eager: bool = False,
) -> Callable[[int], float]:
    return stepper(training(row, weights, pixels, labels, eager=eager))


def predictor(
    row: Row, weights: list[np.ndarray], x: np.ndarray, eager: bool = False
) -> Callable[[int], np.ndarray]:
    if eager:
        raise UnsupportedError("fastnn: predict has no eager form")
    model = network(row, weights)
    x = x.reshape(-1, *row.shape)

    def run(calls: int) -> np.ndarray:
        for _ in range(calls):
            out = model.predict(x)
        return out

    return run
