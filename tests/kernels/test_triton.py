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
from limprec.formats import parse_precision
from limprec.kernels import triton
from limprec.kernels.native import SlowBackendWarning
from limprec.kernels.triton.spec import make_spec

CHECKS = Path(__file__).with_name("triton_checks.py")
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
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-p", "no:cacheprovider", "-x"]
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=CHECKS.parents[2]
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout.splitlines()[-1]


def ptx_of(kernel: Any, pointers: list[str], carrier: str, constants: dict[str, Any]) -> str:
    """Compile as a launch with a count that 16 divides would, for a GPU that need not be there."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    carried = "*i32" if carrier == "float32" else "*i16"
    signature = dict.fromkeys(kernel.arg_names, "i64")
    signature |= {n: "*i32" if n == "top" else carried for n in pointers}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {n: (i,) for i, n in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[n]: value for n, value in constants.items()},
        attrs={places[n]: [["tt.divisibility", 16]] for n in (*pointers, "count")},
    )
    return str(compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"])


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
    code = {"largest": ptx_of(largest, ["x", "top"], carrier, {"CARRIER": carrier, "BLOCK": 1024})}
    for name in ("e5m2", "e4m3:down", "e8m3b130:stochastic", "binary8p1", "dfx8", "fx8.4-wrap:up"):
        constants = compiled_for(make_spec(name), carrier, phase=0)
        code[name] = ptx_of(round_elements, ["x", "out", "top"], carrier, constants)
    few = compiled_for(make_spec("e8m3b130:stochastic16"), carrier, phase=0)
    code["half"] = ptx_of(round_elements, ["x", "out", "top"], carrier, few)
    products = {name: code[name].count("mul.hi") for name in ("half", "e8m3b130:stochastic")}
    assert 14 <= products["half"] <= 0.6 * products["e8m3b130:stochastic"]  # two a round
    for name, ptx in code.items():
        assert "ld.global.v4.b32" in ptx, f"{name} does not read 16 bytes at a time"
        floating = r"\b(add|sub|mul|fma|div|min|max)\.[\w.]*(f16|bf16|f32|f64)\b|ftz"
        assert not re.search(floating, ptx), name
    constants = compiled_for(make_spec("e5m2:stochastic"), carrier, phase=3)
    ptx_of(round_elements, ["x", "out", "top"], carrier, constants)


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
