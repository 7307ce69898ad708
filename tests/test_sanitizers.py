"""The C core under the address, undefined-behaviour and thread sanitizers: 0 reports.

With FASTNN_VALGRIND, under valgrind, too.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(set((ROOT / "csrc").glob("*.c")) - {ROOT / "csrc" / "dispatch.c"})
COMPILER = shutil.which("gcc") or shutil.which("clang")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


X86 = platform.machine() == "x86_64"
WIDE = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma"


def has(flag: str) -> bool:
    cpu = Path("/proc/cpuinfo")
    return X86 and cpu.exists() and f" {flag} " in cpu.read_text()


@pytest.mark.parametrize(
    ("sanitizer", "isa", "flags"),
    [
        ("address,undefined", "avx512", WIDE.split()),
        ("address,undefined", "avx2", ["-mavx2", "-mfma"]),
        ("address,undefined", "scalar", []),
        ("thread", "scalar", []),
    ],
)
def test_no_reports(sanitizer, isa, flags, tmp_path):
    if isa != "scalar" and not (has("avx2") and (isa == "avx2" or has("avx512bw"))):
        pytest.skip(f"this CPU has no {isa}")
    flags = [*flags, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    build_and_run(isa, flags, tmp_path / "harness", [])


@pytest.mark.skipif("FASTNN_VALGRIND" not in os.environ, reason="FASTNN_VALGRIND is not set")
def test_valgrind(tmp_path):
    build_and_run("scalar", [], tmp_path / "harness", ["valgrind", "-q", "--error-exitcode=1"])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings(compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    for isa, flags in [("scalar", ""), *([("avx512", WIDE)] if X86 else [])]:
        options = f"-std=gnu11 -Wall -Wextra -fsyntax-only -DFNN_ISA={isa} {flags}"
        command = [compiler, *options.split(), *map(str, SOURCES)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")


def build_and_run(isa, flags, binary, command):
    build = [
        *(COMPILER, "-std=gnu11", "-O1", "-g", "-pthread", "-ffp-contract=off", *flags),
        *(f"-DFNN_ISA={isa}", "-I", str(ROOT / "csrc"), *map(str, SOURCES)),
        *(str(ROOT / "tests" / "harness.c"), "-lm", "-o", str(binary)),
    ]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    if "cannot find" in result.stderr and "san" in result.stderr:
        pytest.skip("the compiler came without its sanitizers")
    assert result.returncode == 0, result.stderr
    result = subprocess.run([*command, binary], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 failures" in result.stdout
