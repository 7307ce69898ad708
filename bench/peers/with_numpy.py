"""The rows in straight-line NumPy, as someone who knows NumPy well would write them by hand.

Products go to NumPy's BLAS; what can be done in place is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers.rows import Activation, Dense, Dropout, Row, UnsupportedError, batches

VERSION = np.__version__


def gelu_parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GELU and its derivative; NumPy has no erf, SciPy's keeps float32."""
    from scipy.special import erf  # type: ignore[import-untyped]

    cdf = np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5)))
    pdf = np.exp(np.float32(-0.5) * x * x) * np.float32((2 * np.pi) ** -0.5)
    return x * cdf, cdf + x * pdf


def forward(
    row: Row, weights: list[np.ndarray], x: np.ndarray, rng: Any
) -> tuple[np.ndarray, list[Any]]:
    """Logits, and for each layer what its backward pass needs."""
    saved: list[Any] = []
    at = 0
    for layer in row.layers:
        match layer:
            case Dense():
                saved.append(x)
                x = x @ weights[at]
                x += weights[at + 1]
                at += 2
            case Activation("relu"):
                np.maximum(x, 0, out=x)
                saved.append(x > 0)
            case Activation("sigmoid"):
                x = 1 / (1 + np.exp(-x))
                saved.append(x * (1 - x))
            case Activation("gelu"):
                x, slope = gelu_parts(x)
                saved.append(slope)
            case Dropout(rate):
                if rate and rng is not None:
                    keep = rng.random(x.shape, np.float32) >= rate
                    scale = keep * np.float32(1 / (1 - rate))
                    x = x * scale
                    saved.append(scale)
                else:
                    saved.append(None)
            case _:
                raise UnsupportedError(f"numpy: {layer}")
    return x, saved


def backward(
    row: Row, weights: list[np.ndarray], d: np.ndarray, saved: list[Any]
) -> list[np.ndarray]:
    """Gradients of the weights, in their order."""
    gradients: list[np.ndarray] = []
    at = len(weights)
    for layer, kept in zip(reversed(row.layers), reversed(saved), strict=True):
        if isinstance(layer, Dense):
            at -= 2
            gradients += [d.sum(0), kept.T @ d]
            if at:
                d = d @ weights[at].T
        elif kept is not None:
            d *= kept
    return gradients[::-1]


def adam(
    lr: float,
    step: int,
    weights: list[np.ndarray],
    gradients: list[np.ndarray],
    moments: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Update in place; the bias corrections are folded into the step size and epsilon."""
    second = (1 - 0.999**step) ** 0.5
    size, eps = np.float32(lr * second / (1 - 0.9**step)), np.float32(1e-8 * second)
    for w, g, (m, v) in zip(weights, gradients, moments, strict=True):
        np.add(m, np.float32(0.1) * (g - m), out=m)
        np.multiply(g, g, out=g)
        np.subtract(g, v, out=g)
        np.multiply(g, np.float32(0.001), out=g)
        np.add(v, g, out=v)
        np.subtract(w, size * m / (np.sqrt(v) + eps), out=w)


def trainer(
    row: Row, weights: list[np.ndarray], pixels: np.ndarray, labels: np.ndarray
) -> Callable[[int], float]:
    xs, ys = batches(pixels, labels, row.batch)
    weights = [w.copy() for w in weights]
    index = np.arange(row.batch)
    rng = np.random.default_rng(0)
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    done = 0

    def run(steps: int) -> float:
        nonlocal done
        for _ in range(steps):
            x, y = xs[done % len(xs)], ys[done % len(ys)]
            done += 1
            z, saved = forward(row, weights, x, rng)
            z -= z.max(1, keepdims=True)
            d = np.exp(z)
            total = d.sum(1, keepdims=True)
            loss = (np.log(total[:, 0]) - z[index, y]).mean()
            d /= total
            d[index, y] -= 1
            d /= row.batch
            gradients = backward(row, weights, d, saved)
            if row.optimizer == "adam":
                adam(row.lr, done, weights, gradients, moments)
            else:
                for w, g in zip(weights, gradients, strict=True):
                    np.multiply(g, np.float32(row.lr), out=g)
                    np.subtract(w, g, out=w)
        return float(loss)

    return run


def predictor(row: Row, weights: list[np.ndarray], x: np.ndarray) -> Callable[[int], np.ndarray]:
    def run(calls: int) -> np.ndarray:
        for _ in range(calls):
            out, _ = forward(row, weights, x, None)
        return out

    return run
