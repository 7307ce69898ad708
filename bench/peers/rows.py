"""The workloads: what each row of the table trains or predicts, with its weights, data and costs.

Knows no library; every ``with_*`` module turns these descriptions into its own network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

POOL = 4096  # samples in memory that the batches cycle through: 13 MB as float32


@dataclass(frozen=True)
class Dense:
    units: int


@dataclass(frozen=True)
class Activation:
    name: str  # relu, sigmoid, gelu (exact)


@dataclass(frozen=True)
class Dropout:
    rate: float


@dataclass(frozen=True)
class Conv:
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class ConvTranspose:
    filters: int
    kernel: int
    stride: int
    padding: int
    output_padding: int


@dataclass(frozen=True)
class MaxPool:
    size: int


@dataclass(frozen=True)
class Flatten:
    pass


@dataclass(frozen=True)
class Recurrent:
    cell: str  # rnn (tanh), lstm, gru (without biases: PyTorch's has more of them)
    units: int  # gives the last state

    @property
    def gates(self) -> int:
        return {"rnn": 1, "lstm": 4, "gru": 3}[self.cell]


Layer = Dense | Activation | Dropout | Conv | ConvTranspose | MaxPool | Flatten | Recurrent
Layers = tuple[Layer, ...]
Shape = tuple[int, ...]


class UnsupportedError(Exception):
    """This library has no such layer or optimizer: its cell stays empty."""


def taps(size: int, windows: int, kernel: int, stride: int, padding: int) -> int:
    """How often the windows along an axis meet a pixel: the padding is nothing to compute."""
    positions = np.arange(windows)[:, None] * stride + np.arange(kernel) - padding
    return int(((positions >= 0) & (positions < size)).sum())


def weight_shapes(layer: Layer, shape: Shape) -> list[Shape]:
    """Shapes of a layer's weights, as fastnn lays them out, on an input of this shape."""
    match layer:
        case Dense(units):
            return [(shape[0], units), (units,)]
        case Conv(filters, kernel):
            return [(kernel, kernel, shape[2], filters), (filters,)]
        case ConvTranspose(filters, kernel):
            return [(kernel, kernel, filters, shape[2]), (filters,)]
        case Recurrent(_, units):
            width = layer.gates * units
            biases = [] if layer.cell == "gru" else [(width,)]
            return [(shape[1], width), (units, width), *biases]
    return []


def after(layer: Layer, shape: Shape) -> Shape:
    """Shape of a layer's output."""
    match layer:
        case Dense(units) | Recurrent(_, units):
            return (units,)
        case Conv(filters, kernel, stride, padding):
            return (*((n + 2 * padding - kernel) // stride + 1 for n in shape[:2]), filters)
        case ConvTranspose(filters, kernel, stride, padding, more):
            return (*((n - 1) * stride - 2 * padding + kernel + more for n in shape[:2]), filters)
        case MaxPool(size):
            return (shape[0] // size, shape[1] // size, shape[2])
        case Flatten():
            return (math.prod(shape),)
    return shape


def multiplications(layer: Layer, shape: Shape) -> tuple[int, int]:
    """Multiplications that a sample needs forward, and how many a first layer is spared back."""
    out = after(layer, shape)
    match layer:
        case Dense(units):
            return shape[0] * units, shape[0] * units
        case Conv(filters, kernel, stride, padding):
            each = [taps(shape[i], out[i], kernel, stride, padding) for i in (0, 1)]
            return (math.prod(each) * shape[2] * filters,) * 2
        case ConvTranspose(filters, kernel, stride, padding):
            each = [taps(out[i], shape[i], kernel, stride, padding) for i in (0, 1)]
            return (math.prod(each) * shape[2] * filters,) * 2
        case Recurrent(_, units):
            width = layer.gates * units
            return shape[0] * (shape[1] + units) * width, shape[0] * shape[1] * width
    return 0, 0


@dataclass(frozen=True)
class Row:
    """One workload: a net, its batch and its optimizer (None: predict only).

    With loss "mse" the targets are the inputs.
    """

    name: str
    shape: Shape
    layers: Layers
    batch: int
    optimizer: str | None = "sgd"
    lr: float = 0.01
    loss: str = "cross_entropy"

    @property
    def inputs(self) -> int:
        return math.prod(self.shape)

    def without_dropout(self) -> Row:
        """The same row with every dropout rate 0, so that losses can be compared."""
        layers = tuple(Dropout(0.0) if isinstance(x, Dropout) else x for x in self.layers)
        return replace(self, layers=layers)

    def walk(self) -> list[tuple[Layer, Shape]]:
        """Each layer with the shape of its input."""
        shapes = [self.shape]
        for layer in self.layers:
            shapes.append(after(layer, shapes[-1]))
        return list(zip(self.layers, shapes, strict=False))

    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each dense layer, in order."""
        return [(shape[0], layer.units) for layer, shape in self.walk() if isinstance(layer, Dense)]

    def weights(self, seed: int = 0) -> list[np.ndarray]:
        """First weights of each layer, float32: Glorot, small biases."""
        rng = np.random.default_rng(seed)
        arrays = []
        for layer, shape in self.walk():
            for size in weight_shapes(layer, shape):
                window = math.prod(size[:-2])
                limit = (6 / (window * sum(size[-2:]))) ** 0.5 if len(size) > 1 else 0.05
                arrays.append(rng.uniform(-limit, limit, size).astype(np.float32))
        return arrays

    def flops(self) -> float:
        """Multiplications and additions of the products in one step (no dX for the first layer)."""
        needed = [multiplications(*item) for item in self.walk()]
        once = 2.0 * self.batch * sum(forward for forward, _ in needed)
        if self.optimizer is None:
            return once
        spared = next(spared for _, spared in needed if spared)
        return 3 * once - 2.0 * self.batch * spared

    def traffic(self) -> float:
        """Least bytes of weights and optimizer state that one step reads and writes."""
        sizes = [weight_shapes(*item) for item in self.walk()]
        first, *rest = (
            4.0 * sum(math.prod(shape) for shape in shapes if len(shape) > 1)
            for shapes in sizes
            if shapes
        )
        if self.optimizer is None:
            return first + sum(rest)
        # w; w in, w out; the state in and out
        forward_update = {"sgd": 3, "rmsprop": 5, "adam": 7}[self.optimizer]
        return forward_update * first + (forward_update + 1) * sum(rest)  # +1: w again for dX


def mlp(
    name: str,
    sizes: tuple[int, ...],
    activation: str,
    batch: int,
    optimizer: str | None = "sgd",
    lr: float = 0.01,
    dropout: float | None = None,
) -> Row:
    """Row of a multilayer perceptron; ``dropout`` follows every hidden activation."""
    layers: list[Layer] = []
    for units in sizes[1:-1]:
        layers += [Dense(units), Activation(activation)]
        if dropout is not None:
            layers.append(Dropout(dropout))
    layers.append(Dense(sizes[-1]))
    return Row(name, (sizes[0],), tuple(layers), batch, optimizer, lr)


def images(name: str, layers: Layers, batch: int, **options: Any) -> Row:
    """Row of a network on MNIST's images, each convolution and hidden dense layer with a ReLU."""
    activated: list[Layer] = []
    for layer in layers:
        activated.append(layer)
        if isinstance(layer, Conv | ConvTranspose | Dense) and layer != layers[-1]:
            activated.append(Activation("relu"))
    return Row(name, (28, 28, 1), tuple(activated), batch, **options)


def sequences(name: str, cell: str, units: int, batch: int = 64, **options: Any) -> Row:
    """Row of a recurrent layer over the rows of MNIST's images."""
    return Row(name, (28, 28), (Recurrent(cell, units), Dense(10)), batch, **options)


ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 0.001}
RMSPROP: dict[str, Any] = {"optimizer": "rmsprop", "lr": 0.001}
CNN_2: Layers = (
    Conv(8, 3),
    MaxPool(2),
    Conv(16, 3),
    MaxPool(2),
    Flatten(),
    Dense(64),
    Dense(10),
)
CNN_5: Layers = (
    *(layer for k in (16, 32, 64, 128) for layer in (Conv(k, 3, 1, 1), MaxPool(2))),
    *(Conv(256, 3, 1, 1), Flatten(), Dense(512), Dense(10)),
)
LENET: Layers = (
    *(Conv(6, 5, 1, 2), MaxPool(2), Conv(16, 5), MaxPool(2), Flatten()),
    *(Dense(120), Dense(84), Dense(10)),
)
AUTOENCODER: Layers = (
    *(Conv(16, 3, 2, 1), Activation("relu"), Conv(32, 3, 2, 1), Activation("relu")),
    *(ConvTranspose(16, 3, 2, 1, 1), Activation("relu")),
    *(ConvTranspose(1, 3, 2, 1, 1), Activation("sigmoid")),
)
SMALL_AUTOENCODER: Layers = (
    Conv(2, 3, 2, 1),
    ConvTranspose(1, 3, 2, 1, 1),
    Activation("sigmoid"),
)

SMALL = (784, 128, 64, 10)
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        mlp("small-24", SMALL, "relu", 24),
        mlp("small-1", SMALL, "relu", 1),
        mlp("wide-20", (784, 256, 128, 10), "relu", 20),
        mlp("sigmoid-64", (784, 500, 250, 100, 10), "sigmoid", 64, lr=0.1),
        mlp("gelu-64", (784, 400, 250, 100, 10), "gelu", 64, "adam", 0.001, dropout=0.2),
        mlp("predict-1", SMALL, "relu", 1, optimizer=None),
        images("cnn-2", CNN_2, 20),
        images("cnn-5", CNN_5, 64, **ADAM),
        images("lenet-5", LENET, 128, **ADAM),
        Row("autoencoder", (28, 28, 1), AUTOENCODER, 64, loss="mse", **ADAM),
        images("predict-cnn", CNN_2, 1, optimizer=None),
        sequences("rnn-32", "rnn", 32, **RMSPROP),
        sequences("rnn-128", "rnn", 128, **RMSPROP),
        sequences("lstm-128", "lstm", 128, **ADAM),
        sequences("gru-128", "gru", 128, **ADAM),
        sequences("predict-rnn", "rnn", 32, 1, optimizer=None),
    )
}
# Small enough for the tests, which run every library on them; not part of the table.
SMOKE: dict[str, Row] = {
    row.name: row
    for row in (
        mlp("smoke-sgd", (784, 9, 10), "sigmoid", 5, lr=0.1),
        mlp("smoke-adam", (784, 9, 10), "gelu", 5, "adam", 0.001, dropout=0.2),
        mlp("smoke-predict", (784, 9, 10), "relu", 1, optimizer=None),
        images("smoke-cnn", (Conv(3, 5, 2, 1), MaxPool(4), Flatten(), Dense(10)), 5),
        Row("smoke-autoencoder", (28, 28, 1), SMALL_AUTOENCODER, 5, loss="mse", **ADAM),
        sequences("smoke-rnn", "rnn", 5, 5, **RMSPROP),
        sequences("smoke-lstm", "lstm", 5, 5, **ADAM),
        sequences("smoke-gru", "gru", 5, 5, **ADAM),
    )
}
ALL = ROWS | SMOKE


DATA = ("noise", "mnist", "inverted")


def pixels_and_labels(data: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pixels (POOL, 784) and int32 labels (POOL,) of ``data``, one of ``DATA``.

    The noise has MNIST's share of dark pixels (four fifths), but none that is 0, and neighbours
    that seldom agree: fastnn leaves out such. The inverted digits are dark on a ground of 255.
    """
    if data == "noise":
        rng = np.random.default_rng(1)
        inked = rng.random((POOL, 784)) < 0.19
        x = np.where(inked, rng.integers(1, 256, (POOL, 784)), rng.integers(1, 9, (POOL, 784)))
        return x.astype(np.uint8), rng.integers(0, 10, POOL, dtype=np.int32)
    from fastnn import datasets

    (images, y), _ = datasets.load_mnist()
    x = np.array(images[:POOL]).reshape(POOL, -1)
    return 255 - x if data == "inverted" else x, np.asarray(y)[:POOL].astype(np.int32)


def scaled(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1]."""
    return pixels.astype(np.float32) * np.float32(1 / 255)


def batches(pixels: np.ndarray, labels: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 x (B, batch, 784) and int32 y (B, batch): the batches in order, the rest dropped."""
    count = len(pixels) // batch
    x = scaled(pixels[: count * batch]).reshape(count, batch, -1)
    return x, labels[: count * batch].reshape(count, batch)
