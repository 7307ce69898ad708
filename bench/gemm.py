"""Products against NumPy's BLAS: the three of every dense layer in the benchmark's nets, and 1024³.

Owns this comparison; whole steps are left to ``bench.peers``. Each library runs in processes of its
own, so that one's waiting threads do not disturb the other. Run ``python -m bench.gemm``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from bench.peers.rows import ROWS

FORMS = ("x @ w", "x.T @ dout", "dout @ w.T")


def shapes() -> list[tuple[int, int, int]]:
    """(batch, in, out) of every dense layer of the training rows, and (1024, 1024, 1024)."""
    found = [
        (row.batch, *sizes)
        for row in ROWS.values()
        if row.optimizer is not None
        for sizes in row.products()
    ]
    return [*dict.fromkeys(found), (1024, 1024, 1024)]


def products(library: str, n: int, i: int, o: int) -> list[Callable[[int], object]]:
    """One function for each form, which computes it a number of times."""
    rng = np.random.default_rng(0)
    x, w, dout = (rng.standard_normal(s, np.float32) for s in ((n, i), (i, o), (n, o)))
    out, dw, dx = (np.empty(s, np.float32) for s in ((n, o), (i, o), (n, i)))
    operands = [(x, w, out), (x.T, dout, dw), (dout, w.T, dx)]
    if library == "numpy":

        def looped(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Callable[[int], object]:
            def run(times: int) -> None:
                for _ in range(times):
                    np.matmul(a, b, out=c)

            return run

        return [looped(*three) for three in operands]
    from fastnn.backend import compiled as kernels

    assert kernels is not None, "needs the compiled kernels"

    plans = []
    for kernel, (a, b, c), expected in (
        (kernels.gemm_nn, (x, w, out), x @ w),
        (kernels.gemm_tn, (x, dout, dw), x.T @ dout),
        (kernels.gemm_nt, (dout, w, dx), dout @ w.T),
    ):
        plan = kernels.Plan()
        with plan.capture():
            kernel(a, b, c)
        plan.replay()
        np.testing.assert_allclose(c, expected, rtol=1e-3, atol=1e-3)
        plans.append(plan)
    return [lambda times, plan=plan: plan.replay(times, budget=60.0) for plan in plans]  # type: ignore[misc]


def measure(library: str, repeats: int) -> list[list[float]]:
    """Median seconds of each product: a row for each shape, a column for each form."""
    table = []
    for n, i, o in shapes():
        times = max(2, min(2000, int(4e8 / (2 * n * i * o))))
        row = []
        for run in products(library, n, i, o):
            run(times)
            samples = []
            for _ in range(repeats):
                start = time.perf_counter()
                run(times)
                samples.append((time.perf_counter() - start) / times)
            row.append(float(np.median(samples)))
        table.append(row)
    return table


def child(library: str, threads: int, repeats: int) -> np.ndarray:
    names = ("FASTNN_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, "-m", "bench.gemm", "--child", library, "--repeats", str(repeats)]
    output = subprocess.run(
        command,
        env=os.environ | dict.fromkeys(names, str(threads)),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return np.array(json.loads(output))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gemm", description=__doc__)
    parser.add_argument("--threads", default="1,2", help="numbers of threads to run with")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each library")
    parser.add_argument("--repeats", type=int, default=7, help="of each product in a process")
    parser.add_argument("--child", choices=["fastnn", "numpy"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(options.child, options.repeats)))
        return
    for threads in map(int, options.threads.split(",")):
        found: dict[str, list[np.ndarray]] = {"fastnn": [], "numpy": []}
        for _ in range(options.rounds):
            for library, tables in found.items():
                tables.append(child(library, threads, options.repeats))
        ours, blas = (np.median(found[library], axis=0) for library in ("fastnn", "numpy"))
        print(f"\n{threads} threads: GFLOP/s of fastnn, and its time into that of NumPy's BLAS\n")
        print("| batch, in, out | " + " | ".join(FORMS) + " |\n|---|---|---|---|")
        for (n, i, o), mine, theirs in zip(shapes(), ours, blas, strict=True):
            cells = [
                f"{2e-9 * n * i * o / a:.1f} ({b / a:.2f}×)"
                for a, b in zip(mine, theirs, strict=True)
            ]
            print(f"| {n}, {i}, {o} | " + " | ".join(cells) + " |")
        mean = float(np.exp(np.log(blas[:-1] / ours[:-1]).mean()))
        print(
            f"\nnets: {mean:.2f}× geometric mean; 1024³: {(blas[-1] / ours[-1]).min():.2f}× lowest"
        )


if __name__ == "__main__":
    main()
