"""Train a convolutional autoencoder on MNIST and draw what it makes of the test images.

Two convolutions of stride 2 and a dense layer squeeze an image into 32 numbers; a dense layer and
two transposed convolutions undo that. With ``--noise 0.5`` it learns to take noise away.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn as fnn

LATENT = 5  # index of the layer with the 32 numbers


def autoencoder(seed: int) -> fnn.Sequential:
    return fnn.Sequential(
        [
            fnn.Conv2D(16, 3, stride=2, padding=1, activation="relu"),
            fnn.Conv2D(32, 3, stride=2, padding=1, activation="relu"),
            fnn.Flatten(),
            fnn.Dense(32),
            fnn.Dense(7 * 7 * 32, activation="relu"),
            fnn.Reshape((7, 7, 32)),
            fnn.ConvTranspose2D(16, 3, stride=2, padding=1, output_padding=1, activation="relu"),
            fnn.ConvTranspose2D(1, 3, stride=2, padding=1, output_padding=1),
            fnn.Sigmoid(),
        ],
        input_shape=(28, 28, 1),
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", choices=["mse", "bce"], default="mse")
    parser.add_argument("--noise", type=float, default=0, help="its standard deviation, 0 to 1")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=60_000, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/autoencoder.png"), help="the figure")
    options = parser.parse_args()
    for name in ("epochs", "images"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: got {getattr(options, name)}, expected a number above 0")
    if not 0 <= options.seed < 2**64:
        parser.error(f"--seed: got {options.seed}, expected 0 to 2**64 - 1")

    (x, _), (x_test, labels) = fnn.datasets.load_mnist()
    x, x_test = (a[..., None].astype(np.float32) / 255 for a in (x[: options.images], x_test))
    rng = np.random.default_rng(options.seed)
    seen, seen_test = (
        np.clip(a + options.noise * rng.standard_normal(a.shape, np.float32), 0, 1)
        for a in (x, x_test)
    )

    model = autoencoder(options.seed)
    model.summary()
    steps = options.epochs * -(-len(x) // 64)
    history = model.fit(
        seen,
        x,
        loss={"mse": "mean_squared_error", "bce": "binary_cross_entropy"}[options.loss],
        optimizer=fnn.Adam(0.002, schedule=fnn.CosineDecay(steps)),
        epochs=options.epochs,
        batch_size=64,
        validation_data=(seen_test, x_test),
    )
    made = model.predict(seen_test)
    error = np.mean((made - x_test) ** 2)
    print(f"trained for {history.epochs} epochs in {sum(history.seconds):.1f} s")
    print(f"test error {error:.4f}")

    figure = Figure(figsize=(8, 11), layout="constrained")
    curves, images, space = figure.subfigures(3, 1, height_ratios=[3, 2.8, 5])
    curves.suptitle(f"mean squared error of the test images: {error:.4f}")
    fnn.plots.curves(history, ax=curves.subplots())
    rows = {"noisy": seen_test} if options.noise else {}
    fnn.plots.reconstructions(x_test, rows | {"output": made}, 12, figure=images)
    images.suptitle("test images, and what 32 numbers keep of them", fontsize="medium")

    # The two directions in which the 32 numbers differ most.
    codes = model.features(seen_test[:3000], layer=LATENT)
    codes = codes - codes.mean(axis=0)
    plane = codes @ np.linalg.svd(codes, full_matrices=False)[2][:2].T
    axes = space.subplots()
    points = axes.scatter(*plane.T, c=labels[:3000], cmap="tab10", s=6)
    space.legend(*points.legend_elements(), loc="outside lower center", ncols=10, frameon=False)
    axes.set(title="the numbers of 3,000 test images, seen from the side where they differ most")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
