"""The rows in JAX: the whole step is one jitted function that donates its parameters and state.

Threads come from the environment that the worker was started with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    batches,
)

VERSION = jax.__version__


def convolution(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, int],
    padding: int | tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
    sides = (padding, padding) if isinstance(padding, int) else padding
    return jax.lax.conv_general_dilated(
        x, w, stride, [sides] * 2, dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def last_state(cell: str, x: jax.Array, arrays: Iterator[jax.Array]) -> jax.Array:
    """The recurrences of PyTorch, all products with the inputs first."""
    wx, wh = next(arrays), next(arrays)
    z = x.swapaxes(0, 1) @ wx + (0 if cell == "gru" else next(arrays))
    h = jnp.zeros((len(x), len(wh)))

    def rnn(h: Any, z: jax.Array) -> Any:
        return jnp.tanh(z + h @ wh), None

    def lstm(state: Any, z: jax.Array) -> Any:
        h, c = state
        i, f, g, o = jnp.split(z + h @ wh, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    def gru(h: Any, z: jax.Array) -> Any:
        (r, u, n), (hr, hu, hn) = jnp.split(z, 3, axis=1), jnp.split(h @ wh, 3, axis=1)
        r, u = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(u + hu)
        return (1 - u) * jnp.tanh(n + r * hn) + u * h, None

    if cell == "lstm":
        return jax.lax.scan(lstm, (h, h), z)[0][0]
    return jax.lax.scan(rnn if cell == "rnn" else gru, h, z)[0]


def forward(row: Row, weights: list[jax.Array], x: jax.Array, key: Any) -> jax.Array:
    arrays = iter(weights)
    x = x.reshape(len(x), *row.shape)
    for layer in row.layers:
        match layer:
            case Dense():
                x = x @ next(arrays) + next(arrays)
            case Conv(_, _, stride, padding):
                x = convolution(x, next(arrays), (stride, stride), padding) + next(arrays)
            case ConvTranspose(_, kernel, stride, padding, more):
                w = next(arrays).transpose(0, 1, 3, 2)[::-1, ::-1]
                sides = (kernel - 1 - padding, kernel - 1 - padding + more)
                x = convolution(x, w, (1, 1), sides, (stride, stride)) + next(arrays)
            case MaxPool(size):
                window = (1, size, size, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
            case Flatten():
                x = x.reshape(len(x), -1)
            case Recurrent(cell, _):
                x = last_state(cell, x, arrays)
            case Activation("relu"):
                x = jax.nn.relu(x)
            case Activation("sigmoid"):
                x = jax.nn.sigmoid(x)
            case Activation("gelu"):
                x = jax.nn.gelu(x, approximate=False)
            case Dropout(rate):
                if rate and key is not None:
                    key, here = jax.random.split(key)
                    keep = jax.random.bernoulli(here, 1 - rate, x.shape)
                    x = jnp.where(keep, x / (1 - rate), 0)
            case _:
                raise UnsupportedError(f"jax: {layer}")
    return x


def trainer(
    row: Row, weights: list[np.ndarray], pixels: np.ndarray, labels: np.ndarray
) -> Callable[[int], float]:
    x, y = batches(pixels, labels, row.batch)
    xs, ys = [jnp.asarray(a) for a in x], [jnp.asarray(a) for a in y]
    dropout = any(isinstance(layer, Dropout) and layer.rate for layer in row.layers)
    adam = row.optimizer == "adam"
    values = [jnp.asarray(w) for w in weights]
    zeros = [] if row.optimizer == "sgd" else [jnp.zeros_like(w) for w in values]
    key = jax.random.key(0, impl="rbg") if dropout else None  # faster than the default threefry
    state: Any = (values, zeros, [z.copy() for z in zeros], jnp.zeros((), jnp.int32), key)
    done = 0

    def loss_of(w: list[jax.Array], x: jax.Array, y: jax.Array, key: Any) -> jax.Array:
        out = forward(row, w, x, key)
        if row.loss == "mse":
            return jnp.mean((out.reshape(x.shape) - x) ** 2)
        logs = jax.nn.log_softmax(out)
        return -jnp.take_along_axis(logs, y[:, None], 1).mean()

    def step(state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        w, m, v, t, key = state
        here = None
        if dropout:
            key, here = jax.random.split(key)
        loss, g = jax.value_and_grad(loss_of)(w, x, y, here)
        if adam:
            t = t + 1
            m = [a + 0.1 * (b - a) for a, b in zip(m, g, strict=True)]
            v = [a + 0.001 * (b * b - a) for a, b in zip(v, g, strict=True)]
            scale1, scale2 = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
            w = [
                p - row.lr * (scale1 * a) / (jnp.sqrt(scale2 * b) + 1e-8)
                for p, a, b in zip(w, m, v, strict=True)
            ]
        elif row.optimizer == "rmsprop":
            v = [a + 0.1 * (b * b - a) for a, b in zip(v, g, strict=True)]
            w = [p - row.lr * b / (jnp.sqrt(a) + 1e-7) for p, a, b in zip(w, v, g, strict=True)]
        else:
            w = [p - row.lr * a for p, a in zip(w, g, strict=True)]
        return (w, m, v, t, key), loss

    jitted = jax.jit(step, donate_argnums=0)

    def run(steps: int) -> float:
        nonlocal done, state
        for _ in range(steps):
            state, loss = jitted(state, xs[done % len(xs)], ys[done % len(ys)])
            done += 1
        return float(loss)

    return run


def predictor(row: Row, weights: list[np.ndarray], x: np.ndarray) -> Callable[[int], np.ndarray]:
    values = [jnp.asarray(w) for w in weights]
    sample = jnp.asarray(x)
    jitted = jax.jit(lambda w, x: forward(row, w, x, None))

    def run(calls: int) -> np.ndarray:
        for _ in range(calls):
            out = jitted(values, sample).block_until_ready()
        return np.asarray(out)

    return run
