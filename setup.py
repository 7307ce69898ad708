"""Builds the compiled kernels: csrc/ once per instruction set, then the Cython modules over it.

Everything else about the package stands in pyproject.toml.
"""

import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

X86 = platform.machine() in ("x86_64", "AMD64")
INSTRUCTION_SETS = {"scalar": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mprfchw"]
    INSTRUCTION_SETS["avx512"] = [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mprfchw",
    ]

# compiled once per instruction set; the other files of csrc/ once in all
KERNELS = ["tile", "gemm", "batchnorm", "conv2d", "delayed", "elementwise", "embedding", "loss"]
KERNELS += ["norms", "optimizer", "pool2d", "rnn", "step", "table"]
SHARED = ["threads", "plan", "dispatch"]
MODULES = ["plan", "fusion", "batchnorm", "conv2d", "dense", "elementwise", "embedding", "loss"]
MODULES += ["norms", "optimizer", "pool2d", "rnn", "step"]

CFLAGS = [
    "-std=gnu11",
    "-O3",
    "-g0",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-pthread",
]
HEADERS = [str(path) for path in Path("csrc").glob("*.h")]


class BuildExt(build_ext):
    """Compiles csrc/ for every instruction set into the one module that owns the C core, plan."""

    def build_extensions(self):
        self.check_compiler()
        jobs = [(name, isa, flags) for isa, flags in INSTRUCTION_SETS.items() for name in KERNELS]
        jobs += [(name, "shared", []) for name in SHARED]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [path for paths in pool.map(self.compile_c, jobs) for path in paths]
        core = next(ext for ext in self.extensions if ext.name == "fastnn.kernels.plan")
        core.extra_objects += objects
        core.depends += objects
        self.parallel = os.cpu_count()
        super().build_extensions()

    def compile_c(self, job):
        name, isa, flags = job
        folder, source = f"{self.build_temp}/{isa}", f"csrc/{name}.c"
        macros = [("FNN_ISA", isa)] + ([("FNN_X86", "1")] if X86 else [])
        objects = self.compiler.object_filenames([source], output_dir=folder)
        newest = max(os.path.getmtime(path) for path in [source, __file__, *HEADERS])
        if not os.path.exists(objects[0]) or os.path.getmtime(objects[0]) < newest:
            self.compiler.compile(
                [source], output_dir=folder, macros=macros, extra_postargs=CFLAGS + flags
            )
        return objects

    def check_compiler(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text("#include <Python.h>\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder)
            except (CompileError, OSError) as error:
                raise SystemExit(
                    "fastnn is built from C: it needs a C compiler (gcc or clang) and Python's "
                    "headers.\nOn Debian or Ubuntu: apt install build-essential python3-dev\n"
                    f"The compiler said: {error}"
                ) from error


def extension(name):
    return Extension(
        f"fastnn.kernels.{name}",
        [f"fastnn/kernels/{name}.pyx"],
        include_dirs=["csrc", np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        # Cython's own output is not ours to keep free of warnings
        extra_compile_args=["-O2", "-g0", "-pthread", "-fvisibility=hidden"],
        extra_link_args=["-pthread", "-Wl,-s"],
        depends=HEADERS,
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in MODULES],
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
            "binding": True,
            "boundscheck": False,
            "initializedcheck": False,
            "embedsignature": True,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
