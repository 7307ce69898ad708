"""Runs every row in every library, verified and then timed in turns, and prints the table.

Owns the order of things and the report; what a row is, and how a library runs it, are left to the
modules beside.  ``python -m bench.peers --help`` lists the options.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import roofline
from bench.peers.rows import ALL, DATA, ROWS, Row, pixels_and_labels

Figures = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 2e-5  # relative, of each of the first losses: ten float32 steps differ by 1e-6 or so
PATIENCE = 300.0  # seconds for one answer; the longest wait is for torch.compile


@dataclass(frozen=True)
class Library:
    """How a library is run: the module, its options, and named environments to try."""

    module: str
    package: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, str]] = field(default_factory=lambda: {"": {}})


LIBRARIES = {
    "fastnn": Library("with_fastnn", "fastnn"),
    "fastnn eager": Library("with_fastnn", "fastnn", {"eager": True}),
    "torch": Library(
        "with_torch",
        "torch",
        {"compiled": False},
        settings={"": {}, "channels last": {"BENCH_CHANNELS_LAST": "1"}},
    ),
    "torch compiled": Library("with_torch", "torch", {"compiled": True}),
    "jax": Library(
        "with_jax",
        "jax",
        settings={"": {}, "synchronous": {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "0"}},
    ),
    "numpy": Library("with_numpy", "numpy"),
    "sklearn": Library("with_sklearn", "sklearn"),
}
OURS = "fastnn"
DEFAULT = [name for name in LIBRARIES if name != "fastnn eager"]
THREAD_VARIABLES = (
    "FASTNN_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PJRT_NPROC",  # jax
)


class WorkerError(Exception):
    """A worker gave no answer, or a library raised."""


class Process:
    """A library with one number of threads in one setting, in a process of its own.

    It is stopped whenever it is not its turn, so that no idle thread of it spins beside the others.
    """

    def __init__(self, name: str, threads: int, setting: str, folder: Path) -> None:
        library = LIBRARIES[name]
        self.name, self.threads = name, threads
        words = [name, "1 thread" if threads == 1 else f"{threads} threads", setting]
        self.label = ", ".join(word for word in words if word)
        variables = {variable: str(threads) for variable in THREAD_VARIABLES}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.worker"],
            cwd=ROOT,
            env={**os.environ, **variables, **library.settings[setting]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.send("start", f"bench.peers.{library.module}", library.options, str(folder))

    def send(self, *request: Any) -> None:
        """Let the process go on, with this to do."""
        assert self.child.stdin is not None
        self.request = f"{request[0]} {request[1]}"
        self.child.send_signal(signal.SIGCONT)
        # a process that has ended gives no answer: receive says so
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()

    def receive(self) -> Any:
        """The answer, None when the library has no such layer; the process is stopped again.

        Raises
        ------
        WorkerError
            When the library raised, the process ended, or it took longer than ``PATIENCE``.
        """
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], PATIENCE)
        line = self.child.stdout.readline() if ready else ""
        self.child.send_signal(signal.SIGSTOP)
        if not line:
            raise WorkerError(f"{self.label}: no answer to {self.request}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.label}: {self.request}\n{answer['error']}")
        return answer.get("value")

    def ask(self, *request: Any) -> Any:
        """Send and receive."""
        self.send(*request)
        return self.receive()

    def close(self) -> None:
        self.child.kill()
        self.child.wait()


@dataclass
class Result:
    """What one process measured in one row."""

    label: str
    name: str
    threads: int
    times: list[float] = field(default_factory=list)  # microseconds a step, one a repeat

    def figure(self, by: str) -> float:
        """The median of the repeats, or their least."""
        return min(self.times) if by == "min" else statistics.median(self.times)

    def summary(self) -> dict[str, Any]:
        low, middle, high = np.percentile(self.times, [0, 50, 95])
        return {
            "label": self.label,
            "library": self.name,
            "threads": self.threads,
            "min": low,
            "median": middle,
            "p95": high,
            "times": self.times,
        }


@dataclass
class Peak:
    """The machine's limits over the run: GFLOP/s and L2 GB/s of all threads' cores, each round."""

    threads: int
    flops: list[float] = field(default_factory=list)
    l2: list[float] = field(default_factory=list)

    def measure(self) -> None:
        size = roofline.working_sets(self.threads)["L2"]
        self.flops.append(roofline.fma_peak(self.threads, 0.06))
        self.l2.append(roofline.read_bandwidth(size, self.threads, 0.06))

    def limit(self, row: Row) -> float:
        """Microseconds that the machine needs at least for a step of ``row``."""
        compute = row.flops() / (max(self.flops) * 1e3)
        return max(compute, row.traffic() / (max(self.l2) * 1e3))


@contextlib.contextmanager
def started(
    names: list[str], threads: list[int], rows: list[str], data: str = "noise"
) -> Iterator[tuple[list[Process], dict[str, str]]]:
    """All processes, handed data and weights through a temporary folder, and their versions."""
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pixels, labels = pixels_and_labels(data)
        np.save(folder / "pixels.npy", pixels)
        np.save(folder / "labels.npy", labels)
        for row in rows:
            np.savez(folder / f"{row}.npz", *ALL[row].weights())
        print(f"data: {data}, {len(pixels)} samples", file=sys.stderr)
        try:
            for name in names:
                if importlib.util.find_spec(LIBRARIES[name].package) is None:
                    print(f"{name}: not installed, left out", file=sys.stderr)
                    continue
                for count in threads:
                    for setting in LIBRARIES[name].settings:
                        processes.append(Process(name, count, setting, folder))
            versions = {process.name: str(process.receive()) for process in processes}
            yield processes, versions
        finally:
            for process in processes:
                process.close()


def verified(processes: list[Process], row: str, problems: list[str]) -> list[Process]:
    """The processes whose first losses, or outputs, agree with the first process's (fastnn's)."""
    agreed: list[Process] = []
    expected = None
    for process in processes:
        try:
            values = process.ask("verify", row)
        except WorkerError as failure:
            problems.append(f"{row}: {failure}")
            continue
        if values is None:
            continue
        if expected is None:
            expected = values
        if len(values) == len(expected) and np.allclose(values, expected, TOLERANCE, 1e-7):
            agreed.append(process)
        else:
            problems.append(f"{row}: {process.label} gives {values}, not {expected}")
    return agreed


def run_row(
    processes: list[Process],
    row: str,
    rounds: int,
    count: int,
    seconds: float,
    peak: Peak,
    problems: list[str],
) -> list[Result]:
    """Verify, then time in turns: ``count`` repeats each a round, so that drift meets all alike."""
    turns = {
        process.label: (process, Result(process.label, process.name, process.threads))
        for process in verified(processes, row, problems)
    }
    print(f"{row}: {len(turns)} settings agree", file=sys.stderr)
    for _ in range(rounds):
        peak.measure()
        for label, (process, result) in list(turns.items()):
            try:
                result.times += process.ask("time", row, seconds, count)
            except WorkerError as failure:
                problems.append(f"{row}: {failure}")
                del turns[label]
    return [result for _, result in turns.values()]


def best(results: list[Result], name: str, by: str) -> Result | None:
    """The fastest setting of a library."""
    mine = (r for r in results if r.name == name)
    return min(mine, key=lambda r: r.figure(by), default=None)


def row_figures(row: Row, results: list[Result], names: list[str], peak: Peak, by: str) -> Figures:
    """A row's cells, best peer, ratio, limit and share of it; None where something is missing."""
    cells = {name: r.figure(by) if (r := best(results, name, by)) else None for name in names}
    rivals = {name: us for name, us in cells.items() if us and not name.startswith(OURS)}
    rival = min(rivals, key=lambda name: rivals[name], default=None)
    ours, limit = cells.get(OURS), peak.limit(row)
    return {
        "cells": cells,
        "best peer": rival,
        "ratio": rivals[rival] / ours if rival and ours else None,
        "limit": limit,
        "share": limit / ours if ours else None,
        "settings": [result.summary() for result in results],
    }


def shown(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def report(figures: dict[str, Figures], names: list[str], by: str, peak: Peak) -> None:
    """Print the table, then every setting's spread."""
    print(f"\nµs a step, {by}, each library in its best setting; ×: {OURS} against the best peer")
    print("| row | " + " | ".join(names) + " | best peer | × | limit | of limit |")
    print("|---" * (len(names) + 5) + "|")
    for name, f in figures.items():
        cells = [shown(us, ".1f" if us and us < 100 else ".0f") for us in f["cells"].values()]
        ends = [f["best peer"] or "—", shown(f["ratio"], ".2f"), shown(f["limit"], ".1f")]
        print("| " + " | ".join([name, *cells, *ends, shown(f["share"], ".0%")]) + " |")
    steps = [f for name, f in figures.items() if ALL[name].optimizer and f["ratio"]]
    if steps:
        ratios = [f["ratio"] for f in steps]
        print(
            f"\ntraining rows: {statistics.geometric_mean(ratios):.2f}× the best peer (geometric "
            f"mean), lowest {min(ratios):.2f}×; "
            f"{statistics.geometric_mean(f['share'] for f in steps):.0%} of the limit"
        )
    print("\n| row | setting | min | median | p95 | repeats |\n" + "|---" * 6 + "|")
    for name, f in figures.items():
        for s in f["settings"]:
            times = " | ".join(f"{s[key]:.1f}" for key in ("min", "median", "p95"))
            print(f"| {name} | {s['label']} | {times} | {len(s['times'])} |")
    print(
        f"\nlimit: {max(peak.flops):.0f} GFLOP/s (median {statistics.median(peak.flops):.0f}) and "
        f"{max(peak.l2):.0f} GB/s from L2, {peak.threads} threads, measured between the rounds"
    )


def names_in(allowed: list[str]) -> Any:
    """Parser of a comma-separated list of allowed names."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return names

    return parse


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--rows", type=names_in(list(ALL)), default=list(ROWS), metavar="A,B")
    parser.add_argument("--libs", type=names_in(list(LIBRARIES)), default=DEFAULT, metavar="A,B")
    parser.add_argument("--threads", type=str, default="1,2", help="numbers of threads to try")
    parser.add_argument("--data", choices=DATA, default="noise", help="the pixels")
    parser.add_argument("--rounds", type=int, default=4, help="turns that each library gets")
    parser.add_argument("--repeats", type=int, default=2, help="repeats a turn")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a repeat")
    parser.add_argument("--quick", action="store_true", help="two short rounds: a rough look")
    parser.add_argument(
        "--by", choices=["median", "min"], default="median", help="min: for a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    options = parser.parse_args(arguments)
    threads = [int(count) for count in options.threads.split(",")]
    if options.quick:
        options.rounds, options.repeats, options.seconds = 2, 2, 0.05
    names = [name for name in LIBRARIES if name in options.libs]  # the first: all must match it

    problems: list[str] = []
    table: dict[str, list[Result]] = {}
    peak = Peak(max(threads))
    with started(names, threads, options.rows, options.data) as (processes, versions):
        names = [name for name in names if name in versions]
        for row in options.rows:
            table[row] = run_row(
                processes, row, options.rounds, options.repeats, options.seconds, peak, problems
            )
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    figures = {
        row: row_figures(ALL[row], results, names, peak, options.by)
        for row, results in table.items()
    }
    report(figures, names, options.by, peak)
    if options.json:
        limits = {"threads": peak.threads, "gflops": peak.flops, "l2": peak.l2}
        everything = {"versions": versions, "data": options.data, "by": options.by}
        everything |= {"peak": limits, "rows": figures}
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    for problem in problems:
        print(f"\nPROBLEM: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
