"""The machine's limits: multiply-add peak and read bandwidths, and how far its cores are apart.

Owns a small C file compiled at run time for exactly this machine; what the package reaches of these
limits is left to ``bench.peers``.  Run ``python -m bench.roofline``.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("roofline.c")
Work = Callable[[], object]
# native: built where it runs, to find what that CPU can do at most
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared"]


@functools.cache
def library() -> ctypes.CDLL:
    """Compile ``roofline.c`` with the system's compiler (``CC``) and load it.

    Raises
    ------
    RuntimeError
        When there is no compiler or it refuses the file.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "roofline.so"
        command = [*compiler, *FLAGS, str(SOURCE), "-o", str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise RuntimeError(f"no C compiler: {compiler[0]!r} was not found") from None
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{error.stderr}") from None
        loops = ctypes.CDLL(str(target))
    loops.fma_loop.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loops.fma_loop.restype = ctypes.c_float
    loops.read_loop.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    loops.read_loop.restype = ctypes.c_float
    loops.pass_loop.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long]
    loops.pass_loop.restype = None
    return loops


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def seconds_together(works: list[Work]) -> float:
    """Wall time of all ``works``, each on a thread of its own (ctypes drops the GIL)."""
    gate = threading.Barrier(len(works))
    spans: list[tuple[float, float]] = []

    def run(work: Work) -> None:
        gate.wait()
        start = time.perf_counter()
        work()
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def best_rate(work: Callable[[int], list[Work]], amount: float, seconds: float) -> float:
    """Highest rate, in units of ``amount`` a second, of six runs of about ``seconds`` together.

    ``work(steps)`` gives one call a thread; ``amount`` is what all threads do together in one step.
    """
    steps = 1
    while (spent := seconds_together(work(steps))) < seconds / 20:
        steps *= 4
    steps = max(1, int(steps * seconds / 6 / spent))
    return max(amount * steps / seconds_together(work(steps)) for _ in range(6))


def fma_peak(threads: int = 1, seconds: float = 0.15) -> float:
    """Measured fp32 peak, in GFLOP/s, of ``threads`` cores together."""
    loops = library()
    block = 1000
    flops = 2.0 * block * loops.chains() * loops.lanes() * threads

    def work(steps: int) -> list[Work]:
        return [lambda: loops.fma_loop(steps * block, 0.5, 1.0) for _ in range(threads)]

    return best_rate(work, flops, seconds) / 1e9


def read_bandwidth(size: int, threads: int = 1, seconds: float = 0.15) -> float:
    """Measured read bandwidth, in GB/s, of ``threads`` cores, ``size`` bytes each."""
    loops = library()
    step = 8 * loops.lanes() * 4
    size = max(step, size // step * step)
    raw = [np.full(size + 64, 1, np.uint8) for _ in range(threads)]  # written: no shared zero page
    starts = [array.ctypes.data + -array.ctypes.data % 64 for array in raw]

    def work(steps: int) -> list[Work]:
        return [functools.partial(loops.read_loop, start, size // 4, steps) for start in starts]

    return best_rate(work, float(size) * threads, seconds) / 1e9


def round_trips(seconds: float = 0.15) -> tuple[float, float]:
    """Least and greatest time, in ns, of 20 tries to pass a cache line to another core and back.

    The cores are the first two that this process may use; 0 where there is but one, or threads
    cannot be bound to them.
    """
    if cores() < 2 or not hasattr(os, "sched_setaffinity"):
        return 0.0, 0.0
    loops, turn = library(), ctypes.c_int(0)
    rounds = max(100, int(seconds / 20 / 2e-7))

    def player(mine: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})  # this thread alone
        loops.pass_loop(ctypes.byref(turn), mine, rounds)

    players: list[Work] = [
        functools.partial(player, mine, cpu)
        for mine, cpu in enumerate(sorted(os.sched_getaffinity(0))[:2])
    ]
    spent = [seconds_together(players) / rounds * 1e9 for _ in range(20)]
    return min(spent), max(spent)


def cache_sizes() -> dict[str, int]:
    """Bytes of the first core's data caches, from Linux; common sizes where it does not say."""
    sizes = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        text = {name: (folder / name).read_text().strip() for name in ("level", "type", "size")}
        if text["type"] != "Instruction" and f"L{text['level']}" in sizes:
            sizes[f"L{text['level']}"] = int(text["size"].rstrip("K")) << 10
    return sizes


def working_sets(threads: int) -> dict[str, int]:
    """Bytes for each thread to read so that they come from the level named."""
    sizes = cache_sizes()
    l3 = max(2 * sizes["L2"], min(sizes["L3"] // 4, 8 << 20) // threads)
    memory = min(4 * sizes["L3"], 256 << 20) // threads
    return {"L1": sizes["L1"] // 2, "L2": sizes["L2"] // 2, "L3": l3, "memory": memory}


def measure(seconds: float = 0.15) -> dict[str, dict[str, float]]:
    """GFLOP/s and GB/s of one core and of all: ``{"1": {"fma": ..., "L1": ...}, "2": ...}``."""
    result = {}
    for threads in sorted({1, cores()}):
        figures = {"fma": fma_peak(threads, seconds)}
        for level, size in working_sets(threads).items():
            figures[level] = read_bandwidth(size, threads, seconds)
        result[str(threads)] = figures
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.roofline")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each figure")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    figures = measure(options.seconds)
    caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in cache_sizes().items())
    print(f"{library().lanes()} lanes of float32; {caches}\n")
    print(
        "| cores | FMA GFLOP/s | L1 GB/s | L2 GB/s | L3 GB/s | memory GB/s |\n" + "|---" * 6 + "|"
    )
    for threads, row in figures.items():
        print(f"| {threads} | " + " | ".join(f"{value:.0f}" for value in row.values()) + " |")
    least, greatest = round_trips(options.seconds)
    if greatest:
        print(f"\na cache line to another core and back: {least:.0f} to {greatest:.0f} ns")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
