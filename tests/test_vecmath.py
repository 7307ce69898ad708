"""Owns the accuracy of csrc/vecmath.h: dense sweeps of each function against float64.

Leaves its users, the kernels, to ``test_kernels``. The header is compiled here on its own, once
for each instruction set, because no kernel shows exp, log or erf alone.
"""

import ctypes
import math
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastnn import kernels

ROOT = Path(__file__).parent.parent
FLAGS = {"scalar": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]}
TINY = 2.0**-126  # the smallest normal number

erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_slope(x):
    return erf(x * math.sqrt(0.5)) / 2 + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


EXACT = {
    "exp": np.exp,
    "log": np.log,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": erf,
    "gelu_slope": gelu_slope,
}


def between(low, high, n):
    return np.linspace(low, high, n).astype(np.float32)


def every(low, high, stride):
    """Positive floats, evenly spaced by their bits."""
    first, last = np.array([low, high], np.float32).view(np.uint32)
    return np.arange(first, last, stride, dtype=np.uint32).view(np.float32)


@pytest.fixture(scope="session", params=kernels.available_isas())
def vecmath(request, tmp_path_factory):
    """Return call(name, x), on this instruction set."""
    library = tmp_path_factory.mktemp("vecmath") / f"probe_{request.param}.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    options = ["-std=gnu11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC"]
    source = [f"-I{ROOT / 'csrc'}", str(ROOT / "tests" / "vecmath_probe.c")]
    command = [*compiler, *options, *FLAGS[request.param], *source, "-o", str(library)]
    subprocess.run(command, check=True)
    probe = ctypes.CDLL(str(library))

    def call(name, x):
        x = np.concatenate([x, np.zeros(-x.size % 16, np.float32)])
        out = np.empty_like(x)
        getattr(probe, f"probe_{name}")(
            ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(x.size)
        )
        return out

    def checked(name, x):
        return call(name, np.asarray(x, np.float32))[: np.size(x)]

    return checked


def error_in_ulp(got, exact):
    spacing = np.spacing(np.maximum(abs(exact), TINY).astype(np.float32))
    return (abs(got.astype(np.float64) - exact) / spacing).max()


@pytest.mark.parametrize(
    ("name", "x", "ulp"),
    [
        ("exp", between(-86.98, 88.72, 1 << 20), 1.2),
        ("log", np.concatenate([every(1e-45, 3.4e38, 4001), between(0.5, 2, 1 << 18)]), 1.0),
        ("sigmoid", between(-87, 40, 1 << 20), 2.5),
        ("tanh", np.concatenate([between(-10, 10, 1 << 19), every(1e-45, 10, 2003)]), 2.5),
        ("erf", np.concatenate([between(-4, 4, 1 << 17), every(1e-30, 4, 8009)]), 6.5),
    ],
    ids=["exp", "log", "sigmoid", "tanh", "erf"],
)
def test_error_in_ulp(vecmath, name, x, ulp):
    assert error_in_ulp(vecmath(name, x), EXACT[name](x.astype(np.float64))) <= ulp


@pytest.mark.parametrize(("name", "bound"), [("erf", 4e-7), ("gelu_slope", 2.5e-7)])
def test_absolute_error(vecmath, name, bound):
    x = between(-8, 8, 1 << 17)
    assert abs(vecmath(name, x) - EXACT[name](x.astype(np.float64))).max() <= bound


def test_ranges(vecmath):
    x = np.concatenate([between(-20, 20, 1 << 18), between(-1e38, 1e38, 999)])
    for name in ("tanh", "erf"):
        assert abs(vecmath(name, x)).max() == 1
    assert vecmath("sigmoid", x).min() == 0 and vecmath("sigmoid", x).max() == 1


@pytest.mark.parametrize(
    ("name", "x", "wanted"),
    [
        ("exp", [np.inf, -np.inf, 0, -0.0, 1e-40], [np.inf, 0, 1, 1, 1]),
        ("exp", [89, 1e38, -88, -1e38], [np.inf, np.inf, 0, 0]),
        ("log", [np.inf, 0, -0.0, 1, -1, -np.inf], [np.inf, -np.inf, -np.inf, 0, np.nan, np.nan]),
        ("sigmoid", [np.inf, -np.inf, 0, 1e38, -1e38], [1, 0, 0.5, 1, 0]),
        ("tanh", [np.inf, -np.inf, 0, 1e38, -1e38], [1, -1, 0, 1, -1]),
        ("tanh", [1e-45, -1e-40], [1e-45, -1e-40]),
        ("erf", [np.inf, -np.inf, 0, 1e38, -1e38], [1, -1, 0, 1, -1]),
        ("gelu_slope", [np.inf, -np.inf, 0, 1e38, -1e38], [0.5, -0.5, 0, 0.5, -0.5]),
    ],
)
def test_special_values(vecmath, name, x, wanted):
    np.testing.assert_array_equal(vecmath(name, x), np.array(wanted, np.float32))
    assert np.isnan(vecmath(name, [np.nan])[0])


def test_odd_functions_keep_the_sign_of_zero(vecmath):
    for name in ("tanh", "erf", "gelu_slope"):
        assert np.signbit(vecmath(name, [-0.0, 0.0])).tolist() == [True, False]
