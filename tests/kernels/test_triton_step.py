"""The Triton steps: their checks run in processes of their own, and their kernels are compiled.

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

from limprec.errors import KernelError
from limprec.formats import parse_precision
from limprec.kernels import triton
from limprec.kernels.steps import Flag, Rule, Slots, StepKey, StepSpec, Storage, WriteBack
from limprec.kernels.triton import steps
from limprec.kernels.triton.step_spec import Constants, constants_of

CHECKS = Path(__file__).with_name("triton_step_checks.py")
BF16, E4M3, E5M2 = torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2
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
def test_same_bits_as_the_reference(where: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-p", "no:cacheprovider", "-x"]
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=CHECKS.parents[2]
    )
    assert run.returncode == 0, run.stdout + run.stderr


def kept(name: str, dtype: torch.dtype, **options: Any) -> Storage:
    return Storage(parse_precision(name), dtype, **options)


SOFT = kept("bf16:stochastic16", BF16)
SPECS = {
    "sgd": StepSpec(
        Rule.SGD, Flag.MOMENTUM, (SOFT,), kept("bf16", BF16), WriteBack.KAHAN, kept("bf16", BF16)
    ),
    "adamw": StepSpec(
        Rule.ADAM, Flag.DECOUPLED, (SOFT, SOFT), kept("bf16", BF16), WriteBack.KAHAN, SOFT
    ),
    "rmsprop": StepSpec(
        Rule.RMSPROP,
        Flag.CENTERED | Flag.MOMENTUM,
        (kept("fp16", torch.float16), kept("fp32", torch.float32), SOFT),
        kept("e4m3:stochastic", E4M3),
        WriteBack.STOCHASTIC,
    ),
    "blocks": StepSpec(
        Rule.ADAM,
        Flag.DECOUPLED | Flag.AMSGRAD,
        (
            kept("mxfp8_e4m3:stochastic16", E4M3),
            *[kept("mxfp8_e5m2:stochastic16", E5M2, above_zero=True)] * 2,
        ),
        kept("bf16", BF16),
        WriteBack.LAZY,
        kept("bf16:stochastic16", torch.int8, ulp_bits=8),
    ),
}


def ptx_of(kernel: Any, constants: Constants, tensors: dict[str, str]) -> str:
    """Compile as a launch would, for a GPU that need not be there."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fixed = {"C": constants, "SHIFTED": False, "BLOCK": steps.BLOCK}
    wide = dict.fromkeys({"count", "stream", "offset"} & {*kernel.arg_names}, "i64")
    signature = dict.fromkeys(kernel.arg_names, "i32") | wide | tensors
    signature |= dict.fromkeys(fixed, "constexpr")
    places = {n: (i,) for i, n in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[n]: value for n, value in fixed.items()},
        attrs={places[n]: [["tt.divisibility", 16]] for n in tensors},
    )
    compiled = compile(source, target=GPUTarget("cuda", 80, 32), options=steps.OPTIONS)
    return str(compiled.asm["ptx"])


@there
@pytest.mark.parametrize("name", SPECS)
def test_compiled_kernels_round_every_operation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is contracted, flushed or approximated, and memory is read in wide words."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from limprec.kernels.triton.launch import INTERPRETED
    from limprec.kernels.triton.step_kernel import step_many

    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    constants = constants_of(SPECS[name], BF16)
    assert constants is not None
    ptx = ptx_of(step_many, constants, {"table": "*i64", "tensors": "*i32"})
    assert not re.search(r"ftz|approx|full|\bfma\.|\bmad\.[\w.]*f32", ptx)
    sums = re.findall(r"\b(?:add|sub|mul|div|sqrt)\.(?:\w+\.)*f32\b", ptx)
    assert sums
    assert all(".rn." in instruction for instruction in sums), set(sums)
    assert re.search(r"ld\.global\.v4\.b32", ptx)
    assert re.search(r"st\.global\.v4\.b32" if name != "rmsprop" else r"st\.global\.v2", ptx)
    assert "ld.local" not in ptx


@there
def test_the_kernel_for_a_tensor_alone_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from limprec.kernels.triton.launch import INTERPRETED
    from limprec.kernels.triton.step_kernel import step_one

    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    constants = constants_of(SPECS["sgd"], BF16)
    assert constants is not None
    names = ("p", "grad", "carry", "a", "b", "c", "a_scale", "b_scale", "c_scale")
    ptx = ptx_of(step_one, constants, dict.fromkeys(names, "*i16"))
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) == 4  # each tensor is read once,
    assert len(re.findall(r"st\.global\.v4\.b32", ptx)) == 3  # and written once


@there
def test_a_launch_compiles_nothing_anew_as_numbers_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton compiles a kernel for is the same at every step, rate and seed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    from limprec.kernels.triton import step_kernel
    from limprec.kernels.triton.launch import INTERPRETED

    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    seen = set()

    class Kernel:
        def __init__(self, kernel: Any) -> None:
            backend = make_backend(GPUTarget("cuda", 80, 32))
            self.bind = create_function_from_signature(kernel.signature, kernel.params, backend)

        def __getitem__(self, grid: tuple[int]) -> Any:
            def launch(*arguments: Any, **constants: Any) -> None:
                _, specialization, _ = self.bind(*arguments, **constants)
                seen.add(str(specialization))

            return launch

    monkeypatch.setattr(step_kernel, "step_many", Kernel(step_kernel.step_many))
    monkeypatch.setattr(step_kernel, "step_one", Kernel(step_kernel.step_one))
    spec = SPECS["sgd"]
    constants = constants_of(spec, BF16)
    assert constants is not None
    for count in (1, 3):
        seen.clear()
        group = [Slots(*(torch.zeros(64, dtype=BF16) for _ in range(3)), (torch.zeros(64),))]
        for number in (1, 2, 16, 1000, 2**31 - 1):
            for seed in (0, 1, 16, 2**31, 2**63 - 1):
                for rate in (0.0, 1.0, -1e-3, 1e-30):
                    key = StepKey(seed, 2**31 + 8, number)
                    steps._launch(constants, [(group[0], key)] * count, (rate, 0.0, 0.9, 1.0))
        assert len(seen) == 1


def test_tables_are_kept_while_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_tables", type(steps._tables)())
    group = [(Slots(torch.zeros(n), torch.zeros(n)), StepKey(0, 8 * n, 1)) for n in (3000, 1, 1024)]
    table, owners = steps._table(group)
    assert owners.tolist() == [0, 0, 0, 1, 2]
    assert table.view(3, -1)[:, 9:13].tolist() == [
        [3000, 0, 24000, 0],
        [1, 3, 8, 0],
        [1024, 4, 8192, 0],
    ]
    assert table.view(3, -1)[:, 0].tolist() == [one.p.data_ptr() for one, _ in group]
    later = [(one, key._replace(step=2)) for one, key in group]
    assert steps._table(later)[0] is table
    moved = [(one._replace(grad=one.grad.clone()), key) for one, key in group]
    assert steps._table(moved)[0] is not table
    for _ in range(3 * steps.TABLES_KEPT):
        moved = [(one._replace(grad=one.grad.clone()), key) for one, key in moved]
        steps._table(moved)
    assert len(steps._tables) == steps.TABLES_KEPT


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_loaded", (False, "No module named 'triton'"))
    slots = [Slots(torch.zeros(3, dtype=BF16), torch.zeros(3, dtype=BF16))]
    spec = StepSpec(Rule.SGD, Flag.NONE, (), kept("bf16", BF16), WriteBack.NEAREST)
    assert not steps.can_step(spec, slots)
    with pytest.raises(KernelError, match=r"No module named 'triton'.*pip install triton"):
        steps.step(spec, slots, (1.0, 0.0, 0.0, 1.0), [StepKey(0, 0, 1)])
