"""The Triton backend: its checks run in processes of their own, and its kernels are compiled.

Whether Triton interprets or compiles is settled when it is imported, so no process does both.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import limprec as lp
from limprec.errors import KernelError
from limprec.formats import ScaledFormat, parse_precision
from limprec.kernels import triton
from limprec.kernels.native import SlowBackendWarning
from limprec.kernels.triton.runs import runs_of
from limprec.kernels.triton.spec import make_spec

HERE = Path(__file__).parent
CHECKS = [str(HERE / "triton_checks.py"), str(HERE / "triton_group_checks.py")]
there = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@there
@pytest.mark.parametrize(
    "where",
    [
        "interpreter",
        pytest.param(
            "gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)
def test_same_bits_as_the_reference(where: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", *CHECKS, "-p", "no:cacheprovider", "-x"]
    command += ["-W", "ignore::RuntimeWarning"]  # the interpreter divides as numpy does
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1]
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout.splitlines()[-1]


def ptx_of(
    kernel: Any,
    carrier: str,
    constants: dict[str, Any],
    numbers: dict[str, int] | None = None,
    integers: str = "i64",
) -> str:
    """Compile as a launch would, for a GPU that need not be there.

    ``numbers`` are arguments whose values a launch looks at: 1, or multiples of 16. A launch takes
    ``integers`` in 32 bits where they fit.
    """
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    numbers = {"count": 4096} if numbers is None else numbers
    carried = "*i32" if carrier == "float32" else "*i16"
    pointers = {"x": carried, "out": carried, "top": "*i32", "extremes": "*i32", "scale": "*fp32"}
    pointers = {n: t for n, t in pointers.items() if n in kernel.arg_names}
    fixed = {**constants, **{n: 1 for n, value in numbers.items() if value == 1}}
    signature = dict.fromkeys(kernel.arg_names, integers) | pointers
    signature |= dict.fromkeys(fixed, "constexpr")
    places = {n: (i,) for i, n in enumerate(kernel.arg_names)}
    multiples = [n for n, value in numbers.items() if value % 16 == 0]
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[n]: value for n, value in fixed.items()},
        attrs={places[n]: [["tt.divisibility", 16]] for n in (*pointers, *multiples)},
    )
    options = {"enable_fp_fusion": kernel.arg_names.count("scale") == 0}  # as launch.py has it
    return str(compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"])


@there
@pytest.mark.parametrize("carrier", ["float32", "bfloat16", "float16"])
def test_kernels_compile_to_integer_arithmetic(
    carrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed to compile for one, and what is not computed in floats cannot differ."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from limprec.kernels.triton.launch import INTERPRETED, compiled_for
    from limprec.kernels.triton.rounding import largest, round_elements

    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    code = {"largest": ptx_of(largest, carrier, {"CARRIER": carrier, "BLOCK": 1024})}
    for name in ("e5m2", "e4m3:down", "e8m3b130:stochastic", "binary8p1", "dfx8", "fx8.4-wrap:up"):
        constants = compiled_for(make_spec(name), carrier, phase=0)
        code[name] = ptx_of(round_elements, carrier, constants)
    few = compiled_for(make_spec("e8m3b130:stochastic16"), carrier, phase=0)
    code["half"] = ptx_of(round_elements, carrier, few)
    products = {name: code[name].count("mul.hi") for name in ("half", "e8m3b130:stochastic")}
    assert 14 <= products["half"] <= 0.6 * products["e8m3b130:stochastic"]  # two a round
    for name, ptx in code.items():
        assert "ld.global.v4.b32" in ptx, f"{name} does not read 16 bytes at a time"
        assert not floating_point(ptx), name
    constants = compiled_for(make_spec("e5m2:stochastic"), carrier, phase=3)
    wide, narrow = (ptx_of(round_elements, carrier, constants, integers=i) for i in ("i64", "i32"))
    assert wide.count("mul.hi") == narrow.count("mul.hi")  # no word of a small seed is undefined


def floating_point(ptx: str) -> set[str]:
    """Return the instructions that compute with floats; conversions are exact here."""
    found = re.findall(r"\b((?:add|sub|mul|fma|div|min|max)\.[\w.]*(?:f16|bf16|f32|f64))\b", ptx)
    return {*found, *re.findall(r"\w*ftz\w*", ptx)}


@there
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("mxfp8_e4m3:stochastic16", (256, 256)), ("mxint8a0", (256, 256))),
        *(("dfx8c0", (256, 4096)), ("nvfp4:stochastic", (256, 256))),
        *(("int8", (256, 256)), ("int8sc0", (256, 256)), ("int8mc-1", (256, 256))),
    ],
)
def test_shared_scales_compile_to_exact_arithmetic(
    name: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers for powers of two as scales; else single operations, each rounded to nearest."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from limprec.kernels.triton.grouped import round_runs
    from limprec.kernels.triton.launch import INTERPRETED, compiled_for_runs

    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    fmt = parse_precision(name).format
    assert isinstance(fmt, ScaledFormat)
    runs = runs_of(torch.Size(shape), fmt)
    constants = compiled_for_runs(make_spec(name), "float32", runs, offset=0)
    fields = ("count", "size", "length", "blocks", "stride", "parts", "entries")
    ptx = ptx_of(round_runs, "float32", constants, {n: getattr(runs, n) for n in fields})
    assert "ld.global.v4.b32" in ptx
    exact = {"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32", "min.f32", "max.f32"}
    assert floating_point(ptx) <= (exact if name.startswith(("int", "nv")) else set())


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import limprec.kernels.triton, sys; print('triton' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@there
def test_cpu_tensors_are_refused() -> None:
    if triton.can_round(torch.randn(4), parse_precision("e5m2")):
        pytest.skip("TRITON_INTERPRET is set: the CPU interprets")
    with pytest.raises(KernelError, match=r"no kernel for e5m2 in torch.float32 on cpu.*AUTO"):
        lp.quantize(torch.randn(4), "e5m2", backend=lp.Backend.TRITON)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_loaded", (False, "No module named 'triton'"))
    monkeypatch.setattr(triton, "_warned", False)
    x, precision = torch.randn(4), parse_precision("e5m2")
    assert triton.missing() == "No module named 'triton'"
    with pytest.raises(KernelError, match=r"No module named 'triton'.*pip install triton"):
        lp.quantize(x, precision, backend=lp.Backend.TRITON)
    assert not triton.can_round(x, precision)

    class OnGpu:
        dtype, is_cuda = torch.float32, True

    with pytest.warns(SlowBackendWarning, match="pip install triton"):
        assert not triton.can_round(OnGpu(), precision)  # type: ignore[arg-type]
    assert not triton.can_round(OnGpu(), precision)  # type: ignore[arg-type]  # said once
