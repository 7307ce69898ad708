"""Microseconds of one training step of fastnn: reference, eager, recorded, recorded and fused.

Owns the comparison of fastnn's own ways to run a step, and the cost of a step that has nothing to
compute; other libraries are left to ``bench.peers``.  Run ``python -m bench.train_step``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fnn
from bench.peers.__main__ import names_in
from bench.peers.rows import DATA, ROWS, SMOKE, Row, pixels_and_labels
from bench.peers.with_fastnn import stepper, training
from bench.peers.worker import calls_for, repeats
from fastnn.samples import Data
from fastnn.trainer import Trainer

WAYS: dict[str, dict[str, bool]] = {
    "reference": {},
    "eager": {"eager": True},
    "plan": {"fuse": False},
    "fused": {"fuse": True},
}
TRAINED = {name: row for name, row in (ROWS | SMOKE).items() if row.optimizer is not None}
EMPTY: dict[str, Callable[[], fnn.Layer]] = {
    "empty-linear": fnn.Linear,
    "empty-dense": lambda: fnn.Dense(1),
}


@dataclass
class Case:
    """One net, run in one way with one number of threads."""

    net: str
    way: str
    threads: int
    trainer: Trainer
    run: Callable[[int], float]
    calls: int = 0
    times: list[float] = field(default_factory=list)

    def turn(self, seconds: float) -> None:
        """Time one more repeat."""
        if self.way != "reference":
            fnn.set_num_threads(self.threads)
        if not self.calls:
            self.calls = calls_for(self.run, seconds)
        self.times += repeats(self.run, self.calls, 1)

    def summary(self) -> dict[str, Any]:
        low, middle, high = (float(x) for x in np.percentile(self.times, [0, 50, 95]))
        names = {"net": self.net, "way": self.way, "threads": self.threads}
        return {**names, "min": low, "median": middle, "p95": high}


def empty_trainer(net: str, eager: bool = False, fuse: bool = True) -> Trainer:
    """Steps of one sample and one number: whatever they take is overhead."""
    zeros = np.zeros((4096, 1), np.float32)
    model = fnn.Sequential([EMPTY[net]()], input_shape=1, seed=0)
    data = Data(zeros, 1.0, zeros, 1.0)
    loss, optimizer = fnn.MeanSquaredError(), fnn.SGD(0.01)
    return Trainer(model, data, loss, optimizer, batch_size=1, eager=eager, fuse=fuse)


def cases(nets: list[str], ways: list[str], threads: list[int], data: str) -> list[Case]:
    """Every net in every way; eager and recorded steps with each number of threads."""
    pixels, labels = pixels_and_labels(data)
    made = []
    for net in nets:
        for way in ways:
            with fnn.use_backend("reference" if way == "reference" else "compiled"):
                trainer = (
                    empty_trainer(net, **WAYS[way])
                    if net in EMPTY
                    else training(TRAINED[net], TRAINED[net].weights(), pixels, labels, **WAYS[way])
                )
            run = stepper(trainer)
            # the reference's threads are its BLAS's, which only the environment sets
            for count in threads if way != "reference" else threads[-1:]:
                made.append(Case(net, way, count, trainer, run))
    return made


def profile(row: Row, threads: int, steps: int, data: str) -> None:
    """Print the fused plan's operations with their times."""
    pixels, labels = pixels_and_labels(data)
    fnn.set_num_threads(threads)
    trainer = training(row, row.weights(), pixels, labels)
    trainer.run_epoch()
    plan: Any = trainer.plan
    plan.profile(steps)
    print(f"\n{row.name}, {threads} threads\n{plan}")


def main(arguments: list[str] | None = None) -> None:
    nets = [*TRAINED, *EMPTY]
    parser = argparse.ArgumentParser(prog="python -m bench.train_step", description=__doc__)
    default = [name for name in nets if name not in SMOKE]
    parser.add_argument("--rows", type=names_in(nets), default=default, metavar="A,B")
    parser.add_argument("--ways", type=names_in(list(WAYS)), default=list(WAYS), metavar="A,B")
    parser.add_argument("--threads", default="1,2", help="numbers of threads to run with")
    parser.add_argument("--data", choices=DATA, default="noise", help="the pixels")
    parser.add_argument("--rounds", type=int, default=7, help="repeats of each")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a repeat")
    parser.add_argument("--profile", action="store_true", help="only print the plans' op times")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    options = parser.parse_args(arguments)
    threads = [int(count) for count in options.threads.split(",")]
    if options.profile:
        for net in options.rows:
            if net in TRAINED:
                for count in threads:
                    profile(TRAINED[net], count, 200, options.data)
        return
    made = cases(options.rows, options.ways, threads, options.data)
    for _ in range(options.rounds):  # in turns, so that the machine's drift meets all alike
        for case in made:
            case.turn(options.seconds)
    figures = [case.summary() for case in made]
    print("µs a training step\n\n| net | way | threads | min | median | p95 |")
    print("|---|---|---|---|---|---|")
    for f in figures:
        shown = f"{f['min']:.2f} | {f['median']:.2f} | {f['p95']:.2f}"
        print(f"| {f['net']} | {f['way']} | {f['threads']} | {shown} |")
    gains = [
        statistics.median(a.times) / statistics.median(b.times)
        for a in made
        for b in made
        if (a.net, a.way, b.way, a.threads) == (b.net, "reference", "fused", b.threads)
        and a.net not in EMPTY
    ]
    if gains:
        print(
            f"\nfused against reference: {statistics.geometric_mean(gains):.1f}× (geometric mean)"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
