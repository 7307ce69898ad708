"""The process that one library runs in: reads requests, answers with losses, outputs or times.

Requests and answers are lines of JSON on standard input and output; ``__main__`` gives the turns.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.rows import ALL, Row, UnsupportedError, scaled

Run = Callable[[int], Any]
LOSSES = 10  # compared before anything is timed


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def repeats(run: Run, calls: int, count: int) -> list[float]:
    """Microseconds a call, for ``count`` repeats of ``calls`` calls, after a short warm-up."""
    times = []
    run(max(1, calls // 8))
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            start = time.perf_counter()
            run(calls)
            times.append((time.perf_counter() - start) / calls * 1e6)
    finally:
        gc.enable()
    return times


def calls_for(run: Run, seconds: float) -> int:
    """How many calls take about ``seconds``; the search also warms up and compiles."""
    run(1)
    calls = 1
    while True:
        start = time.perf_counter()
        run(calls)
        spent = time.perf_counter() - start
        if spent > seconds / 5:
            return max(1, round(calls * seconds / spent))
        calls *= 4


class Worker:
    """One library with its options: builds each row once and keeps it."""

    def __init__(self, module: str, options: dict[str, Any], folder: Path) -> None:
        self.library = importlib.import_module(module)
        self.options = options
        self.folder = folder
        self.pixels = np.load(folder / "pixels.npy")
        self.labels = np.load(folder / "labels.npy")
        self.timed: dict[str, tuple[Run, int]] = {}

    def weights(self, name: str) -> list[np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as stored:
            return [stored[key] for key in stored.files]

    def build(self, row: Row) -> Run:
        """The row's trainer or predictor."""
        weights = self.weights(row.name)
        run: Run
        if row.optimizer is None:
            run = self.library.predictor(row, weights, scaled(self.pixels[:1]), **self.options)
        else:
            run = self.library.trainer(row, weights, self.pixels, self.labels, **self.options)
        return run

    def verify(self, name: str) -> list[float]:
        """The first losses without dropout, or for a row that predicts the class probabilities."""
        row = ALL[name].without_dropout()
        if hasattr(self.library, "losses") and row.optimizer is not None:
            data = self.weights(name), self.pixels, self.labels
            return list(self.library.losses(row, *data, LOSSES, **self.options))
        run = self.build(row)
        if row.optimizer is None:
            return [float(p) for p in softmax(np.asarray(run(1), np.float64)).reshape(-1)]
        return [float(run(1)) for _ in range(LOSSES)]

    def time(self, name: str, seconds: float, count: int) -> list[float]:
        """Microseconds a step of ``count`` repeats of about ``seconds`` each."""
        if name not in self.timed:
            run = self.build(ALL[name])
            self.timed[name] = run, calls_for(run, seconds)
        return repeats(*self.timed[name], count)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    worker: Worker | None = None
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        try:
            if worker is None:
                module, options, folder = arguments
                worker = Worker(module, options, Path(folder))
                answer = {"value": str(worker.library.VERSION)}
            else:
                answer = {"value": getattr(worker, request)(*arguments)}
        except UnsupportedError as reason:
            answer = {"unsupported": str(reason)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
