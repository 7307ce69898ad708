"""Owns one figure: what ``import fastnn`` costs beyond ``import numpy``, in fresh interpreters.

Leaves what must not be imported, and so keeps it low, to the tests.
"""

import os
import statistics
import subprocess
import sys

# the time of the importing thread: NumPy's BLAS starts threads, which spin for a while
_SCRIPT = """
import time, numpy
start = time.thread_time()
import fastnn
print(time.thread_time() - start)
"""


def measure(rounds: int = 15) -> list[float]:
    """Return the ms that each of so many imports took; one before them compiles the modules."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # else every import would compile
    command = [sys.executable, "-c", _SCRIPT]
    found = [float(subprocess.check_output(command, env=environment)) for _ in range(rounds + 1)]
    return [1e3 * seconds for seconds in found[1:]]


if __name__ == "__main__":
    times = measure()
    print(f"import fastnn: {statistics.median(times):.1f} ms (median), {max(times):.1f} at most")
