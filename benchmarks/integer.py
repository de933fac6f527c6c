"""Layers on integers against PyTorch's in float32 and bfloat16, in one run: ratios of times.

python -m benchmarks.integer [--save] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from limprec.formats import Rounding, parse_precision
from limprec.kernels import Key
from limprec.kernels.matmul.code_products import multiply_codes
from limprec.kernels.matmul.integer import integer_matmul
from limprec.kernels.matmul.real import Role, Roundings, real_linear
from limprec.kernels.matmul.real_conv import real_conv
from limprec.kernels.native import best_simd

from .report import cpu_name, save, today

Work = Callable[[], object]

TOKENS, WIDTH = 2048, 512
"""A GPT of width 512 with batches of 8 contexts of 256."""
LINEAR = {
    "512 -> 1536 (attention in)": (WIDTH, 3 * WIDTH),
    "512 -> 512 (attention out)": (WIDTH, WIDTH),
    "512 -> 2048 (first of MLP)": (WIDTH, 4 * WIDTH),
    "2048 -> 512 (second of MLP)": (4 * WIDTH, WIDTH),
}
GOAL = 0.35
"""Of float32's time, forward and backward of a block's linear layers."""
CONVOLUTIONS = {
    "ResNet-20, 16 channels of 32 x 32": (128, 16, 32, 16, 3),
    "ResNet-20, 32 channels of 16 x 16": (128, 32, 16, 32, 3),
    "ResNet-20, 64 channels of 8 x 8": (128, 64, 8, 64, 3),
    "ResNet-50, 64 channels of 56 x 56": (16, 64, 56, 64, 3),
    "ResNet-50, 256 channels of 14 x 14": (16, 256, 14, 256, 3),
    "ResNet-50, 256 to 64 channels of 56 x 56, 1 x 1": (16, 256, 56, 64, 1),
}


def times(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time each work in turn, so many rounds after a first one that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number:
                taken[name].append(time.perf_counter() - start)
    return taken


def ratio(taken: dict[str, list[float]], name: str, to: str) -> str:
    """Return the ratio of the fastest times, and the median of each round's ratio."""
    median = statistics.median(a / b for a, b in zip(taken[name], taken[to], strict=True))
    return f"{min(taken[name]) / min(taken[to]):.2f} ({median:.2f})"


def products(rounds: int) -> list[str]:
    """Time the three products of a linear layer of 512 inputs and 2048 outputs."""
    g = torch.Generator().manual_seed(0)
    x, w, e = (
        torch.randint(-127, 128, shape, dtype=torch.int8, generator=g)
        for shape in ((TOKENS, WIDTH), (4 * WIDTH, WIDTH), (TOKENS, 4 * WIDTH))
    )
    cases = {"x @ w.T": (x, w.t()), "e @ w": (e, w), "e.T @ x": (e.t(), x)}
    lines = [
        "",
        f"## Products, {TOKENS} x {WIDTH} x {4 * WIDTH}",
        "",
        "| product | PyTorch's int8 to int32, GMAC/s | int8 to float32, GMAC/s"
        " | of float32's time | of bfloat16's time |",
        "|---|---|---|---|---|",
    ]
    work = TOKENS * WIDTH * 4 * WIDTH / 1e9
    for name, (a, b) in cases.items():
        wide, half = (a.float(), b.float()), (a.bfloat16(), b.bfloat16())
        taken = times(
            {
                "int32": lambda a=a, b=b: integer_matmul(a, b),  # type: ignore[misc]
                "int8": lambda a=a, b=b: multiply_codes(a, b, 0.5, torch.float32),  # type: ignore[misc]
                "fp32": lambda p=wide: p[0] @ p[1],  # type: ignore[misc]
                "bf16": lambda p=half: p[0] @ p[1],  # type: ignore[misc]
            },
            rounds,
        )
        rates = " | ".join(f"{work / min(taken[n]):.0f}" for n in ("int32", "int8"))
        lines.append(
            f"| {name} | {rates} | {ratio(taken, 'int8', 'fp32')} |"
            f" {ratio(taken, 'int8', 'bf16')} |"
        )
        print(lines[-1], flush=True)
    return lines


def roundings(name: str) -> Roundings:
    """Return a rounding for every operand, gradients to dfx8."""

    def role(name: str, stream: int) -> Role:
        precision = parse_precision(name)
        keyed = precision.rounding is Rounding.STOCHASTIC
        return precision, Key(0, stream) if keyed else None

    others = [role("dfx8", stream) for stream in (3, 4, 5)]
    return Roundings(role("dfx8", 0), role("dfx8", 1), role(name, 2), *others)


class Step:
    """Forward and backward of one layer, in one dtype."""

    def __init__(self, layer: Callable[..., Tensor], *leaves: Tensor) -> None:
        self.layer = layer
        self.leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        self.grad = torch.randn_like(layer(*self.leaves)).detach()

    def __call__(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None
        self.layer(*self.leaves).backward(self.grad)


def contenders(
    plain: Callable[..., Tensor], real: Callable[..., Tensor], *leaves: Tensor
) -> dict[str, Work]:
    """Return a layer's steps in float32, bfloat16 and on integers."""
    nearest, stochastic = roundings("dfx8"), roundings("dfx8:stochastic16")
    return {
        "fp32": Step(plain, *leaves),
        "bf16": Step(plain, *(leaf.bfloat16() for leaf in leaves)),
        "nearest": Step(lambda *a: real(*a, nearest), *leaves),
        "stochastic": Step(lambda *a: real(*a, stochastic), *leaves),
    }


def table(title: str) -> list[str]:
    """Return the head of a table of layers."""
    return [
        "",
        f"## {title}",
        "",
        "| layer | float32, ms | bfloat16 | real, errors to nearest | real, errors stochastic |",
        "|---|---|---|---|---|",
    ]


def row(name: str, taken: dict[str, list[float]]) -> str:
    """Return a layer's line."""
    ratios = " | ".join(ratio(taken, n, "fp32") for n in ("bf16", "nearest", "stochastic"))
    line = f"| {name} | {1e3 * min(taken['fp32']):.1f} | {ratios} |"
    print(line, flush=True)
    return line


def linear_layers(rounds: int) -> list[str]:
    """Time the linear layers of a GPT block, and their sum."""
    lines, total = table(f"Linear layers, {TOKENS} tokens"), {}
    g = torch.Generator().manual_seed(0)
    for name, (inputs, outputs) in LINEAR.items():
        leaves = (
            torch.randn(TOKENS, inputs, generator=g),
            torch.randn(outputs, inputs, generator=g),
            torch.randn(outputs, generator=g),
        )
        taken = times(contenders(F.linear, real_linear, *leaves), rounds)
        lines.append(row(name, taken))
        for key, values in taken.items():
            before = total.get(key, [0.0] * len(values))
            total[key] = [a + b for a, b in zip(before, values, strict=True)]
    lines.append(row("all of a block", total))
    reached = min(total["nearest"]) / min(total["fp32"])
    verdict = "met" if reached <= GOAL else "missed"
    return [*lines, "", f"Goal for a block: {GOAL} of float32's time, {verdict}."]


def convolutions(rounds: int) -> list[str]:
    """Time convolutions of ResNets."""
    lines = table("Convolutions")
    g = torch.Generator().manual_seed(0)
    for name, (batch, inputs, size, outputs, kernel) in CONVOLUTIONS.items():
        leaves = (
            torch.randn(batch, inputs, size, size, generator=g),
            torch.randn(outputs, inputs, kernel, kernel, generator=g),
        )
        pad = kernel // 2

        def plain(x: Tensor, w: Tensor, pad: int = pad) -> Tensor:
            return F.conv2d(x, w, padding=pad)

        def real(x: Tensor, w: Tensor, r: Roundings, pad: int = pad) -> Tensor:
            return real_conv(x, w, None, 1, pad, 1, 1, r)

        lines.append(row(name, times(contenders(plain, real, *leaves), rounds)))
    return lines


def measure(rounds: int) -> str:
    """Return the report."""
    lines = [
        f"# Layers on integers, {today()}",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} threads, {best_simd().name},"
        f" PyTorch {torch.__version__}. Every operand in dfx8: int8 x int8 -> int32, exact."
        " Times of forward and backward as ratios to float32's: of the fastest"
        f" of {rounds} rounds in turn, in brackets the median of the rounds' ratios.",
        *products(rounds),
        *linear_layers(rounds),
        *convolutions(rounds),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--rounds", type=int, default=7, help="of each line")
    options = parser.parse_args()
    report = measure(options.rounds)
    print(report)
    if options.save:
        save("integer", report)


if __name__ == "__main__":
    main()
