"""Narrow storage on the CPU: codes and back, ReLU's masks; in copies of the same float32 tensor.

python -m benchmarks.storage [--save] [--rounds 30]
"""

from __future__ import annotations

import argparse
import os

import torch
from torch import Tensor

from limprec.formats import parse_format, parse_precision
from limprec.kernels import Key, native, round_to, round_to_codes, to_codes, widen
from limprec.kernels.masks import masked, relu_with_mask

from .report import cpu_name, save, today
from .rounding import HEAD, Work, rows, timed

SHAPES = {"2^24": (256, 64, 32, 32), "2^21, ResNet-20's first": (128, 16, 32, 32)}
FORMATS = ("dfx8", "fx8.4", "e4m3", "e5m2", "dfx12", "dfx8c1", "mxfp8_e4m3")
KEY = Key(1, stream=2, step=3)


def codes(x: Tensor, rounds: int) -> list[str]:
    """Time rounding to codes and widening, both with fresh results, as `round_to`'s."""
    y = x.clone()
    cases: dict[str, Work] = {"copy": lambda: y.copy_(x), "clone": lambda: x.clone()}
    for name in FORMATS:
        kept = to_codes(round_to(x, parse_precision(name), None), parse_format(name))
        assert kept is not None
        for mode in ("nearest", "stochastic16") if name in FORMATS[:2] else ("nearest",):
            p = parse_precision(f"{name}:{mode}")
            cases[f"{p.format}, {mode}: round_to"] = lambda p=p: round_to(x, p, KEY)  # type: ignore[misc]
            cases[f"{p.format}, {mode}: round_to_codes"] = lambda p=p: round_to_codes(x, p, KEY)  # type: ignore[misc]
        cases[f"{name}: widen"] = lambda kept=kept: widen(kept)  # type: ignore[misc]
    return [*HEAD, *rows(timed(cases, rounds, lambda: None), "copy", {})]


def masks(x: Tensor, rounds: int) -> list[str]:
    """Time ReLU and its gradient beside PyTorch's own, all with fresh results."""
    y, grad, dense = x.clone(), torch.randn_like(x), torch.relu(x)
    _, mask = relu_with_mask(x)
    cases: dict[str, Work] = {
        "copy": lambda: y.copy_(x),
        "clone": lambda: x.clone(),
        "torch.relu": lambda: torch.relu(x),
        "relu_with_mask": lambda: relu_with_mask(x),
        "PyTorch's gradient of relu": lambda: torch.ops.aten.threshold_backward(grad, dense, 0),
        "masked": lambda: masked(grad, mask, x.stride()),
    }
    return [*HEAD, *rows(timed(cases, rounds, lambda: None), "copy", {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--rounds", type=int, default=30, help="of every measurement")
    options = parser.parse_args()
    if native.missing() is not None:
        parser.exit(2, f"the native kernels are missing: {native.missing()}\n")
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    lines = [
        f"# Narrow storage on the CPU, {today()}",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} threads, {native.best_simd().name}, PyTorch"
        f" {torch.__version__}; system load {load} at the start. A copy is `y.copy_(x)` between"
        " float32 tensors that exist already; `clone` and all the rest make their results. Timed in"
        " turn; `fastest` compares the fastest rounds, `median` is the median of each round's"
        " ratio.",
    ]
    for name, shape in SHAPES.items():
        x = torch.randn(shape)
        lines += ["", f"## {name} float32: codes", "", *codes(x, options.rounds)]
        lines += ["", f"## {name} float32: ReLU", "", *masks(x, options.rounds)]
    report = "\n".join(lines) + "\n"
    print(report)
    if options.save:
        save("storage", report)


if __name__ == "__main__":
    main()
