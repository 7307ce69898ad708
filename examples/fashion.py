"""Train a network of five convolutions on Fashion-MNIST, in the ways that one would compare.

Pooling, filters, kernel and initial weights are options. ``--features`` then trains another
network on what the last convolution finds, and stops early.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn as fnn

POOLING = {"max": fnn.MaxPool2D, "average": fnn.AvgPool2D}
FILTERS = {"same": [16] * 5, "doubling": [16, 32, 64, 128, 256], "wide": [32, 64, 128, 256, 512]}
INITIALIZERS = {
    "random": fnn.RandomNormal(std=0.05),
    "he": fnn.HeNormal(),
    "glorot": fnn.GlorotNormal(),
}
NAMES = "top trousers pullover dress coat sandal shirt sneaker bag boot".split()


def layers(
    pooling: str,
    filters: list[int],
    kernel: int,
    hidden: int,
    dropout: float,
    init: fnn.Initializer,
):
    """Return five convolutions, each but the last followed by pooling, and two dense layers."""
    net: list[fnn.Layer] = []
    for i, count in enumerate(filters):
        net += [
            fnn.Conv2D(count, kernel, padding="same", activation="relu", kernel_initializer=init)
        ]
        if pooling == "global":  # after the first, every image is a pixel
            net += [fnn.GlobalAvgPool2D(), fnn.Reshape((1, 1, count))]
        elif i < len(filters) - 1:
            net += [POOLING[pooling](2)]
    return [
        *net,
        fnn.Flatten(),
        fnn.Dropout(dropout),
        fnn.Dense(hidden, activation="relu", kernel_initializer=init),
        fnn.Dropout(dropout),
        fnn.Dense(10, kernel_initializer=init),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pooling", choices=[*POOLING, "global"], default="max")
    parser.add_argument("--filters", choices=FILTERS, default="doubling")
    parser.add_argument("--kernel", type=int, choices=[2, 3, 5], default=3)
    parser.add_argument("--init", choices=INITIALIZERS, default="he")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--dropout", type=float, default=0.5, help="around the hidden layer")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=48_000, help="to train on")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fashion.png"), help="the figure")
    options = parser.parse_args()

    (x, y), (x_test, y_test) = fnn.datasets.load_fashion_mnist()
    x, x_test = (a[..., None].astype(np.float32) / 127.5 - 1 for a in (x, x_test))
    x, y = x[: options.images], y[: options.images]
    model = fnn.Sequential(
        layers(
            options.pooling,
            FILTERS[options.filters],
            options.kernel,
            options.hidden,
            options.dropout,
            INITIALIZERS[options.init],
        ),
        input_shape=(28, 28, 1),
        seed=options.seed,
    )
    model.summary()
    steps = options.epochs * -(-len(x) // 64)
    history = model.fit(
        x,
        y,
        loss="cross_entropy",
        optimizer=fnn.Adam(0.001, schedule=fnn.CosineDecay(steps)),
        epochs=options.epochs,
        batch_size=64,
        validation_data=(x_test, y_test),
    )
    accuracy = model.evaluate(x_test, y_test)["accuracy"]
    print(f"trained for {history.epochs} epochs in {sum(history.seconds):.1f} s")
    print(f"test accuracy {accuracy:.2%}")

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    curves, predictions = figure.subfigures(2, 1, height_ratios=[3, 3])
    curves.suptitle(
        f"{options.pooling} pooling, {options.filters} filters, {options.kernel}x{options.kernel}, "
        f"{options.init}: test accuracy {accuracy:.2%}"
    )
    for axes, metric in zip(curves.subplots(1, 2), ("loss", "accuracy"), strict=True):
        fnn.plots.curves(history, metric, axes)
    found = model.predict_classes(x_test[:14])
    fnn.plots.predictions(x_test[:14], y_test[:14], found, NAMES, columns=7, figure=predictions)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)
    print(f"figure: {options.out}")

    if options.features:
        flat = next(i for i, layer in enumerate(model.layers) if isinstance(layer, fnn.Flatten))
        inputs, inputs_test = model.features(x, flat), model.features(x_test, flat)
        head = fnn.Sequential(
            [fnn.Dense(128, activation="relu"), fnn.Dropout(0.2), fnn.Dense(10)],
            input_shape=inputs.shape[1],
            seed=options.seed,
        )
        tenth = len(x) // 10
        head.fit(
            inputs[tenth:],
            y[tenth:],
            optimizer=fnn.Adam(0.001),
            epochs=50,
            batch_size=64,
            validation_data=(inputs[:tenth], y[:tenth]),
            callbacks=[fnn.EarlyStopping(patience=5)],
        )
        accuracy = head.evaluate(inputs_test, y_test)["accuracy"]
        print(f"on its {inputs.shape[1]} features: test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
