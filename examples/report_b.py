"""Report B: an MLP on MNIST with three activations, with a penalty, and the same in PyTorch.

``--full`` adds what the report's library had, but its baseline left out: Adam, and besides dropout.
"""

import time
from importlib.util import find_spec

import numpy as np
from reports import Report, load, one_legend, panels, percent

import fastnn as fnn

HIDDEN, BATCH, RATE = (500, 250, 100), 64, 0.01
TRAINING, VALIDATION = "training loss", "validation loss"
SEEN, TEST = "training accuracy, %", "test accuracy, %"

# network: its activation, its loss, and what the report says of it
BASELINES = {
    "sigmoid": ("sigmoid", fnn.CrossEntropy(), {TRAINING: 0.4487, VALIDATION: 0.4499, TEST: 86}),
    "tanh": ("tanh", fnn.CrossEntropy(), {TRAINING: 0.2275, VALIDATION: 0.2076, TEST: 93}),
    "ReLU": ("relu", fnn.CrossEntropy(), {TRAINING: 0.2233, VALIDATION: 0.2131, TEST: 94}),
    "ReLU, L2": ("relu", fnn.CrossEntropy(penalty=fnn.L2(0.01)), {SEEN: 78}),
}


def mlp(activation: str, seed: int, dropout: float = 0) -> fnn.Sequential:
    layers: list[fnn.Layer] = []
    for units in HIDDEN:
        layers += [fnn.Dense(units, activation=activation, kernel_initializer="glorot_normal")]
        layers += [fnn.Dropout(dropout)] if dropout else []
    output = fnn.Dense(10, kernel_initializer="glorot_normal")
    return fnn.Sequential([*layers, output], input_shape=784, seed=seed)


def train_in_torch(x, y, x_test, y_test, epochs: int, seed: int) -> tuple[float, float]:
    """Train the ReLU baseline in PyTorch; return its test accuracy, and the seconds."""
    import torch
    from torch import nn

    torch.set_num_threads(fnn.get_num_threads())
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, units in zip((784, *HIDDEN), (*HIDDEN, 10), strict=True):
        dense = nn.Linear(inputs, units)
        nn.init.xavier_normal_(dense.weight)
        nn.init.zeros_(dense.bias)
        layers += [dense, nn.ReLU()]
    net, loss = nn.Sequential(*layers[:-1]), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    x, y, x_test, y_test = map(torch.from_numpy, (x, y.astype(np.int64), x_test, y_test))
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss(net(x[rows]), y[rows]).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return (net(x_test).argmax(1) == y_test).float().mean().item(), seconds


def main() -> None:
    report = Report("b", "an MLP library")
    epochs = 2 if report.quick else 15
    (x, y), (x_test, y_test) = load("mnist")
    x, x_val, y, y_val = fnn.datasets.train_test_split(
        x, y, test_size=len(x) // 6, seed=report.seed
    )
    scale = fnn.datasets.Standardize(axis=None).fit(x)  # one mean and deviation of all pixels
    x, x_val, x_test = (scale.transform(a).reshape(len(a), -1) for a in (x, x_val, x_test))

    def train(model, loss, optimizer) -> fnn.History:
        return model.fit(
            *(x, y),
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=BATCH,
            validation_data=(x_val, y_val),
            validation_every=200,
            verbose=0,
        )

    models, rows = {}, []

    def add(name: str, measure: str, said: object, here: str, seconds: float) -> None:
        rows.append(
            {
                "network": name,
                "measure": measure,
                "report": said,
                "here": here,
                "s": f"{seconds:.1f}",
            }
        )

    for name, (activation, loss, said) in BASELINES.items():
        models[name] = model = mlp(activation, report.seed)
        history = train(model, loss, fnn.SGD(RATE))
        measures = {
            TRAINING: f"{history['loss'][-1]:.4f}",
            VALIDATION: f"{history['val_loss'][-1]:.4f}",
            SEEN: percent(model.evaluate(x, y)["accuracy"]),
            TEST: percent(model.evaluate(x_test, y_test)["accuracy"]),
        }
        for measure, here in measures.items():
            add(name, measure, said.get(measure, "—"), here, sum(history.seconds))
    if not report.quick and find_spec("torch"):
        accuracy, seconds = train_in_torch(x, y, x_test, y_test, epochs, report.seed)
        add("ReLU, PyTorch", TEST, 94, percent(accuracy), seconds)
    if report.full:
        model = mlp("relu", report.seed, dropout=0.2)
        steps = epochs * -(-len(x) // BATCH)
        adam = fnn.Adam(0.001, schedule=fnn.CosineDecay(steps))
        history = train(model, "cross_entropy", adam)
        accuracy = model.evaluate(x_test, y_test)["accuracy"]
        add("ReLU, Adam, dropout", TEST, "—", percent(accuracy), sum(history.seconds))
    report.table("accuracy", rows)
    report.say(
        "784-500-250-100-10, batch 64, rate 0.01, Glorot's initial weights, "
        f"{len(x):,} images, {epochs} epochs. The report took 44 minutes for one of these. It does "
        "not say how strong its penalty is: here it is 0.01 times the sum of squares, and part of "
        "the losses."
    )

    figure, cells = panels(1, len(models), width=2.6)
    for axes, (name, model) in zip(cells[0], models.items(), strict=True):
        fnn.plots.curves(model.history, ax=axes, by="iteration")
        axes.set(title=name)
    one_legend(figure)
    report.figure("loss", figure, "Loss every 200 iterations.")
    for title, images, labels in (("Training", x, y), ("Test", x_test, y_test)):
        text = fnn.metrics.classification_report(labels, models["ReLU"].predict_classes(images))
        report.say(f"{title} set, ReLU:\n\n```text\n{text}\n```")
    report.close()


if __name__ == "__main__":
    main()
