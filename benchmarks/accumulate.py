"""Products at accumulator precision against float32 ones, in one run: giga multiply-adds a second.

python -m benchmarks.accumulate [--save] [--seconds 1] [--no-peers]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from limprec.kernels.matmul import matmul, native
from limprec.kernels.native import best_simd

from .peers import peers
from .report import cpu_name, save, today

SIZES = (256, 512)
CASES: dict[str, dict[str, Any]] = {
    "e5m10, every multiply-add rounded": {},
    "e5m10, product rounded, then the sum": {"product": "e5m10"},
    "e5m10, chunks of 64": {"chunk": 64},
    "e5m10, Kahan": {"kahan": True},
    "bf16": {"accumulator": "bf16"},
    "e6m9, toward zero": {"accumulator": "e6m9", "rounding": "toward_zero"},
    "fp32, one rounding": {"accumulator": "fp32"},
    "fixed point fx24.8": {"accumulator": "fx24.8"},
    "fixed point fx16.8-wrap": {"accumulator": "fx16.8-wrap"},
    "e5m10, tree": {"adder": "tree"},
    "e5m10, aligned:4:2": {"adder": "aligned:4:2"},
    "e5m10, stochastic": {"rounding": "stochastic", "seed": 0},
}
GOALS = {"e5m10, every multiply-add rounded": 20.0, "e5m10, Kahan": 4.0}
MPTORCH = 0.06
"""GMAC/s of mptorch 0.3.0 for the first case at 256^3, two Zen 5 cores, 2026-11-23."""
PEER_SIZE = 256
PEER_GOAL = 300
"""How many times mptorch's rate the first case should reach."""


def fastest(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest of the runs that fit into ``seconds``, at least three."""
    work()
    best, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


def measure(seconds: float) -> list[str]:
    """Return the lines of the report."""
    lines = [
        f"# Products at accumulator precision, {today()}",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} threads, {best_simd().name},"
        f" PyTorch {torch.__version__}. Operands are normal numbers, for fixed point"
        " rounded to 1/16."
        " Giga multiply-adds a second, the fastest of several runs; the float32 product of PyTorch"
        f" was timed next to each. {MPTORCH} is the rate of mptorch 0.3.0 for the first case on two"
        " Zen 5 cores; where it is installed it is timed below.",
    ]
    if native.missing() is not None:
        lines += ["", f"Without the native kernel: {native.missing()}"]
    g = torch.Generator().manual_seed(0)
    for size in SIZES:
        a, b = torch.randn(size, size, generator=g), torch.randn(size, size, generator=g)
        work = size**3 / 1e9
        lines += ["", f"## {size}^3", ""]
        lines += [
            f"| accumulator | GMAC/s | of float32's | goal | times {MPTORCH} |",
            "|---|---|---|---|---|",
        ]
        for name, options in CASES.items():
            fixed = "fixed" in name
            x, y = ((a * 16).round() / 16, (b * 16).round() / 16) if fixed else (a, b)
            plain = work / fastest(lambda x=x, y=y: x @ y, seconds / 4)  # type: ignore[misc]
            rate = work / fastest(lambda x=x, y=y, o=options: matmul(x, y, **o), seconds)  # type: ignore[misc]
            goal = GOALS.get(name)
            verdict = "" if goal is None else f"{goal:g}: {'met' if rate >= goal else 'missed'}"
            lines.append(
                f"| {name} | {rate:.2f} | {rate / plain:.3f} ({plain:.0f}) | {verdict} |"
                f" {rate / MPTORCH:.0f} |"
            )
            print(lines[-1], flush=True)
    return lines


def beside_peers(rounds: int = 5) -> list[str]:
    """Time the same products of other packages, each in turn with ours; return the lines."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(PEER_SIZE, PEER_SIZE, generator=g) for _ in range(2))
    found, notes = peers()
    lines = ["", f"## Other implementations, {PEER_SIZE}^3", ""]
    lines += [
        "| peer | accumulator | GMAC/s | ours | times, fastest | times, median | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for peer in found:
        for name, product in peer.products.items():
            pairs = []
            for number in range(rounds + 1):
                pair = [_seconds(lambda p=product: p(a, b))]  # type: ignore[misc]
                pair.append(_seconds(lambda n=name: matmul(a, b, **CASES[n])))  # type: ignore[misc]
                pairs += [pair] if number else []  # the first round warms up
            theirs, ours = (PEER_SIZE**3 / 1e9 / min(taken) for taken in zip(*pairs, strict=True))
            median = statistics.median(one / other for one, other in pairs)
            verdict = ""
            if peer.name.startswith("mptorch") and name == next(iter(CASES)):
                met = "met" if ours / theirs >= PEER_GOAL else "missed"
                verdict = f"{PEER_GOAL}: {met}"
            lines.append(
                f"| {peer.name} | {name} | {theirs:.3f} | {ours:.2f} | {ours / theirs:.0f} |"
                f" {median:.0f} | {verdict} |"
            )
            print(lines[-1], flush=True)
    return [*lines, *(line for note in notes for line in ("", note))]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--seconds", type=float, default=1.0, help="per line")
    parser.add_argument("--no-peers", action="store_true", help="leave other implementations out")
    options = parser.parse_args()
    lines = measure(options.seconds)
    lines += [] if options.no_peers else beside_peers()
    report = "\n".join(lines) + "\n"
    print(report)
    if options.save:
        save("accumulate", report)


if __name__ == "__main__":
    main()
