"""Train a small network on handwritten digits and draw what it learned: ``make demo``.

This file is a walk through the package, to be read from the top; ``--help`` lists the options.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import fastnn as fnn


def main() -> None:
    options = parse_options()
    options.out.parent.mkdir(parents=True, exist_ok=True)

    title, (x, y), (x_test, y_test), batch_size = load(options.data)
    batch_size = options.batch_size or batch_size
    print(f"data: {title}, {len(x):,} images to train on and {len(x_test):,} to test with")

    model = fnn.Sequential(
        [
            fnn.Flatten(),
            fnn.Dense(128, activation="relu"),
            fnn.Dense(64, activation="relu"),
            fnn.Dense(10),
        ],
        input_shape=x.shape[1:],
        seed=options.seed,
    )
    model.summary()

    # The learning rate falls to 0 in a straight line over all steps.
    steps = options.epochs * -(-len(x) // batch_size)
    history = model.fit(
        x,
        y,
        loss="cross_entropy",
        optimizer=fnn.Adam(0.001, schedule=lambda step: 1 - step / steps),
        epochs=options.epochs,
        batch_size=batch_size,
        validation_data=(x_test, y_test),
    )

    seconds = sum(history.seconds)
    rate = history.epochs * len(x) / seconds
    print(f"trained for {history.epochs} epochs in {seconds:.2f} s: {rate:,.0f} samples/s")
    accuracy = model.evaluate(x_test, y_test)["accuracy"]
    print(f"test accuracy {accuracy:.2%}")

    title = f"{title}: test accuracy {accuracy:.2%}"
    draw(title, history, x_test, y_test, model.predict_classes(x_test), options.out)


def parse_options() -> argparse.Namespace:
    def positive(text: str) -> int:
        if (number := int(text)) < 1:
            raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
        return number

    parser = argparse.ArgumentParser(
        description="Train a small network on handwritten digits and draw what it learned."
    )
    parser.add_argument("--epochs", type=positive, default=12, help="12 by default")
    parser.add_argument("--batch-size", type=positive, help="by default 100, for 8x8 digits 10")
    parser.add_argument("--seed", type=int, default=0, help="0 by default")
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"), help="the figure")
    parser.add_argument(
        "--data",
        choices=["auto", "mnist", "digits"],
        default="auto",
        help="auto, the default: MNIST if it is here or can be downloaded, else 8x8 digits",
    )
    options = parser.parse_args()
    if not 0 <= options.seed < 2**64:
        parser.error(f"--seed: got {options.seed}, expected 0 to 2**64 - 1")
    return options


def load(name: str):
    """Return a title, the training and the test set, and a batch size that suits them."""
    if name != "digits":
        try:
            return "MNIST", *fnn.datasets.load_mnist(), 100
        except fnn.datasets.DataError as error:
            if name == "mnist":
                sys.exit(str(error))
            print(
                "MNIST cannot be loaded (--data mnist says why): "
                "training on scikit-learn's small 8x8 digits instead"
            )
    return "8x8 digits", *fnn.datasets.load_digits(), 10


def draw(
    title: str,
    history: fnn.History,
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    path: Path,
) -> None:
    """Save one figure: the run's curves, some test images, and some that were mistaken."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path} was not drawn: install matplotlib for it (pip install matplotlib)")
        return

    figure = Figure(figsize=(8, 7), layout="constrained")
    curves, first, mistaken = figure.subfigures(3, 1, height_ratios=[6, 4.3, 2.5])

    curves.suptitle(title)
    for axes, metric in zip(curves.subplots(1, 2), ("loss", "accuracy"), strict=True):
        fnn.plots.curves(history, metric, axes)
        axes.legend(["training", "test"], frameon=False)

    def show(part, caption: str, chosen: np.ndarray) -> None:
        fnn.plots.predictions(
            images[chosen], labels[chosen], predicted[chosen], columns=10, figure=part
        )
        part.suptitle(caption, fontsize="medium")

    show(first, "the first test images: predicted label (true label)", np.arange(20))
    wrong = np.flatnonzero(predicted != labels)
    if len(wrong):
        show(mistaken, f"mistaken: {len(wrong)} of {len(labels):,}", wrong[:10])

    figure.savefig(path, dpi=100)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
