"""Time every kernel, compiled against reference, at the sizes of a real training step.

Owns the ratios and their geometric means; arguments and tolerances come from the tests' own table,
``tests/cases.py``. Run ``python -m pytest bench/bench_kernels.py --benchmark-enable``.
"""

from __future__ import annotations

import importlib
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastnn import kernels, reference

# the tests lie beside the package and are not installed with it
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
cases: Any = importlib.import_module("cases")
checks: Any = importlib.import_module("test_kernels")

compiled: Any = kernels
SIDES: dict[str, Any] = {"reference": reference, "compiled": compiled}
PLAIN = {"h0": None, "c0": None, "lengths": None, "relu": False, "reverse": False, "bptt_steps": 0}


def as_drawn(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments


def first_layer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a layer on the data that gives its last state, without options."""
    last = {name: arguments[name][:, :1].copy() for name in ("out", "dout") if name in arguments}
    changes = PLAIN | {"dx": None} | last
    return {name: changes.get(name, value) for name, value in arguments.items()}


@dataclass(frozen=True)
class Row:
    """A kernel at some sizes, with what is changed of the arguments that the table draws."""

    case: Any
    sizes: dict[str, int]
    change: Callable[[dict[str, Any]], dict[str, Any]] = as_drawn

    def seed(self) -> int:
        """Return the first seed whose arguments leave no output out."""

        def whole(arguments: dict[str, Any]) -> bool:
            return all(arguments[name] is not None for name in self.case.outputs)

        return next(n for n in range(99) if whole(self.case.arguments(self.sizes, n)))

    def arguments(self) -> list[Any]:
        return list(self.change(self.case.arguments(self.sizes, self.seed())).values())


KERNELS = {case.name: Row(case, case.bench) for case in cases.TABLE}
RECURRENT = {
    f"{case.name}, {units} units, batch {batch}": Row(
        case, {"N": batch, "T": 28, "I": 28, "H": units}, first_layer
    )
    for case in cases.TABLE
    if case.name.startswith(("rnn_", "lstm_", "gru_"))
    for units, batch in ((32, 1), (32, 8), (32, 20), (32, 64), (128, 64))
}
ROWS = KERNELS | RECURRENT


def table(times: dict[tuple[str, str], float], rows: dict[str, Row]) -> list[str]:
    """Return the lines of the rows that were timed, and of their geometric mean."""
    names = [name for name in rows if {(name, side) for side in SIDES} <= set(times)]
    if not names:
        return []
    lines = ["", f"{'kernel':<36} {'reference µs':>12} {'compiled µs':>12} {'ratio':>8}"]
    ratios = []
    for name in names:
        slow, fast = times[name, "reference"], times[name, "compiled"]
        ratios.append(slow / fast)
        lines.append(f"{name:<36} {slow * 1e6:>12.2f} {fast * 1e6:>12.2f} {slow / fast:>8.1f}")
    mean = statistics.geometric_mean(ratios)
    return [*lines, f"{f'geometric mean of {len(names)}':<62} {mean:>8.1f}"]


@pytest.fixture(scope="module")
def medians(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], float]]:
    """Collect the median of every (row, side), and print the ratios at the end."""
    times: dict[tuple[str, str], float] = {}
    yield times
    lines = table(times, KERNELS) + table(times, RECURRENT)
    if not lines:
        return
    lines.append(f"{compiled.get_isa()}, {compiled.get_num_threads()} threads")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ROWS)
def test_kernel(
    benchmark: Any, medians: dict[tuple[str, str], float], name: str, side: str
) -> None:
    """Verify one kernel at some sizes, then time it."""
    row = ROWS[name]
    checks.check_against_reference(row.case, row.sizes, row.seed())
    benchmark.group = name
    benchmark.extra_info["sizes"] = row.sizes
    benchmark(getattr(SIDES[side], row.case.name), *row.arguments())
    if benchmark.stats is not None:
        medians[name, side] = benchmark.stats.stats.median
