"""Whole training steps of converted models against plain float32 and bfloat16, in one run.

python -m benchmarks.step [--save] [--rounds 7] [--only resnet20|gpt|memory]

Times are ratios to the plain float32 step of the same round; memory is the peak of what the step
itself allocates, as a ratio to that of plain training.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import limprec as lp
from limprec.kernels.native import best_simd, missing
from limprec.lab.models import GPT, ResNetCifar

from .peers import Rounding, peers
from .report import cpu_name, save, today

Step = Callable[[], None]
Way = tuple[str, str, str | None]
"""How to compute, how to save, and the format of the inputs of norms."""
WAYS = ("exact", "real")
BATCH = 128
GOALS = {"exact": 1.15, "fast": 0.7, "real (GPT)": 0.4}
FORMATS = ("dfx8", "e5m2")
ROUNDINGS = ("", ":stochastic", ":stochastic16")


def resnet20() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-20 of CIFAR-10, batch 128."""
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    return ResNetCifar(20, 3, 10), x, y


def gpt() -> tuple[nn.Module, Tensor, Tensor]:
    """A GPT of 6 layers, width 512, 8 heads, context 256, batch 8, 65 characters."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 65, (8, 256)), torch.randint(0, 65, (8, 256))
    return GPT(65, 256, 6, 512, 8), x, y


def step_of(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Return a training step: forward, cross entropy, backward, SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x).float().flatten(0, -2), y.flatten()).backward()
        optimizer.step()

    return step


def plain(model: nn.Module, x: Tensor, dtype: torch.dtype, last: bool) -> tuple[nn.Module, Tensor]:
    """Return a copy of a model and its input in a dtype, channels last where asked to."""
    memory = torch.channels_last if last else torch.preserve_format
    model = copy.deepcopy(model).to(dtype, memory_format=memory)  # type: ignore[call-overload]
    if x.is_floating_point():
        x = x.to(dtype, memory_format=memory)
    return model, x


def variants(model: nn.Module, x: Tensor, y: Tensor, convolves: bool) -> dict[str, Step]:
    """Return what is timed, by name; the first is the plain step."""
    steps = {"float32": step_of(copy.deepcopy(model), x, y)}
    kinds = [(torch.bfloat16, convolves)] + ([(torch.float32, True)] if convolves else [])
    for dtype, last in kinds:
        name = str(dtype).removeprefix("torch.") + (", channels last" if last else "")
        other, given = plain(model, x, dtype, last)
        steps[f"{name}, plain"] = step_of(other, given, y)
    for fmt in FORMATS:
        for rounding in ROUNDINGS:
            for way in ("exact", "fast", "real"):
                if way == "real" and fmt != "dfx8":
                    continue
                if way != "exact" and rounding.endswith("16"):
                    continue
                converted = lp.convert(
                    copy.deepcopy(model), lp.Plan.uniform(fmt + rounding), compute=way
                )
                steps[f"{fmt}{rounding} {way}"] = step_of(converted, x, y)
        narrow = lp.convert(copy.deepcopy(model), lp.Plan.uniform(fmt), saved="narrow")
        steps[f"{fmt} exact, saved narrow"] = step_of(narrow, x, y)
    return steps


class _Peer(torch.autograd.Function):
    """A peer's rounding of activations going forward and of errors going back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounding: Rounding) -> Tensor:
        """Round the activation."""
        ctx.rounding = rounding
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Round the error."""
        return ctx.rounding(grads[0].contiguous()), None


def peers_models(model: nn.Module) -> dict[str, nn.Module]:
    """Return copies of a model whose layers' inputs QPyTorch rounds, if it is there."""
    models = {}
    for peer in peers()[0]:
        if not peer.name.startswith("QPyTorch"):
            continue
        for name in set(peer.roundings) & {f + r for f in FORMATS for r in ROUNDINGS}:
            rounding = peer.roundings[name]
            other = copy.deepcopy(model)

            def hook(_: nn.Module, args: Any, rounding: Rounding = rounding) -> Any:
                return (_Peer.apply(args[0], rounding),)  # type: ignore[no-untyped-call]

            for layer in other.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.register_forward_pre_hook(hook)
            models[f"{name}, {peer.name}, activations and errors alone"] = other
    return models


def times(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Time each step in turn, so many rounds after a first one that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                taken[name].append(time.perf_counter() - start)
    return taken


def table(taken: dict[str, list[float]]) -> list[str]:
    """Return a table of ratios to the first row: of the fastest, and the median of the rounds'."""
    base = next(iter(taken.values()))
    lines = ["", "| step | fastest, ms | ratio | median of ratios |", "|---|---|---|---|"]
    for name, own in taken.items():
        median = statistics.median(a / b for a, b in zip(own, base, strict=True))
        lines.append(
            f"| {name} | {1e3 * min(own):.0f} | {min(own) / min(base):.2f} | {median:.2f} |"
        )
    return lines


def peak(step: Step) -> int:
    """Return the most bytes that a step holds at once beyond what was there before it."""
    step()
    gc.collect()  # a model of before, let go while we count, would count as less
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    kineto = recorded.profiler
    assert kineto is not None
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):  # type: ignore[no-any-return]
        held = max(0, held + event.nbytes())  # below 0: gradients of the step before are let go
        most = max(most, held)
    return most


def vgg() -> tuple[nn.Module, Tensor, Tensor]:
    """A chain of six convolutions with batch norm, three max poolings and one linear layer."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inside, outside in ((3, 32), (32, 64), (64, 128)):
        for channels in (inside, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.BatchNorm2d(outside)]
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))
    return model, torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))


NORMS = (None, "bf16", "dfx8")
MEMORY: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor, Tensor]], tuple[Way, ...]]] = {
    f"ResNet-20, batch {BATCH}": (
        resnet20,
        (
            ("exact", "carrier", None),
            *(("exact", "narrow", norm) for norm in NORMS),
            ("fast", "carrier", None),
            *(("real", "narrow", norm) for norm in NORMS),
        ),
    ),
    "VGG of six convolutions, batch 64": (
        vgg,
        (("exact", "carrier", None), ("exact", "narrow", None), ("real", "narrow", None)),
    ),
    "GPT, 6 layers, width 512, context 256, batch 8": (
        gpt,
        (("exact", "carrier", None), *((c, "narrow", n) for c in WAYS for n in (None, "bf16"))),
    ),
}
"""Whose memory is measured, in which ways."""


def memory(title: str) -> list[str]:
    """Return the peak memory of a step of one network of ``MEMORY``."""
    build, ways = MEMORY[title]
    model, x, y = build()
    base = peak(step_of(copy.deepcopy(model), x, y))
    lines = [
        "",
        f"## Peak memory of a step, {title}",
        "",
        "| step | MiB | ratio |",
        "|---|---|---|",
        f"| float32, plain | {base / 2**20:.1f} | 1 |",
    ]
    for compute, saved, norm in ways:
        plan = lp.Plan.uniform("dfx8")
        if norm is not None:
            plan = replace(plan, norm={"activation": norm})
        converted = lp.convert(copy.deepcopy(model), plan, compute=compute, saved=saved)
        most = peak(step_of(converted, x, y))
        name = f"dfx8 {compute}" + (", saved narrow" if saved == "narrow" else "")
        name += f", inputs of norms in {norm}" if norm else ""
        lines.append(f"| {name} | {most / 2**20:.1f} | {most / base:.2f} |")
    return lines


def main() -> None:
    """Run what is asked for and print, or save, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("resnet20", "gpt", "memory"))
    options = parser.parse_args()
    goals = ", ".join(f"{name} at most {goal}" for name, goal in GOALS.items())
    lines = [
        "# Training steps of converted models",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} threads, {best_simd().name}, torch"
        f" {torch.__version__}, {today()}; {options.rounds} rounds, variants in turn."
        f" Asked: {goals}"
        " of the plain float32 step; memory at most 1.2 in exact, 0.65 saved narrow.",
    ]
    if missing():
        lines.append(f"The native kernels are missing: {missing()}.")
    if options.only in (None, "resnet20"):
        model, x, y = resnet20()
        steps = variants(model, x, y, convolves=True)
        steps |= {name: step_of(other, x, y) for name, other in peers_models(model).items()}
        lines += ["", f"## ResNet-20, batch {BATCH} of 3 x 32 x 32"]
        lines += table(times(steps, options.rounds))
    if options.only in (None, "gpt"):
        model, x, y = gpt()
        lines += ["", "## GPT, 6 layers, width 512, context 256, batch 8"]
        lines += table(times(variants(model, x, y, convolves=False), options.rounds))
    if options.only in (None, "memory"):
        for title in MEMORY:
            lines += memory(title)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.save:
        save("step", text)


if __name__ == "__main__":
    main()
