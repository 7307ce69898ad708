"""Report E: MLPs and CNNs on Fashion-MNIST, and MLPs on what the CNNs find.

``--full`` adds CNNs with kernels of 2×2.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from reports import Report, load, one_legend, panels, percent

import fastnn as fnn

NAMES = "top trousers pullover dress coat sandal shirt sneaker bag boot".split()
PATIENCE, MOST_EPOCHS = 5, 200

# hidden layers, activation, dropout, and the report's test accuracy, %
MLPS = (
    ((128,), "relu", 0.2, "88.25"),
    ((128,), "relu", 0, "88.15"),
    ((128,), "gelu", 0.2, "88.35"),
    ((128,), "gelu", 0, "87.87"),
    ((128,), "leaky_gelu", 0.2, "87.96"),
    ((400, 250, 100), "relu", 0.2, "88.55"),
    ((400, 250, 100), "leaky_relu", 0.2, "88.34"),
    ((256, 128), "gelu", 0.2, "88.46"),
)

POOLING = {"max": fnn.MaxPool2D, "average": fnn.AvgPool2D}
FILTERS = {
    "16×5": (16, 16, 16, 16, 16),
    "16…256": (16, 32, 64, 128, 256),
    "32…512": (32, 64, 128, 256, 512),
}
WEIGHTS = {
    "random": fnn.RandomNormal(std=0.05),
    "He": fnn.HeNormal(),
    "Xavier": fnn.GlorotNormal(),
}


@dataclass(frozen=True)
class CNN:
    """A network of five convolutions, and the report's best test accuracy, %."""

    pooling: str
    filters: str
    weights: str
    hidden: int
    said: str
    kernel: int = 3

    def layers(self) -> list[fnn.Layer]:
        """Return the convolutions, each but the last followed by pooling, and a classifier."""
        weights = {"activation": "relu", "kernel_initializer": WEIGHTS[self.weights]}
        plan = FILTERS[self.filters]
        net: list[fnn.Layer] = []
        for i, filters in enumerate(plan):
            net += [fnn.Conv2D(filters, self.kernel, padding="same", **weights)]
            if self.pooling == "global average":  # from the first on, every map is one pixel
                net += [fnn.GlobalAvgPool2D(), fnn.Reshape((1, 1, filters))]
            elif self.pooling == "max, then global":
                net += [fnn.MaxPool2D(2)] if i < 3 else []
            elif i < len(plan) - 1:
                net += [POOLING[self.pooling](2)]
        if self.pooling == "max, then global":
            net += [fnn.GlobalAvgPool2D()]
        return [*net, fnn.Flatten(), fnn.Dense(self.hidden, **weights), fnn.Dense(10)]


CNNS = (
    CNN("max", "16×5", "random", 512, "88.68"),
    CNN("average", "16×5", "random", 512, "83.37"),
    CNN("global average", "16×5", "random", 512, "41.29"),
    CNN("max", "16…256", "random", 512, "91.79"),
    CNN("average", "16…256", "random", 512, "91.42"),
    CNN("global average", "16…256", "random", 512, "67.42"),
    CNN("max", "16…256", "He", 512, "91.69"),
    CNN("average", "16…256", "He", 512, "91.19"),
    CNN("global average", "16…256", "He", 512, "67.61"),
    CNN("max", "16…256", "Xavier", 512, "91.79"),
    CNN("average", "16…256", "Xavier", 512, "91.00"),
    CNN("global average", "16…256", "Xavier", 512, "65.80"),
    CNN("max", "32…512", "random", 1024, "92.37"),
    CNN("max", "32…512", "Xavier", 1024, "92.35", kernel=5),
)
ONCE = CNN("max, then global", "16…256", "He", 512, "—")


class Data:
    """Images and labels to train on, to validate and to test."""

    def __init__(self, images: int | None, seed: int) -> None:
        (x, y), (x_test, self.y_test) = load("fashion_mnist")
        x, x_val, self.y, self.y_val = fnn.datasets.train_test_split(
            x[:images], y[:images], test_size=0.2, seed=seed
        )
        self.x = x, x_val, x_test

    def standardised(self, x: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """Return the three sets as rows of mean 0 and deviation 1."""
        scale = fnn.datasets.Standardize().fit(x[0])
        return [scale.transform(a).reshape(len(a), -1) for a in x]


def train_mlp(x, data: Data, hidden, activation, dropout: float, seed: int, epochs: int):
    """Train an MLP on rows until its validation loss rises; return it and its test accuracy."""
    layers: list[fnn.Layer] = []
    for units in hidden:
        layers += [fnn.Dense(units, activation=activation, kernel_initializer="he_normal")]
        layers += [fnn.Dropout(dropout)] if dropout else []
    model = fnn.Sequential([*layers, fnn.Dense(10)], input_shape=x[0].shape[1], seed=seed)
    stopping = fnn.EarlyStopping(patience=PATIENCE)

    def log(model: fnn.Sequential, history: fnn.History) -> None:
        loss, accuracy, val_loss, val_accuracy = (values[-1] for values in history.values())
        print(
            f"Epoch {history.epochs}/{epochs} | Train Loss {loss:.4f} | Train Acc {accuracy:.4f} | "
            f"Val Loss {val_loss:.4f} | Val Acc {val_accuracy:.4f} | "
            f"Patience: {history.epochs - stopping.best_epoch}/{PATIENCE}",
            flush=True,
        )

    model.fit(
        *(x[0], data.y),
        optimizer=fnn.Adam(0.001),
        epochs=epochs,
        batch_size=64,
        validation_data=(x[1], data.y_val),
        callbacks=[stopping, log],
        verbose=0,
    )
    return model, model.evaluate(x[2], data.y_test)["accuracy"]


def train_cnn(x, data: Data, cnn: CNN, seed: int, epochs: int) -> fnn.Sequential:
    """Train a CNN, and leave the weights of the epoch that validates best."""
    model = fnn.Sequential(cnn.layers(), input_shape=(28, 28, 1), seed=seed)
    steps = epochs * -(-len(x[0]) // 64)
    warm_up = steps // 5
    rate = fnn.WarmUp(warm_up, after=fnn.CosineDecay(steps - warm_up))
    optimizer: fnn.Optimizer = fnn.SGD(0.05, momentum=0.9, schedule=rate)
    if cnn.pooling == "global average":  # where SGD stays at 10 % with small first weights
        optimizer = fnn.Adam(0.002, schedule=rate)
    model.fit(
        *(x[0], data.y),
        optimizer=optimizer,
        epochs=epochs,
        batch_size=64,
        validation_data=(x[1], data.y_val),
        callbacks=[fnn.EarlyStopping("val_accuracy", patience=epochs)],
        verbose=2,
    )
    return model


def main() -> None:
    report = Report("e", "Fashion-MNIST")
    data = Data(12_000 if report.quick else None, report.seed)
    mlp_epochs, cnn_epochs = (3, 2) if report.quick else (MOST_EPOCHS, 10)

    mlps: dict[str, fnn.History] = {}
    rows = data.standardised(data.x)

    def mlp_rows() -> Iterator[dict[str, object]]:
        for hidden, activation, dropout, said in MLPS:
            model, accuracy = train_mlp(
                rows, data, hidden, activation, dropout, report.seed, mlp_epochs
            )
            layers = "-".join(map(str, (784, *hidden, 10)))
            history = mlps[f"{layers}, {activation}, {dropout}"] = model.history
            yield {
                "layers": layers,
                "activation": activation.replace("_", " "),
                "dropout": dropout,
                "report": said,
                "here": percent(accuracy),
                "epochs": history.epochs,
                "s": f"{sum(history.seconds):.1f}",
            }

    report.say(
        f"MLPs on standardised pixels: Adam, rate 0.001, batch 64, at most {mlp_epochs} epochs, "
        f"ended when the validation loss has not fallen for {PATIENCE}, with the weights of the "
        "best. Test accuracy in %, epochs until the end:"
    )
    report.table("accuracy", mlp_rows())
    best = max(mlps, key=lambda name: max(mlps[name]["val_accuracy"]))
    figure, cells = panels(1, 2, width=4.5, height=3)
    for metric, axes in zip(("loss", "accuracy"), cells[0], strict=True):
        fnn.plots.curves(mlps[best], metric, axes)
    report.figure("mlp", figure, f"The MLP that validates best ({best}).")

    pixels = [np.float32(a[..., None] / 127.5 - 1) for a in data.x]
    models: dict[CNN, fnn.Sequential] = {}

    def cnn_rows(cnns: Iterable[CNN]) -> Iterator[dict[str, object]]:
        for cnn in cnns:
            models[cnn] = model = train_cnn(pixels, data, cnn, report.seed, cnn_epochs)
            flat = next(i for i, layer in enumerate(model.layers) if isinstance(layer, fnn.Flatten))
            features = data.standardised([model.features(a, flat) for a in pixels])
            head, accuracy = train_mlp(
                features, data, (cnn.hidden,), "relu", 0.2, report.seed, mlp_epochs
            )
            yield {
                "pooling": cnn.pooling,
                "filters": cnn.filters,
                "kernel": f"{cnn.kernel}×{cnn.kernel}",
                "weights": cnn.weights,
                "hidden": cnn.hidden,
                "report": cnn.said,
                "here": percent(model.evaluate(pixels[2], data.y_test)["accuracy"]),
                "MLP on its features": percent(accuracy),
                "s": f"{sum(model.history.seconds):.1f}",
                "s of the MLP": f"{sum(head.history.seconds):.1f}",
            }

    chosen = [cnn for cnn in CNNS if not (report.quick and cnn.filters == "32…512")]
    more = [ONCE]
    if report.full:
        more += [replace(cnn, kernel=2, said="—") for cnn in CNNS if cnn.weights == "He"]
    report.say(
        f"CNNs on pixels in [-1, 1]: batch 64, {cnn_epochs} epochs, SGD with momentum 0.9; the "
        "rate rises to 0.05 in a fifth of the steps and falls along a cosine. Global averages are "
        "trained by Adam, rate 0.002: SGD finds no way from small random weights. Test accuracy in "
        "%: the report's of the best epoch on the test set, here of the epoch that validates best. "
        "Then that of an MLP (features, hidden, 10) on the outputs of the last convolution:"
    )
    report.table("cnn", cnn_rows(chosen))
    report.say(
        "With global averages in place of every pooling layer, each map is one pixel after the "
        "first convolution: all that is left of an image is the mean of 16 (or 32) filters, and "
        "of each later kernel only the centre meets a pixel. Three times max pooling, and the "
        "global average once, after the last convolution:"
    )
    report.table("more", cnn_rows(more))

    histories = {cnn: model.history for cnn, model in models.items()}
    figure, cells = panels(2, 2, width=4.5, height=2.8)
    for column, plan in zip(cells.T, ("16×5", "16…256"), strict=True):
        runs = {
            cnn.pooling: histories[cnn]
            for cnn in chosen
            if cnn.filters == plan and cnn.weights == "random"
        }
        for metric, axes in zip(("loss", "accuracy"), column, strict=True):
            fnn.plots.curves(runs, metric, axes)
            axes.set(title=f"{plan} filters, random weights")
    one_legend(figure)
    report.figure("cnn", figure, "CNNs by epoch: training solid, validation dashed.")
    figure, cells = panels(1, 1, width=7, height=4.5)
    groups: dict[str, dict[str, float]] = {}
    for cnn in chosen:
        label = f"{cnn.filters}, {cnn.kernel}×{cnn.kernel}, {cnn.weights}"
        groups.setdefault(label, {})[cnn.pooling] = 100 * max(histories[cnn]["val_accuracy"])
    fnn.plots.bars(groups, cells[0, 0])
    cells[0, 0].set(xlabel="best validation accuracy, %")
    report.figure("pooling", figure, "By filters, kernel, first weights and pooling.")
    model = models[CNNS[3]]
    found = model.predict_classes(pixels[2][:14])
    figure = fnn.plots.predictions(data.x[2][:14], data.y_test[:14], found, NAMES, columns=7)
    report.figure("predictions", figure, "What the CNN with max pooling, 16…256, takes images for.")
    report.close()


if __name__ == "__main__":
    main()
