"""Milliseconds from Ctrl-C to KeyboardInterrupt, in training, prediction and a download.

Owns the figures; that the model is then as after its last whole step is shown by the tests.  Run
``python -m bench.interrupts``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np

import fastnn as fnn
from bench.peers.__main__ import names_in
from fastnn.datasets import images

BAR = 0.1
"""Seconds within which 99 of 100 must end."""

Case = Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]


def mlp() -> list[fnn.Layer]:
    return [fnn.Dense(128, "relu"), fnn.Dense(64, "relu"), fnn.Dense(10)]


def cnn() -> list[fnn.Layer]:
    layers = [fnn.Reshape((28, 28, 1)), fnn.Conv2D(16, 3, activation="relu"), fnn.MaxPool2D(2)]
    return [*layers, fnn.Conv2D(32, 3, activation="relu"), fnn.Flatten(), fnn.Dense(10)]


def lstm() -> list[fnn.Layer]:
    return [fnn.Reshape((28, 28)), fnn.LSTM(128), fnn.Dense(10)]


def training(layers: Callable[[], list[fnn.Layer]], samples: int, **options: object) -> Case:
    """Train on noise until interrupted."""

    @contextlib.contextmanager
    def case() -> Iterator[Callable[[], object]]:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (samples, 784), dtype=np.uint8)
        y = rng.integers(0, 10, samples)
        model = fnn.Sequential(layers(), 784, seed=0)
        yield lambda: model.fit(x, y, epochs=10**9, verbose=0, **options)  # type: ignore[arg-type]

    return case


@contextlib.contextmanager
def predicting() -> Iterator[Callable[[], object]]:
    """Predict 60,000 samples at a time until interrupted."""
    x = np.zeros((60_000, 784), np.float32)
    model = fnn.Sequential([fnn.Dense(1000, "relu"), *mlp()], 784, seed=0)

    def forever() -> None:
        while True:
            model.predict(x)

    yield forever


class Slow(http.server.BaseHTTPRequestHandler):
    """Sends a byte every few milliseconds."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**6))
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"\x1f")
                self.wfile.flush()
                time.sleep(0.002)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def downloading() -> Iterator[Callable[[], object]]:
    """Wait for a mirror on this machine that does not get to its end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mirrors = {
        "mnist": (f"http://127.0.0.1:{server.server_port}/",),
        "fashion-mnist": ("http://127.0.0.1:9/",),  # where nobody answers
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, FASTNN_CACHE=folder, FASTNN_DATA=folder),
        mock.patch.dict(images.MIRRORS, mirrors),
        mock.patch.object(images, "SYSTEM_FOLDER", folder),
    ):
        with contextlib.suppress(fnn.datasets.DataError):
            fnn.datasets.load_fashion_mnist()  # imports what it needs
        yield fnn.datasets.load_mnist
    server.shutdown()
    server.server_close()


CASES: dict[str, Case] = {
    "fit": training(mlp, 12_000, batch_size=24),
    "fit-eager": training(mlp, 12_000, batch_size=24, eager=True),
    "fit-one-batch": training(mlp, 60_000, batch_size=None),
    "cnn": training(cnn, 6_000, batch_size=64),
    "cnn-one-batch": training(cnn, 6_000, batch_size=None),
    "lstm-one-batch": training(lstm, 6_000, batch_size=None),
    "predict": predicting,
    "download": downloading,
}


def delay(call: Callable[[], object], after: float) -> float:
    """Press Ctrl-C so many seconds after ``call`` begins; return the seconds till it has ended."""
    signal.setitimer(signal.ITIMER_REAL, after)
    pressed = time.perf_counter() + after
    try:
        call()
    except KeyboardInterrupt:
        return time.perf_counter() - pressed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    raise RuntimeError("Ctrl-C was not noticed")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.interrupts", description=__doc__)
    parser.add_argument("--rows", type=names_in(list(CASES)), default=list(CASES), metavar="A,B")
    parser.add_argument("--tries", type=int, default=25, help="of each row")
    parser.add_argument("--within", type=float, default=0.3, help="seconds, the latest Ctrl-C")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    # a shell may start background jobs so that they ignore Ctrl-C
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    late = []
    print(f"ms from Ctrl-C to KeyboardInterrupt, {options.tries} times\n")
    print("| in | median | p99 | max |\n|---|---|---|---|")
    try:
        for name in options.rows:
            with CASES[name]() as call:
                times = [
                    delay(call, rng.uniform(0.01, options.within)) for _ in range(options.tries)
                ]
            figures = np.percentile(times, [50, 99, 100])
            print(f"| {name} | " + " | ".join(f"{1e3 * t:.1f}" for t in figures) + " |", flush=True)
            if figures[1] > BAR:
                late.append(name)
    finally:
        signal.signal(signal.SIGALRM, previous)
        signal.signal(signal.SIGINT, ctrl_c)
    if late:
        print(f"\nlater than {1e3 * BAR:.0f} ms: {'; '.join(late)}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
