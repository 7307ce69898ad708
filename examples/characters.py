"""Learn to write like a text, character by character, and draw how the network learns.

Takes the path of any text file, by default fastnn's own sources. The text is cut in streams that
are read side by side, in windows through which the state goes on; its last tenth is held out. A
sample follows each epoch, written one character at a time.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rnn import CELLS, gradient_norms, loss_gradient

import fastnn as fnn


def windows(tokens: np.ndarray, streams: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples and targets, the same one character later: both (windows * streams, steps).

    The first window of all streams comes first, then the second of all streams, and so on.
    """
    length = (len(tokens) - 1) // (streams * steps) * steps
    x, y = (
        tokens[start : start + streams * length]
        .reshape(streams, -1, steps)
        .swapaxes(0, 1)
        .reshape(-1, steps)
        for start in (0, 1)
    )
    return x, y


def network(cell: str, units: int, characters: int, steps: int, seed: int) -> fnn.Sequential:
    """Return a model that gives, at each step, logits of the next character."""
    layers = [
        fnn.Embedding(characters, 32),
        CELLS[cell](units, return_sequences=True, stateful=True),
        fnn.Dense(characters),
    ]
    return fnn.Sequential(layers, input_shape=steps, seed=seed)


class Writer:
    """Writes with a model's weights, a step at a time, from the state of what it wrote so far."""

    def __init__(self, make_network, alphabet: str, temperature: float, seed: int) -> None:
        self.model = make_network(steps=1)
        self.alphabet, self.temperature, self.seed = alphabet, temperature, seed

    def write(self, model: fnn.Sequential, length: int, start: str = "\n") -> str:
        """Return what the model writes after ``start``."""
        self.model.load_state_dict(model.state_dict())
        self.model.reset_states()
        rng = np.random.default_rng(self.seed)
        tokens = [self.alphabet.index(character) for character in start]
        for token in tokens[:-1]:
            self.model.predict([token])
        while len(tokens) < len(start) + length:
            logits = self.model.predict(tokens[-1:])[0, 0]
            p = np.exp((logits - logits.max()) / self.temperature, dtype=float)
            tokens.append(int(rng.choice(len(p), p=p / p.sum())))
        return "".join(self.alphabet[token] for token in tokens[len(start) :])


def gradients_of_the_last(model: fnn.Sequential, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how long the gradient of the last character's loss is at each step before."""
    recurrent = model.layers[1]
    dout = np.zeros((len(x), *recurrent.output_shape), np.float32)
    dout[:, -1] = loss_gradient(model, model.predict(x)[:, -1], y[:, -1])
    model.reset_states()
    return gradient_norms(recurrent, model.features(x, 0), dout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, nargs="?", help="a file in UTF-8")
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--streams", type=int, default=32, help="read side by side")
    parser.add_argument("--steps", type=int, default=50, help="of a window")
    parser.add_argument("--length", type=int, default=400, help="of the last sample")
    parser.add_argument("--temperature", type=float, default=0.6, help="lower is less daring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/characters.png"), help="the figure")
    options = parser.parse_args()
    for name in ("units", "epochs", "streams", "steps", "temperature"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: got {getattr(options, name)}, expected a number above 0")
    if not 0 <= options.seed < 2**64:
        parser.error(f"--seed: got {options.seed}, expected 0 to 2**64 - 1")

    sources = sorted(Path(fnn.__file__).parent.rglob("*.py"))
    try:
        paths = [options.text] if options.text else sources
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"text: {error}")
    least = 20 * options.streams * options.steps
    if len(text) < least:
        parser.error(f"text: got {len(text)} characters, expected at least {least}")
    alphabet = "".join(sorted({*text, "\n"}))
    tokens = np.searchsorted(list(alphabet), list(text))
    held_out = len(tokens) // 10
    x, y = windows(tokens[:-held_out], options.streams, options.steps)
    x_test, y_test = windows(tokens[-held_out:], options.streams, options.steps)
    print(f"{len(text):,} characters, {len(alphabet)} different ones")

    def make_network(steps: int) -> fnn.Sequential:
        return network(options.cell, options.units, len(alphabet), steps, options.seed)

    model = make_network(options.steps)
    model.summary()
    writer = Writer(make_network, alphabet, options.temperature, options.seed)

    def show(model: fnn.Sequential, history: fnn.History) -> None:
        bits = history["val_loss"][-1] / math.log(2)
        print(f"{bits:.3f} bits per character: {writer.write(model, 60)!r}")

    rate = fnn.CosineDecay(options.epochs * (len(x) // options.streams))
    history = model.fit(
        *(x, y),
        optimizer=fnn.Adam(0.01, schedule=rate, clip_norm=1.0),
        epochs=options.epochs,
        batch_size=options.streams,
        shuffle=False,
        validation_data=(x_test, y_test),
        callbacks=[show],
    )
    seconds = sum(history.seconds)
    print(f"trained on {x.size * history.epochs / seconds:,.0f} characters/s, {seconds:.1f} s")
    print(f"{history['val_loss'][-1] / math.log(2):.3f} bits per character of the held-out text")
    print(writer.write(model, options.length))

    figure = Figure(figsize=(8, 4), layout="constrained")
    curves, gradients = figure.subplots(1, 2)
    fnn.plots.curves(history, "loss", curves)
    curves.secondary_yaxis(
        "right", functions=(lambda y: y / math.log(2), lambda y: y * math.log(2))
    ).set_ylabel("bits per character")
    norms = gradients_of_the_last(model, x_test[:64], y_test[:64])
    gradients.semilogy(np.arange(1 - len(norms), 1), norms, ".-")
    gradients.set(xlabel="steps before the last", ylabel="length of the last loss's gradient")
    gradients.grid(alpha=0.3)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
