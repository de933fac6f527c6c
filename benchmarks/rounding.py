"""Rounding on the CPU, in copies: how long a copy of the same bytes takes in the same run.

python -m benchmarks.rounding [--save] [--rounds 30] [--levels] [--no-peers]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from limprec.errors import FormatError
from limprec.formats import Precision, Rounding, parse_precision
from limprec.kernels import (
    Backend,
    Key,
    check_carrier,
    native,
    quantize,
    quantize_,
    round_to,
    storage_format,
)
from limprec.kernels.native import Simd

from .peers import Peer, peers
from .report import cpu_name, save, today

Work = Callable[[], object]

SIDE = 2**12
ELEMENTS = SIDE**2
SMALL = 1000
GOALS = {"nearest": 1.2, "stochastic": 1.5, "stochastic16": 1.5}
SCALED_GOAL = 2.0
"""In copies of the same bytes; for formats with scales to nearest, the search for amax included."""
PEER_GOALS = {"nearest": 20, "stochastic": 80}
"""How many times our time in place QPyTorch should take."""
CALL_GOAL = 2.5
"""Microseconds that a call on 1,000 elements may take over an operator that does nothing."""
SCALAR = ("e5m2", "e4m3", "fp16", "bf16", "fx8.4")
SCALED = ("dfx8", "dfx8c0", "dfx8b32", "mxfp8_e4m3", "mxint8", "nvfp4", "int8")
KEY = Key(1, stream=2, step=3)

EMPTY = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
using torch::stable::Tensor;
void one(Tensor) {}
void six(Tensor, int64_t, int64_t, int64_t, int64_t, int64_t) {}
STABLE_TORCH_LIBRARY(limprec_benchmark, m) {
  m.def("one_(Tensor(a!) x) -> ()");
  m.def("six_(Tensor(a!) x, int a, int b, int c, int d, int e) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(limprec_benchmark, CPU, m) {
  m.impl("one_", TORCH_BOX(&one));
  m.impl("six_", TORCH_BOX(&six));
}
"""


def timed(cases: dict[str, Work], rounds: int, prepare: Work) -> dict[str, list[float]]:
    """Return the milliseconds of every case in every round; rounds take the cases in turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        print(f"\r{number}/{rounds} rounds", end="", file=sys.stderr, flush=True)
        for name, work in cases.items():
            prepare()
            start = time.perf_counter()
            work()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start) * 1e3)
    print("\r", end="", file=sys.stderr)
    return times


def rows(times: dict[str, list[float]], copy: str, goals: dict[str, float]) -> list[str]:
    """Return one line of the table for each case."""
    lines = []
    for name, own in times.items():
        copies = min(own) / min(times[copy])
        each = statistics.median(a / b for a, b in zip(own, times[copy], strict=True))
        goal = goals.get(name)
        verdict = "" if goal is None else f"{goal:g}: {'met' if copies <= goal else 'missed'}"
        lines.append(
            f"| {name} | {min(own):.2f} | {statistics.median(own):.2f} |"
            f" {copies:.2f} | {each:.2f} | {verdict} |"
        )
    return lines


HEAD = [
    "| work | ms, fastest | ms, median | copies, fastest | copies, median | goal |",
    "|---|---|---|---|---|---|",
]


def carries(dtype: torch.dtype, precision: Precision) -> bool:
    """Whether a dtype holds every value of a format, and is not the format itself."""
    try:
        check_carrier(precision.format, dtype, "benchmark")
    except FormatError:
        return False
    return precision.format != storage_format(dtype, "benchmark")


def large(rounds: int, dtype: torch.dtype, levels: list[Simd]) -> list[str]:
    """Time in-place rounding of 2^24 elements, a square matrix."""
    given = torch.randn(SIDE, SIDE).to(dtype)
    x, y = given.clone(), given.clone()
    cases: dict[str, Work] = {"copy": lambda: y.copy_(x), "neg_, PyTorch's own": lambda: x.neg_()}
    goals = {}
    for name in SCALAR + SCALED:
        for rounding in GOALS:
            precision = parse_precision(f"{name}:{rounding}")
            if not carries(dtype, precision):
                continue
            for simd in levels:
                case = f"{precision.format}, {rounding}"
                case += f", {simd.name}" if len(levels) > 1 else ""
                cases[case] = partial(native.round_to, x, precision, KEY, out=x, simd=simd)
                if simd in (Simd.AUTO, native.best_simd()) and dtype == torch.float32:
                    if name in SCALAR:
                        goals[case] = GOALS[rounding]
                    elif rounding == "nearest":
                        goals[case] = SCALED_GOAL
    times = timed(cases, rounds, lambda: x.copy_(given))
    short = str(dtype).removeprefix("torch.")
    return ["", f"## 2^24 {short} in place", "", *HEAD, *rows(times, "copy", goals)]


def layouts(rounds: int) -> list[str]:
    """Time tensors that are not in row-major order, against a copy of the same layout."""
    given = torch.randn(256, 64, 32, 32).to(memory_format=torch.channels_last)
    x, y, rows_first = given.clone(), given.clone(), given.contiguous()
    cases: dict[str, Work] = {
        "copy": lambda: y.copy_(x),
        "copy to row-major and back": lambda: x.copy_(rows_first.copy_(x)),
    }
    for name in ("e5m2", "e5m2:stochastic", "dfx8", "dfx8:stochastic"):
        precision = parse_precision(name)
        cases[name] = lambda p=precision: native.round_to(x, p, KEY, out=x)  # type: ignore[misc]
    times = timed(cases, rounds, lambda: x.copy_(given))
    return ["", "## Channels-last, 2^24 float32 in place", "", *HEAD, *rows(times, "copy", {})]


def load_empty() -> bool:
    """Compile and load operators that do nothing; False where there is no compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return False
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "empty.cpp"), Path(folder, "empty.so")
        source.write_text(EMPTY, encoding="utf-8")
        command = [compiler, "-std=c++20", "-O2", "-shared", "-fPIC", str(source), "-o"]
        command += [str(library), f"-I{root / 'include'}", f"-L{root / 'lib'}", "-ltorch_cpu"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        torch.ops.load_library(library)
    return True


def calls(rounds: int) -> list[str]:
    """Time calls on 1,000 elements, where the way to the kernel counts more than the kernel."""
    x, y = torch.randn(SMALL), torch.empty(SMALL)
    nearest, stochastic = parse_precision("e5m2"), parse_precision("e5m2:stochastic")
    dynamic = parse_precision("dfx8")
    cases: dict[str, Work] = {}
    empty = load_empty()
    if empty:
        operators = torch.ops.limprec_benchmark
        one, six = operators.one_.default, operators.six_.default
        cases["an operator that does nothing"] = lambda: one(x)
        cases["the same with the arguments of a key"] = lambda: six(x, 1, 2, 3, 4, 5)
    cases |= {
        "neg_, PyTorch's own": lambda: x.neg_(),
        "native.round_to, e5m2 in place": lambda: native.round_to(x, nearest, None, out=x),
        "native.round_to, dfx8 in place": lambda: native.round_to(x, dynamic, None, out=x),
        "native.round_to, e5m2:stochastic in place": lambda: native.round_to(
            x, stochastic, KEY, out=x
        ),
        "native.round_to, e5m2 into out": lambda: native.round_to(x, nearest, None, out=y),
        "native.round_to, e5m2, new": lambda: native.round_to(x, nearest, None),
        "lp.quantize_, e5m2 in place": lambda: quantize_(x, "e5m2"),
        "lp.quantize_, e5m2:stochastic in place": lambda: quantize_(x, "e5m2:stochastic", seed=1),
        "round_to, e5m2 in place": lambda: round_to(x, nearest, None, out=x),
        "round_to, e5m2, new": lambda: round_to(x, nearest, None),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(10 * rounds):
        for name, work in cases.items():
            best[name] = min(best[name], timeit.timeit(work, number=100) * 1e4)
    lines = ["", f"## Calls on {SMALL:,} elements", ""]
    lines += ["| call | us, fastest | us over nothing | goal |", "|---|---|---|---|"]
    for name, taken in best.items():
        over, verdict = "", ""
        if empty:
            base = best["an operator that does nothing"]
            over = f"{taken - base:.2f}"
            if "in place" in name:
                if "stochastic" in name:
                    base = best["the same with the arguments of a key"]
                met = "met" if taken - base <= CALL_GOAL else "missed"
                verdict = f"{CALL_GOAL:g} over the like: {met}"
        lines.append(f"| {name} | {taken:.2f} | {over} | {verdict} |")
    return lines if empty else [*lines, "", "No C++ compiler: the empty operators are left out."]


def others(rounds: int) -> list[str]:
    """Time other implementations of the same roundings on 2^24 float32, each beside ours."""
    given = torch.randn(ELEMENTS)
    x, sample = given.clone(), given[: 2**20].clone()
    found, notes = peers()
    reference = partial(quantize, backend=Backend.REFERENCE, seed=1)
    ours = {name: partial(reference, fmt=name) for name in ("e5m2", "e5m2:stochastic", "dfx8")}
    found.append(Peer("limprec's reference", ours))
    lines = ["", "## Other implementations, 2^24 float32", ""]
    lines += [
        "A peer makes its output; ours rounds in place, or makes its output as well. Times are of"
        " the peer, ratios are how many times ours it takes, in the same rounds. `Same` is the"
        " share of values that equal ours (rounding to nearest).",
        "",
        "| peer | work | ms, fastest | ms, median | in place, fastest | in place, median |"
        " new output, fastest | same | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for peer in found:
        for name, work in peer.roundings.items():
            lines.append(beside_ours(peer.name, name, work, sample, x, given, rounds))
            print(lines[-1], flush=True)
    return [*lines, *(line for note in notes for line in ("", note))]


def beside_ours(
    peer: str,
    name: str,
    work: Callable[[Tensor], Tensor],
    sample: Tensor,
    x: Tensor,
    given: Tensor,
    rounds: int,
) -> str:
    """Time one rounding of a peer in turn with ours; return a line of the table."""
    precision = parse_precision(name)
    stochastic = precision.rounding is Rounding.STOCHASTIC
    same = "" if stochastic else f"{(work(sample) == quantize(sample, name)).float().mean():.5f}"
    times = timed(
        {
            "peer": lambda: work(x),
            "in place": lambda: round_to(x, precision, KEY, out=x),
            "new": lambda: round_to(x, precision, KEY),
        },
        rounds,
        lambda: x.copy_(given),
    )
    own = times["peer"]
    place, new = (min(own) / min(times[case]) for case in ("in place", "new"))
    median = statistics.median(a / b for a, b in zip(own, times["in place"], strict=True))
    goal = PEER_GOALS["stochastic" if stochastic else "nearest"] if "QPyTorch" in peer else None
    verdict = "" if goal is None else f"{goal:g}: {'met' if place >= goal else 'missed'}"
    return (
        f"| {peer} | {precision} | {min(own):.1f} | {statistics.median(own):.1f} | {place:.1f} |"
        f" {median:.1f} | {new:.1f} | {same} | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--rounds", type=int, default=30, help="of every measurement")
    parser.add_argument("--levels", action="store_true", help="every instruction set of this CPU")
    parser.add_argument("--no-peers", action="store_true", help="leave other implementations out")
    options = parser.parse_args()
    if native.missing() is not None:
        parser.exit(2, f"the native kernels are missing: {native.missing()}\n")
    levels = [Simd(n) for n in range(1, native.best_simd() + 1)] if options.levels else [Simd.AUTO]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    lines = [
        f"# Rounding on the CPU, {today()}",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} threads, {native.best_simd().name}, PyTorch"
        f" {torch.__version__}; system load {load} at the start. A copy is `y.copy_(x)` between"
        " tensors that exist already, timed in turn with everything else; `fastest` compares the"
        " fastest rounds, `median` is the median of each round's ratio.",
        *large(options.rounds, torch.float32, levels),
        *large(options.rounds, torch.bfloat16, levels),
        *layouts(options.rounds),
        *calls(options.rounds),
        *([] if options.no_peers else others(min(options.rounds, 7))),
    ]
    report = "\n".join(lines) + "\n"
    print(report)
    if options.save:
        save("rounding", report)


if __name__ == "__main__":
    main()
