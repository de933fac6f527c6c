"""Installed where there is no C++ compiler: nothing is lost but speed, and that is said once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WORK = """
import sys, warnings
sys.modules["limprec.kernels.native._C"] = None  # as if it had not been built
import torch
import limprec as lp

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = torch.randn(6, 8)
    lp.matmul(x, x.T, accumulator="e5m10")
    for name in ("e5m2", "e5m2:stochastic", "dfx8", "mxfp8_e4m3", "bf16:stochastic16"):
        lp.quantize(x, name, seed=0)
    model = lp.convert(torch.nn.Linear(8, 4), lp.Plan.uniform("dfx8"))
    opt = lp.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, writeback="kahan", format="dfx8")
    model(x).square().sum().backward()
    opt.step()
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def test_everything_works_and_one_warning_says_that_it_is_slower() -> None:
    run = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    assert line.startswith("SlowBackendWarning limprec: the native kernels are missing")
    assert "install a C++17 compiler and run `pip install" in line


def test_a_build_without_a_compiler_ends_well_and_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    run = subprocess.run(
        [*command, "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")],
        capture_output=True,
        text=True,
        env={**os.environ, "CC": "/bin/false", "CXX": "/bin/false"},
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "limprec: no native kernels, only the slow reference (CompileError" in run.stderr
    assert not list(tmp_path.rglob("*.so"))
