"""Optimizer steps on the CPU against torch.optim's fused ones, scaled by the bytes that they move.

python -m benchmarks.optim [--save] [--rounds 20] [--elements 16777216] [--no-peers]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import limprec as lp
from limprec.kernels import native

from .report import cpu_name
from .rounding import Work, timed

ELEMENTS = 2**24
SMALL = 200
"""Tensors of the small model, of 1,000 to 10,000 elements."""
BF16, FP32 = torch.bfloat16, torch.float32
GOALS = {"SGD": 1.25, "AdamW": 1.5}
"""A Kahan step in bfloat16 may take so many times torch's fused fp32 step, scaled by bytes."""
SMALL_GOAL = 1.3
"""And a step of the small model so many times torch's fused one."""
STOCHASTIC_GOAL = 1.3
"""And one with a stochastic compensation so many times the nearest one."""
PEER_GOAL = 3.0
"""Optimi's best takes at least so many times ours."""

Case = tuple[str, torch.dtype, Callable[[list[Tensor]], Optimizer]]
HEAD = "| step | bytes | ms, fastest | ms, median | of torch, by bytes | of a copy |"


def parameters(sizes: list[int], dtype: torch.dtype) -> list[Tensor]:
    """Return parameters with gradients that do not lead anywhere."""
    params: list[Tensor] = [torch.nn.Parameter(torch.randn(n).to(dtype)) for n in sizes]
    for p in params:
        p.grad = torch.randn(p.shape).to(dtype)
    return params


def moved(optimizer: Optimizer) -> float:
    """Return the bytes that a step reads and writes for each parameter."""
    elements = total = 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            kept = [x for x in optimizer.state[p].values() if isinstance(x, Tensor)]
            elements += p.numel()
            total += p.nbytes + 2 * (p.nbytes + sum(x.nbytes for x in kept if x.numel() > 1))
    return total / elements


def compare(
    cases: list[Case], sizes: list[int], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time the cases in turn; the first one is torch's, and a copy of its bytes comes before it."""
    steps: dict[str, Work] = {}
    bytes_: dict[str, float] = {}
    for name, dtype, make in cases:
        optimizer = make(parameters(sizes, dtype))
        optimizer.step()
        steps[name], bytes_[name] = optimizer.step, moved(optimizer)
    half = torch.empty(int(sum(sizes) * next(iter(bytes_.values())) / 2), dtype=torch.uint8)
    target = torch.empty_like(half)
    half.fill_(1)
    steps = {"copy": lambda: target.copy_(half), **steps}
    bytes_ = {"copy": 2 * len(half) / sum(sizes), **bytes_}
    return timed(steps, rounds, lambda: None), bytes_


def ratio(own: list[float], base: list[float], scale: float = 1.0) -> tuple[float, float]:
    """Return how many times the base a case takes: the fastest rounds, the median of each round."""
    each = statistics.median(a / b for a, b in zip(own, base, strict=True))
    return min(own) / min(base) / scale, each / scale


def table(times: dict[str, list[float]], bytes_: dict[str, float]) -> list[str]:
    """Return the rows; ratios are of bytes that take as long, fastest and median."""
    names = list(times)
    lines = [HEAD, "|---|---|---|---|---|---|"]
    for name, own in times.items():
        by = [ratio(own, times[base], bytes_[name] / bytes_[base]) for base in (names[1], names[0])]
        shown = [f"{fastest:.2f}, {median:.2f}" for fastest, median in by]
        lines.append(
            f"| {name} | {bytes_[name]:.1f} | {min(own):.2f} | {statistics.median(own):.2f} |"
            f" {shown[0]} | {shown[1]} |"
        )
    return lines


def verdict(what: str, found: tuple[float, float], goal: float, *, least: bool = False) -> str:
    """Return a line that says whether a goal is met, by the fastest rounds."""
    met = found[0] >= goal if least else found[0] <= goal
    word = "at least" if least else "at most"
    result = "met" if met else "missed"
    return f"- {what}: {found[0]:.2f} (median {found[1]:.2f}), {word} {goal:g}: {result}"


def ours(name: str, **options: Any) -> Callable[[list[Tensor]], Optimizer]:
    """Return what makes one of limprec's optimizers."""
    kind = getattr(lp.optim, name)
    if name == "SGD":
        options = {"momentum": 0.9, **options}
    return lambda params: kind(params, lr=1e-3, **options)


def fused(name: str) -> Callable[[list[Tensor]], Optimizer]:
    """Return what makes one of torch's fused optimizers."""
    kind = getattr(torch.optim, name)
    options = {"momentum": 0.9} if name == "SGD" else {}
    return lambda params: kind(params, lr=1e-3, fused=True, **options)


def peers(name: str) -> list[Case]:
    """Return optimi's Kahan optimizers, nothing where it is not installed."""
    try:
        import optimi
    except ImportError:
        return []
    kind = getattr(optimi, name)
    options = {"momentum": 0.9} if name == "SGD" else {}

    def make(foreach: bool) -> Callable[[list[Tensor]], Optimizer]:
        return lambda params: kind(params, lr=1e-3, kahan_sum=True, foreach=foreach, **options)

    return [
        ("optimi, bf16 Kahan", BF16, make(False)),
        ("optimi, bf16 Kahan, foreach", BF16, make(True)),
    ]


KAHAN, NEAREST = "bf16 Kahan", "bf16 Kahan, compensation nearest"


def large(name: str, rounds: int, elements: int, *, with_peers: bool) -> list[str]:
    """Time one optimizer on one large tensor."""
    cases: list[Case] = [
        ("torch fused, fp32", FP32, fused(name)),
        ("torch fused, bf16", BF16, fused(name)),
        (KAHAN, BF16, ours(name)),
        (NEAREST, BF16, ours(name, compensation_rounding="nearest")),
        ("bf16 stochastic", BF16, ours(name, writeback="stochastic")),
        ("bf16 nearest", BF16, ours(name, writeback="nearest")),
        ("bf16 split", BF16, ours(name, writeback="split")),
        ("bf16 master", BF16, ours(name, writeback="master")),
        ("bf16 lazy", BF16, ours(name, writeback="lazy")),
        ("bf16 Kahan, ulp8", BF16, ours(name, compensation_format="ulp8")),
        ("bf16 Kahan, states mxfp8", BF16, ours(name, state_format="mxfp8")),
        ("fp16 Kahan", torch.float16, ours(name)),
        ("e4m3 Kahan, ulp8, states mxfp8", torch.float8_e4m3fn, ours(name, state_format="mxfp8")),
        ("fp32 nearest", FP32, ours(name, writeback="nearest")),
        ("fp32 as e4m3 Kahan", FP32, ours(name, format="e4m3")),
    ]
    others = peers(name) if with_peers else []
    times, bytes_ = compare(cases + others, [elements], rounds)
    base = "torch fused, fp32"
    scaled = ratio(times[KAHAN], times[base], bytes_[KAHAN] / bytes_[base])
    lines = ["", f"## {name}, one tensor of {elements:,} parameters", "", *table(times, bytes_), ""]
    lines.append(verdict("Kahan, of torch's fused fp32 by bytes", scaled, GOALS[name]))
    spread = ratio(times[KAHAN], times[NEAREST])
    lines.append(verdict("Stochastic compensation, of the nearest", spread, STOCHASTIC_GOAL))
    if others:
        best = min((times[label] for label, *_ in others), key=min)
        found = ratio(best, times[KAHAN])
        lines.append(verdict("Optimi's best, of ours", found, PEER_GOAL, least=True))
    return lines


def others(rounds: int, elements: int) -> list[str]:
    """Time the optimizers that torch has no fused step for; Adam's stands for their yardstick."""
    cases: list[Case] = [("torch fused Adam, fp32", FP32, fused("Adam"))]
    cases += [(f"{name}, bf16 Kahan", BF16, ours(name)) for name in ("Adam", "Lion", "RMSprop")]
    times, bytes_ = compare(cases, [elements], rounds)
    return ["", "## Other optimizers", "", *table(times, bytes_)]


def small(rounds: int) -> list[str]:
    """Time a model of many small tensors, Python included."""
    sizes = [1000 + 9000 * i // (SMALL - 1) for i in range(SMALL)]
    lines = ["", f"## {SMALL} tensors of 1,000 to 10,000 parameters"]
    for name in ("SGD", "AdamW"):
        cases: list[Case] = [
            (f"torch fused {name}, fp32", FP32, fused(name)),
            (f"{name}, bf16 Kahan", BF16, ours(name)),
            (f"{name}, fp32 nearest", FP32, ours(name, writeback="nearest")),
        ]
        times, bytes_ = compare(cases, sizes, 10 * rounds)
        found = ratio(times[cases[1][0]], times[cases[0][0]])
        lines += ["", *table(times, bytes_), ""]
        lines.append(verdict(f"{name} Kahan, of torch's fused fp32", found, SMALL_GOAL))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--rounds", type=int, default=20, help="of every measurement")
    parser.add_argument("--elements", type=int, default=ELEMENTS, help="of the large tensors")
    parser.add_argument("--no-peers", action="store_true", help="leave optimi out")
    options = parser.parse_args()
    if native.missing() is not None:
        parser.exit(2, f"the native kernels are missing: {native.missing()}\n")
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    with_peers = not options.no_peers
    lines = [
        f"# Optimizer steps on the CPU, {date}",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} threads, {native.best_simd().name}, PyTorch"
        f" {torch.__version__}; system load {load} at the start. Steps are timed in turn. `bytes`"
        " are what a step reads and writes for each parameter; a ratio is of times by bytes: the"
        " fastest rounds, then the median of each round's.",
        *large("SGD", options.rounds, options.elements, with_peers=with_peers),
        *large("AdamW", options.rounds, options.elements, with_peers=with_peers),
        *others(options.rounds, options.elements),
        *small(options.rounds),
    ]
    report = "\n".join(lines) + "\n"
    print(report)
    if options.save:
        slug = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
        path = Path(__file__).parent / "results" / f"optim-{slug}-{date}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(report, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
