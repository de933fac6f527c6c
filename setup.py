"""Builds the native CPU kernels, if PyTorch and a C++ compiler are there; all else is pyproject.

Build with ``pip install --no-build-isolation .`` so that the installed PyTorch is seen. The binary
uses the stable ABIs of Python and PyTorch: it is good for Python >= 3.11 and PyTorch >= 2.10.
"""

from __future__ import annotations

import platform
import sys
import zlib
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if int(setuptools.__version__.split(".")[0]) < 77:  # older ones cannot read pyproject.toml
    sys.exit(
        f"limprec: setuptools {setuptools.__version__} is too old to build it;"
        " run: pip install --upgrade setuptools"
    )

NATIVE = Path("src/limprec/kernels/native")
REQUESTS = [NATIVE / "spec.py", NATIVE / "steps.py", NATIVE / "stored.py"]
"""What these ask, the extension answers: it is good for them alone."""
PER_LEVEL = sorted(map(str, NATIVE.glob("*kernels.cpp")))
"""Compiled once per instruction set; every other source once."""
X86 = platform.machine().lower() in ("x86_64", "amd64")
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-ffp-contract=off",  # a fused multiply-add would round differently
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # vectors are passed between inlined functions only
    "-Wno-maybe-uninitialized",  # false alarms in GCC's own AVX-512 header
]
LEVELS = {
    "PORTABLE": [],
    "AVX2": ["-mavx2", "-mf16c"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}
"""The instruction sets; which one runs is decided at run time."""


class BuildNative(build_ext):
    """Compiles the kernels per instruction set; a failure leaves a pure Python package."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension, or say in one line why not."""
        try:
            for level in LEVELS if X86 else ["PORTABLE"]:
                ext.extra_objects += self.compiler.compile(
                    PER_LEVEL,
                    output_dir=str(Path(self.build_temp, level)),
                    macros=[*ext.define_macros, ("LIMPREC_LEVEL", level.lower())],
                    extra_postargs=[*FLAGS, *LEVELS[level], f"-DLIMPREC_TABLE={level}"],
                    depends=ext.depends,
                )
            super().build_extension(ext)
        except Exception as error:
            skip(f"{type(error).__name__}: {error}")


def skip(reason: str) -> None:
    """Say why the native kernels are not built."""
    print(f"limprec: no native kernels, only the slow reference ({reason})", file=sys.stderr)


def extensions() -> list[Extension]:
    """Return the native extension, or nothing where PyTorch is not installed."""
    try:
        import torch
    except ImportError as error:
        skip(f"{error}; build with --no-build-isolation where PyTorch is installed")
        return []
    root = Path(torch.__file__).parent
    return [
        Extension(
            "limprec.kernels.native._C",
            sources=sorted({*map(str, NATIVE.glob("*.cpp"))} - {*PER_LEVEL}),
            depends=sorted([*map(str, [*NATIVE.glob("*.h"), *REQUESTS]), *PER_LEVEL]),
            library_dirs=[str(root / "lib")],
            libraries=["torch_cpu"],
            define_macros=[
                ("TORCH_TARGET_VERSION", "0x020a000000000000"),  # 2.10
                ("LIMPREC_STAMP", f"{zlib.crc32(b''.join(p.read_bytes() for p in REQUESTS))}u"),
                *([("LIMPREC_X86", "1")] if X86 else []),
            ],
            extra_compile_args=[*FLAGS, "-isystem", str(root / "include")],
            py_limited_api=True,
        )
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
