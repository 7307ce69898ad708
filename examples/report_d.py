"""Report D: four activations, two widths and three splits on MNIST, and what is confused most.

The networks start with all biases 1, as report C's, but with Xavier's weights. ``--full`` trains
the wider ones on all splits, too.
"""

from collections.abc import Iterator
from itertools import product

from report_c import SPLITS, Trained, splits
from reports import Report, panels, percent

import fastnn as fnn

BATCH, EPOCHS = 22, 25
ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "ReLU": "relu", "leaky ReLU": "leaky_relu"}

# test loss / accuracy, %
SAID = {
    ("tanh", "90:10"): "0.56 / 83.13",
    ("tanh", "80:20"): "0.58 / 83.5",
    ("tanh", "70:30"): "0.63 / 81.50",
    ("ReLU", "90:10"): "0.53 / 86.88",
    ("ReLU", "80:20"): "0.44 / 87.89",
    ("ReLU", "70:30"): "0.49 / 87.38",
}


def main() -> None:
    report = Report("d", "activations and widths", seed=52)
    data = splits(report.seed)
    epochs = 5 if report.quick else EPOCHS
    first = "90:10"
    networks = [(split, (128, 64)) for split in ([first] if report.quick else SPLITS)]
    networks += [(split, (256, 256)) for split in (SPLITS if report.full else [first])]

    runs: dict[tuple[str, str, tuple[int, int]], Trained] = {}

    def rows() -> Iterator[dict[str, object]]:
        for (split, hidden), (name, activation) in product(networks, ACTIVATIONS.items()):
            run = Trained(
                data[split],
                report.seed,
                epochs,
                BATCH,
                activation=activation,
                hidden=hidden,
                weights=fnn.GlorotNormal(),
            )
            runs[name, split, hidden] = run
            yield {
                "hidden": "-".join(map(str, hidden)),
                "activation": name,
                "split": split,
                "report": SAID.get((name, split), "—") if hidden == (128, 64) else "—",
                "here": f"{run.history['val_loss'][-1]:.2f} / {percent(run.test)}",
                "s": run.seconds,
            }

    report.say(
        f"Batch {BATCH}, rate 0.01, {epochs} epochs, biases 1, Xavier's weights. Test loss / "
        "accuracy in %. The report does not say its first weights; from these, networks learn more "
        "than it found."
    )
    report.table("accuracy", rows())

    figure, cells = panels(1, 2, width=4.5, height=3.5)
    histories = {name: runs[name, first, (128, 64)].history for name in ACTIVATIONS}
    for axes, metric in zip(cells[0], ("loss", "accuracy"), strict=True):
        fnn.plots.curves(histories, metric, axes)
    caption = f"128-64, {first}, by epoch: training solid, test dashed."
    report.figure("curves", figure, caption)
    figure, cells = panels(2, 2, width=3.6, height=3.6)
    for axes, name in zip(cells.flat, ACTIVATIONS, strict=True):
        run = runs[name, first, (128, 64)]
        matrix = fnn.metrics.confusion_matrix(run.y_test, run.found, 10)
        fnn.plots.confusion_matrix(matrix, ax=axes)
        worst = fnn.metrics.frequent_confusions(run.y_test, run.found, 3)
        axes.set_title(f"{name}: {', '.join(worst)}", fontsize="medium")
    caption = "Confusions of the test images, and the most frequent (the report: 4→9, 3→5, 8→5)."
    report.figure("confusions", figure, caption)
    report.close()


if __name__ == "__main__":
    main()
