"""The rows in scikit-learn's ``MLPClassifier``, where it has the layers.

One call carries as many batches as it can, so that its checks are paid once for many steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from bench.peers.rows import Activation, Dense, Row, UnsupportedError, batches, scaled

VERSION = sklearn.__version__
ACTIVATIONS = {"relu": "relu", "sigmoid": "logistic"}


def classifier(row: Row, weights: list[np.ndarray]) -> MLPClassifier:
    hidden, names = [], set()
    for layer in row.layers[:-1]:
        match layer:
            case Dense(units):
                hidden.append(units)
            case Activation(name) if name in ACTIVATIONS:
                names.add(ACTIVATIONS[name])
            case _:
                raise UnsupportedError(f"scikit-learn: {layer}")
    model = MLPClassifier(
        hidden,
        activation=names.pop(),
        solver=row.optimizer or "sgd",
        alpha=0.0,
        batch_size=row.batch,
        learning_rate_init=row.lr,
        shuffle=False,
        momentum=0.0,
        nesterovs_momentum=False,
    )
    first = np.zeros((row.batch, row.inputs), np.float32)
    model.partial_fit(first, [0] * row.batch, classes=range(10))
    for target, w in zip(model.coefs_, weights[::2], strict=True):
        target[...] = w
    for target, b in zip(model.intercepts_, weights[1::2], strict=True):
        target[...] = b
    del model._optimizer  # its moments saw the call above, which only made the arrays
    return model


def trainer(
    row: Row, weights: list[np.ndarray], pixels: np.ndarray, labels: np.ndarray
) -> Callable[[int], float]:
    model = classifier(row, weights)
    count = len(batches(pixels, labels, row.batch)[0])
    x, y = scaled(pixels[: count * row.batch]), labels[: count * row.batch]
    done = 0

    def run(steps: int) -> float:
        nonlocal done
        while steps:
            first = done % count
            take = min(steps, count - first)
            part = slice(first * row.batch, (first + take) * row.batch)
            model.partial_fit(x[part], y[part])
            done += take
            steps -= take
        return float(model.loss_)

    return run


def predictor(row: Row, weights: list[np.ndarray], x: np.ndarray) -> Callable[[int], np.ndarray]:
    model = classifier(row, weights)

    def run(calls: int) -> np.ndarray:
        for _ in range(calls):
            out = model.predict_proba(x)
        logits: np.ndarray = np.log(out)
        return logits

    return run
