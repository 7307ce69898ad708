"""Train a convolutional network on MNIST and draw what it sees.

``--net small`` has two convolutions of 8 and 16 filters, ``--net lenet5`` is LeCun's (1998) with
ReLU and max pooling. report_a.py trains the small one on 1,000 images, as one would without speed.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import fastnn as fnn

NETS = {
    "small": lambda: [
        fnn.Conv2D(8, 3, activation="relu"),
        fnn.MaxPool2D(2),
        fnn.Conv2D(16, 3, activation="relu"),
        fnn.MaxPool2D(2),
        fnn.Flatten(),
        fnn.Dense(64, activation="relu"),
        fnn.Dense(10),
    ],
    "lenet5": lambda: [
        fnn.Conv2D(6, 5, padding=2, activation="relu"),
        fnn.MaxPool2D(2),
        fnn.Conv2D(16, 5, activation="relu"),
        fnn.MaxPool2D(2),
        fnn.Flatten(),
        fnn.Dense(120, activation="relu"),
        fnn.Dense(84, activation="relu"),
        fnn.Dense(10),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--epochs", type=int, help="by default 5, for lenet5 10")
    parser.add_argument("--images", type=int, default=60_000, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/cnn.png"), help="the figure")
    options = parser.parse_args()
    if options.epochs is None:
        options.epochs = {"small": 5, "lenet5": 10}[options.net]
    for name in ("epochs", "images"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: got {getattr(options, name)}, expected a number above 0")
    if not 0 <= options.seed < 2**64:
        parser.error(f"--seed: got {options.seed}, expected 0 to 2**64 - 1")

    (x, y), (x_test, y_test) = fnn.datasets.load_mnist()
    x, y = x[: options.images, :, :, None], y[: options.images]  # one channel
    x_test = x_test[..., None]
    steps = options.epochs * -(-len(x) // 100)

    model = fnn.Sequential(NETS[options.net](), input_shape=(28, 28, 1), seed=options.seed)
    model.summary()
    history = model.fit(
        x,
        y,
        loss="cross_entropy",
        optimizer=fnn.Adam(0.002, schedule=fnn.CosineDecay(steps)),
        epochs=options.epochs,
        batch_size=100,
        validation_data=(x_test, y_test),
    )
    accuracy = model.evaluate(x_test, y_test)["accuracy"]
    print(f"trained for {history.epochs} epochs in {sum(history.seconds):.1f} s")
    print(f"test accuracy {accuracy:.2%}")

    figure = Figure(figsize=(8, 9), layout="constrained")
    curves, predictions, filters, maps = figure.subfigures(4, 1, height_ratios=[6, 4.5, 2.5, 2.5])
    curves.suptitle(f"{options.net}: test accuracy {accuracy:.2%}")
    for axes, metric in zip(curves.subplots(1, 2), ("loss", "accuracy"), strict=True):
        fnn.plots.curves(history, metric, axes)
    found = model.predict_classes(x_test[:20])
    fnn.plots.predictions(x_test[:20], y_test[:20], found, columns=10, figure=predictions)
    fnn.plots.filters(model.layers[0].w, figure=filters)
    filters.suptitle("filters of the first layer", fontsize="medium")
    fnn.plots.feature_maps(model.features(x_test[:1], layer=1), figure=maps)
    maps.suptitle("what they see of the first image", fontsize="medium")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
