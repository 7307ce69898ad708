"""Time every kernel, compiled against reference, at the sizes of a real training step.

Owns the ratios and their geometric mean; arguments and tolerances come from the tests' own table,
``tests/cases.py``. Run ``python -m pytest bench/bench_kernels.py --benchmark-enable``.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def medians(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], float]]:
    """Collect the median of every (kernel, side), and print the ratios at the end."""
    times: dict[tuple[str, str], float] = {}
    yield times
    ratios = {
        case.name: times[case.name, "reference"] / times[case.name, "compiled"]
        for case in cases.TABLE
        if {(case.name, side) for side in SIDES} <= set(times)
    }
    if not ratios:
        return
    lines = ["", "", f"{'kernel':<28} {'reference µs':>12} {'compiled µs':>12} {'ratio':>8}"]
    for name, ratio in ratios.items():
        slow, fast = times[name, "reference"] * 1e6, times[name, "compiled"] * 1e6
        lines.append(f"{name:<28} {slow:>12.2f} {fast:>12.2f} {ratio:>8.1f}")
    mean = math.exp(math.fsum(map(math.log, ratios.values())) / len(ratios))
    lines.append(f"{f'geometric mean of {len(ratios)}':<54} {mean:>8.1f}")
    lines.append(f"{compiled.get_isa()}, {compiled.get_num_threads()} threads")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", cases.TABLE, ids=lambda case: case.name)
def test_kernel(
    benchmark: Any, medians: dict[tuple[str, str], float], case: Any, side: str
) -> None:
    """Verify one kernel at its benchmark size, then time it."""
    checks.check_against_reference(case, case.bench)
    arguments = list(case.arguments(case.bench).values())
    benchmark.group = case.name
    benchmark.extra_info["sizes"] = case.bench
    benchmark(getattr(SIDES[side], case.name), *arguments)
    if benchmark.stats is not None:
        medians[case.name, side] = benchmark.stats.stats.median
