"""Report A: four networks on 1,000 images of MNIST, and the autoencoder that it only names.

``--full`` also trains them on all 60,000 images, with nothing else changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from autoencoder import autoencoder
from cnn import NETS
from reports import Report, load, one_legend, panels, percent

import fastnn as fnn


@dataclass
class Recipe:
    """A network, how it is trained, and what the report says of it, first epoch → last."""

    layers: Callable[[], list[fnn.Layer]]
    shape: tuple[int, ...]
    optimizer: Callable[[], fnn.Optimizer]
    batch_size: int
    epochs: int
    loss: str
    training: str
    test: str = "—"

    def train(self, x, y, x_test, y_test, seed: int) -> fnn.Sequential:
        model = fnn.Sequential(self.layers(), input_shape=self.shape, seed=seed)
        model.fit(
            x.reshape(-1, *self.shape),
            y,
            optimizer=self.optimizer(),
            epochs=self.epochs,
            batch_size=self.batch_size,
            validation_data=(x_test.reshape(-1, *self.shape), y_test),
            verbose=0,
        )
        return model


def dense(*hidden: int) -> list[fnn.Layer]:
    relu = {"activation": "relu", "kernel_initializer": "he_normal"}
    return [*(fnn.Dense(units, **relu) for units in hidden), fnn.Dense(10)]


RECIPES = {
    "CNN": Recipe(
        *(NETS["small"], (28, 28, 1), lambda: fnn.SGD(0.01), 20, 5),
        *("114.46 → 88.11", "13.8 → 54.4"),
    ),
    "FNN": Recipe(
        *(lambda: dense(128, 64), (784,), lambda: fnn.SGD(0.01), 20, 5),
        *("112.57 → 70.94", "17.2 → 69.1", "76.0"),
    ),
    "MLP": Recipe(
        *(lambda: dense(256, 128), (784,), lambda: fnn.SGD(0.01), 20, 10),
        *("101.81 → 21.99", "30.3 → 89.2", "60.5 → 88.0"),
    ),
    "RNN": Recipe(
        *(lambda: [fnn.RNN(32), fnn.Dense(10)], (28, 28), lambda: fnn.RMSProp(0.001), 64, 20),
        *("1.599 → 1.204", "42.3 → 53.4"),
    ),
}


def split(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """Return of the first 1,200 images 1,000 to train on, their labels, 200 to test and theirs."""
    order = np.random.default_rng(seed).permutation(1200)
    return tuple(a[rows] for rows in (order[:1000], order[1000:]) for a in (x, y))


def compare(name: str, recipe: Recipe, histories: list[fnn.History]) -> list[dict[str, str]]:
    """Return the rows of a network: the first split in full, all splits at the last epoch."""
    summed = 50 if recipe.batch_size == 20 else 1
    rows = []
    for measure, key, factor, digits, said in (
        ("loss", "loss", summed, 2, recipe.loss),
        ("training accuracy, %", "accuracy", 100, 1, recipe.training),
        ("test accuracy, %", "val_accuracy", 100, 1, recipe.test),
    ):
        figures = factor * np.array([history[key] for history in histories])  # (split, epoch)
        last = figures[:, -1]
        mean, deviation = f"{last.mean():.{digits}f}", f"{last.std():.{digits}f}"
        rows.append(
            {
                "network": name,
                "measure": measure,
                "report": said,
                "here": f"{figures[0, 0]:.{digits}f} → {last[0]:.{digits}f}",
                f"last epoch of {len(last)} splits": f"{mean} ± {deviation}",
                "s": f"{sum(histories[0].seconds):.2f}",
            }
        )
    return rows


def main() -> None:
    report = Report("a", "four networks on 1,000 images")
    (x, y), (x_test, y_test) = load("mnist")
    splits = [split(x, y, report.seed + i) for i in range(2 if report.quick else 10)]

    models, rows = {}, []
    for name, recipe in RECIPES.items():
        trained = [recipe.train(*images, report.seed) for images in splits]
        models[name] = trained[0]
        rows += compare(name, recipe, [model.history for model in trained])
    report.table("accuracy", rows)
    report.say(
        "Losses are summed over the 50 batches of an epoch, as in the report; those of the RNN are "
        "means. 200 test images measure an accuracy of 80 % to ± 2.8, hence the column of more "
        "splits."
    )

    few, _, few_test, few_labels = splits[0]
    figure, cells = panels(2, len(models), width=2.3, height=2)
    for metric, row in zip(("loss", "accuracy"), cells, strict=True):
        for axes, (name, model) in zip(row, models.items(), strict=True):
            fnn.plots.curves(model.history, metric, axes)
            axes.set(title=name)
    one_legend(figure)
    report.figure("curves", figure, "By epoch: training solid, test dashed.")
    cnn = models["CNN"]
    found = cnn.predict_classes(few_test[:10, ..., None])
    figure = fnn.plots.predictions(few_test[:10], few_labels[:10], found)
    report.figure("predictions", figure, "What the CNN takes ten test images for.")

    report.say(
        "The report names a convolutional autoencoder among its four networks, but shows none. "
        "Here is one that keeps 32 numbers of each image."
    )
    images, unseen = (np.float32(a[..., None] / 255) for a in (few, few_test))
    model = autoencoder(report.seed)
    history = model.fit(
        *(images, images),
        loss="mse",
        optimizer=fnn.Adam(0.002),
        epochs=5 if report.quick else 30,
        batch_size=20,
        validation_data=(unseen, unseen),
        verbose=0,
    )
    report.say(
        f"Its mean squared error falls from {history['val_loss'][0]:.4f} to "
        f"{history['val_loss'][-1]:.4f} of test images, in {sum(history.seconds):.1f} s."
    )
    made = model.predict(unseen[:10])
    figure = fnn.plots.reconstructions(unseen[:10, ..., 0], made[..., 0])
    report.figure("autoencoder", figure, "Test images, and what the autoencoder makes of them.")

    if report.full:
        report.say("The same recipes on all 60,000 images, tested on the 10,000 of the test set:")
        rows = []
        for name, recipe in RECIPES.items():
            history = recipe.train(x, y, x_test, y_test, report.seed).history
            rows.append(
                {
                    "network": name,
                    "report": recipe.test,
                    "1,000 images": percent(models[name].history["val_accuracy"][-1], 1),
                    "here": percent(history["val_accuracy"][-1]),
                    "s": f"{sum(history.seconds):.1f}",
                }
            )
        report.table("full", rows)
    report.close()


if __name__ == "__main__":
    main()
