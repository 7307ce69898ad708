"""Train a recurrent network on MNIST, whose images it reads row by row, and draw what it learns.

``--cell`` chooses rnn (tanh), lstm or gru. report_a.py trains 32 tanh units on 1,000 images, as one
would without speed.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

import fastnn as fnn
from fastnn import reference

CELLS = {"rnn": fnn.RNN, "lstm": fnn.LSTM, "gru": fnn.GRU}


def loss_gradient(model: fnn.Sequential, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the gradient of the cross-entropy by the input of the model's last, dense layer."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    gradient: np.ndarray = p @ model.layers[-1].w.T / len(y)
    return gradient


def gradient_norms(recurrent: fnn.Layer, x: np.ndarray, dout: np.ndarray) -> np.ndarray:
    """Return the length of a loss's gradient at each of the T steps of a recurrent layer."""
    kept = {name: np.zeros(*spec) for name, spec in recurrent.saved(len(x), x.dtype).items()}
    saved = SimpleNamespace(**kept, training=True, lengths=None)
    out = np.empty_like(dout)
    recurrent.forward(reference, x, out, saved)
    recurrent.backward(reference, dout, x, out, None, saved)
    norms: np.ndarray = np.sqrt((saved.dz**2).sum(axis=(0, 2)))
    return norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", choices=CELLS, default="rnn")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=60_000, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/rnn.png"), help="the figure")
    options = parser.parse_args()
    for name in ("units", "epochs", "images"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: got {getattr(options, name)}, expected a number above 0")
    if not 0 <= options.seed < 2**64:
        parser.error(f"--seed: got {options.seed}, expected 0 to 2**64 - 1")

    (x, y), (x_test, y_test) = fnn.datasets.load_mnist()
    x, y = x[: options.images], y[: options.images]
    rate = fnn.CosineDecay(options.epochs * -(-len(x) // 64))

    layers = [CELLS[options.cell](options.units), fnn.Dense(10)]
    model = fnn.Sequential(layers, input_shape=(28, 28), seed=options.seed)
    model.summary()

    def gradients_by_step() -> np.ndarray:
        dout = loss_gradient(model, model.predict(x_test[:100]), y_test[:100])
        return gradient_norms(model.layers[0], np.float32(x_test[:100] / 255), dout)

    before = gradients_by_step()
    history = model.fit(
        *(x, y),
        optimizer=fnn.Adam(0.002, schedule=rate, clip_norm=1.0),
        epochs=options.epochs,
        batch_size=64,
        validation_data=(x_test, y_test),
    )
    accuracy = model.evaluate(x_test, y_test)["accuracy"]
    print(f"trained for {history.epochs} epochs in {sum(history.seconds):.1f} s")
    print(f"test accuracy {accuracy:.2%}")

    figure = Figure(figsize=(8, 8), layout="constrained")
    curves, predictions, gradients = figure.subfigures(3, 1, height_ratios=[6, 2.5, 4])
    curves.suptitle(f"{options.cell}, {options.units} units: test accuracy {accuracy:.2%}")
    for axes, metric in zip(curves.subplots(1, 2), ("loss", "accuracy"), strict=True):
        fnn.plots.curves(history, metric, axes)
    chosen = np.random.default_rng(options.seed).choice(len(x_test), 10, replace=False)
    found = model.predict_classes(x_test[chosen])
    fnn.plots.predictions(x_test[chosen], y_test[chosen], found, columns=10, figure=predictions)
    axes = gradients.subplots()
    axes.semilogy(before, ".-", label="before training")
    axes.semilogy(gradients_by_step(), ".-", label="after")
    axes.set(xlabel="step (row of the image)", ylabel="length of the gradient")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
