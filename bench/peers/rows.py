"""The workloads: what each row of the table trains or predicts, with its weights, data and costs.

Knows no library; every ``with_*`` module turns these descriptions into its own network.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace

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


Layer = Dense | Activation | Dropout


class UnsupportedError(Exception):
    """This library has no such layer or optimizer: its cell stays empty."""


@dataclass(frozen=True)
class Row:
    """One workload: a net, its batch and its optimizer (None: predict only)."""

    name: str
    inputs: int
    layers: tuple[Layer, ...]
    batch: int
    optimizer: str | None = "sgd"
    lr: float = 0.01

    def without_dropout(self) -> Row:
        """The same row with every dropout rate 0, so that losses can be compared."""
        layers = tuple(Dropout(0.0) if isinstance(x, Dropout) else x for x in self.layers)
        return replace(self, layers=layers)

    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each matrix product, in order."""
        sizes = [self.inputs, *(layer.units for layer in self.layers if isinstance(layer, Dense))]
        return list(itertools.pairwise(sizes))

    def weights(self, seed: int = 0) -> list[np.ndarray]:
        """First ``w`` (I, O) and ``b`` (O,) of each product, float32: Glorot, small biases."""
        rng = np.random.default_rng(seed)
        arrays = []
        for i, o in self.products():
            limit = (6 / (i + o)) ** 0.5
            arrays.append(rng.uniform(-limit, limit, (i, o)).astype(np.float32))
            arrays.append(rng.uniform(-0.05, 0.05, o).astype(np.float32))
        return arrays

    def flops(self) -> float:
        """Multiplications and additions of the products in one step (no dX for the first layer)."""
        products = self.products()
        once = 2.0 * self.batch * sum(i * o for i, o in products)
        if self.optimizer is None:
            return once
        return 3 * once - 2.0 * self.batch * products[0][0] * products[0][1]

    def traffic(self) -> float:
        """Least bytes of weights and optimizer state that one step reads and writes."""
        first, *rest = (4.0 * i * o for i, o in self.products())
        if self.optimizer is None:
            return first + sum(rest)
        forward_update = {"sgd": 3, "adam": 7}[self.optimizer]  # w; w in, w out; m and v in and out
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
    return Row(name, sizes[0], tuple(layers), batch, optimizer, lr)


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
    )
}
# Small enough for the tests, which run every library on them; not part of the table.
SMOKE: dict[str, Row] = {
    row.name: row
    for row in (
        mlp("smoke-sgd", (784, 9, 10), "sigmoid", 5, lr=0.1),
        mlp("smoke-adam", (784, 9, 10), "gelu", 5, "adam", 0.001, dropout=0.2),
        mlp("smoke-predict", (784, 9, 10), "relu", 1, optimizer=None),
    )
}
ALL = ROWS | SMOKE


def pixels_and_labels() -> tuple[np.ndarray, np.ndarray, str]:
    """uint8 pixels (POOL, 784), int32 labels (POOL,) and where they come from.

    MNIST where ``FASTNN_DATA`` is set, else noise with its share of empty pixels (four fifths).
    """
    if os.environ.get("FASTNN_DATA"):
        from fastnn import datasets

        (x, y), _ = datasets.load_mnist()
        x = np.asarray(x)[:POOL].reshape(POOL, -1)
        return np.ascontiguousarray(x), np.asarray(y)[:POOL].astype(np.int32), "MNIST"
    rng = np.random.default_rng(1)
    inked = rng.random((POOL, 784)) < 0.19
    x = (rng.integers(1, 256, (POOL, 784)) * inked).astype(np.uint8)
    return x, rng.integers(0, 10, POOL, dtype=np.int32), "synthetic"


def scaled(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1]."""
    return pixels.astype(np.float32) * np.float32(1 / 255)


def batches(pixels: np.ndarray, labels: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 x (B, batch, 784) and int32 y (B, batch): the batches in order, the rest dropped."""
    count = len(pixels) // batch
    x = scaled(pixels[: count * batch]).reshape(count, batch, -1)
    return x, labels[: count * batch].reshape(count, batch)
