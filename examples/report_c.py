"""Report C: batch, stochastic and mini-batch gradient descent on MNIST, split in three ways.

The network is 784-128-64-10 with all biases 1 at first and small random weights. ``--full`` also
trains the report's mini-batch descent with Adam.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from reports import Report, load, one_legend, panels, percent

import fastnn as fnn

EPOCHS, RATE = 25, 0.01
SPLITS = {"70:30": 0.3, "80:20": 0.2, "90:10": 0.1}  # and the share to test
DESCENTS = {"batch": None, "stochastic": 1, "mini-batch": 24}  # and the batch size
SMALL = fnn.RandomNormal(std=0.01)
PENALTY = fnn.L2(1e-4)

# training / test accuracy, %, without L2
SAID = {
    "70:30": {
        "batch": "11.34 / 11.05",
        "stochastic": "89.76 / 89.14",
        "mini-batch": "94.45 / 93.92",
    },
    "80:20": {
        "batch": "11.23 / 11.36",
        "stochastic": "88.59 / 87.94",
        "mini-batch": "94.35 / 93.94",
    },
    "90:10": {
        "batch": "11.22 / 11.59",
        "stochastic": "90.65 / 90.33",
        "mini-batch": "94.72 / 94.24",
    },
}


class Trained:
    """A network of two hidden layers after its training, and how well it does."""

    def __init__(
        self,
        data: tuple[np.ndarray, ...],
        seed: int,
        epochs: int,
        batch_size: int | None,
        activation: fnn.Layer | str = "relu",
        hidden: tuple[int, int] = (128, 64),
        weights: fnn.Initializer = SMALL,
        optimizer: fnn.Optimizer | None = None,
        penalty: fnn.Regularizer | None = None,
    ) -> None:
        x, x_test, y, self.y_test = data
        first = {"kernel_initializer": weights, "bias_initializer": "ones"}
        layers = [fnn.Dense(units, activation=activation, **first) for units in hidden]
        self.model = fnn.Sequential(
            [fnn.Flatten(), *layers, fnn.Dense(10, **first)], input_shape=(28, 28), seed=seed
        )
        self.history = self.model.fit(
            *(x, y),
            loss=fnn.CrossEntropy(penalty=penalty),
            optimizer=optimizer or fnn.SGD(RATE),
            epochs=epochs,
            batch_size=batch_size,
            validation_data=(x_test, self.y_test),
            verbose=0,
        )
        self.training = self.model.evaluate(x, y)["accuracy"]
        self.found = self.model.predict_classes(x_test)
        self.test = fnn.metrics.accuracy(self.y_test, self.found)

    @property
    def accuracies(self) -> str:
        return f"{percent(self.training)} / {percent(self.test)}"

    @property
    def seconds(self) -> str:
        return f"{sum(self.history.seconds):.1f}"


def splits(seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Return all images of MNIST, split in each way."""
    x, y = (np.concatenate(pair) for pair in zip(*load("mnist"), strict=True))
    return {
        name: fnn.datasets.train_test_split(x, y, test_size=share, seed=seed)
        for name, share in SPLITS.items()
    }


def main() -> None:
    report = Report("c", "gradient descents and splits", seed=29)
    data = splits(report.seed)
    epochs = 5 if report.quick else EPOCHS
    shown = ["90:10"] if report.quick else list(SPLITS)

    runs: dict[tuple[str, str, fnn.L2 | None], Trained] = {}

    def descents() -> Iterator[dict[str, object]]:
        for split, descent, penalty in product(shown, DESCENTS, (None, PENALTY)):
            run = Trained(data[split], report.seed, epochs, DESCENTS[descent], penalty=penalty)
            runs[split, descent, penalty] = run
            yield {
                "split": split,
                "descent": descent,
                "penalty": "L2" if penalty else "—",
                "report": SAID[split][descent],
                "here": run.accuracies,
                "s": run.seconds,
            }

    report.say(
        "784-128-64-10, ReLU; biases start at 1, weights at random ones of deviation 0.01; rate "
        f"{RATE}, {epochs} epochs; L2 is 0.0001 times the sum of squares. Training / test accuracy "
        "in %; the report's is without L2:"
    )
    report.table("accuracy", descents())
    parameters = next(iter(runs.values())).model.n_parameters
    report.say(
        f"The network has {parameters:,} parameters, as in the report. Batch descent makes "
        f"{epochs} steps in as many epochs. They do little more than move the last biases: it "
        "takes every image for a 1, the most frequent digit (11.25 %). With Adam and He's weights "
        "as few steps are enough to learn, as below, where the report's bonus stands, too:"
    )

    split = shown[-1]
    he, xavier = fnn.HeNormal(), fnn.GlorotNormal()
    variants = [
        ("relu", "He", he, "mini-batch", fnn.SGD(RATE), "~94"),
        ("sigmoid", "Xavier", xavier, "mini-batch", fnn.SGD(RATE), "~81"),
        ("tanh", "Xavier", xavier, "mini-batch", fnn.SGD(RATE), "~93"),
        ("relu", "He", he, "batch", fnn.Adam(0.01), "—"),
    ]
    if report.full:
        steps = epochs * -(-len(data[split][0]) // 24)
        adam = fnn.Adam(0.001, schedule=fnn.CosineDecay(steps))
        variants.append(("relu", "He", he, "mini-batch", adam, "—"))

    def bonus() -> Iterator[dict[str, object]]:
        for activation, name, weights, descent, optimizer, said in variants:
            run = Trained(
                data[split],
                report.seed,
                epochs,
                DESCENTS[descent],
                activation=activation,
                weights=weights,
                optimizer=optimizer,
            )
            yield {
                "split": split,
                "activation": activation,
                "weights": name,
                "descent": f"{descent}, {type(optimizer).__name__}",
                "report": said,
                "here": run.accuracies,
                "s": run.seconds,
            }

    report.table("weights", bonus())

    for penalty, suffix, words in ((None, "", "without"), (PENALTY, "-l2", "with")):
        figure, cells = panels(2, len(DESCENTS), width=3, height=2.3)
        for metric, row in zip(("loss", "accuracy"), cells, strict=True):
            for axes, descent in zip(row, DESCENTS, strict=True):
                histories = {split: runs[split, descent, penalty].history for split in shown}
                fnn.plots.curves(histories, metric, axes)
                axes.set(title=descent)
        one_legend(figure)
        caption = f"By epoch, {words} L2: training solid, test dashed, a colour for each split."
        report.figure(f"curves{suffix}", figure, caption)
        figure, cells = panels(len(shown), len(DESCENTS), width=3.4, height=3.4)
        for row, split in zip(cells, shown, strict=True):
            for axes, descent in zip(row, DESCENTS, strict=True):
                run = runs[split, descent, penalty]
                matrix = fnn.metrics.confusion_matrix(run.y_test, run.found, 10)
                fnn.plots.confusion_matrix(matrix, ax=axes)
                axes.set(title=f"{descent}, {split}: {percent(run.test)} %")
        report.figure(f"confusions{suffix}", figure, f"Confusions of the test images, {words} L2.")
    report.close()


if __name__ == "__main__":
    main()
