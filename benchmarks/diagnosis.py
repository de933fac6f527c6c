"""What a diagnosis costs: a step that is looked at, and one that is not, against one unwatched.

python -m benchmarks.diagnosis [--save] [--every 50] [--rounds 5]

CPU seconds of one thread, so that what else the machine does hardly counts; steps unwatched and
looked at take turns. The overhead at ``--every`` k is (looked at / unwatched - 1) / k, of the
fastest steps and of the medians. What watching costs a step that is not looked at, four calls of
Python, is measured on a model of one weight.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.diagnosis import diagnose
from limprec.lab.models import GPT, LeNet5, ResNetCifar

from .report import cpu_name, save, today

Case = tuple[nn.Module, torch.optim.Optimizer, Callable[[], Tensor]]


def images(model: nn.Module, size: int, channels: int, batch: int, plan: bool) -> Case:
    if plan:
        lp.convert(model, lp.Plan.uniform("dfx8", classifier="auto"))
    x, y = torch.randn(batch, channels, size, size), torch.arange(batch) % 10
    optimizer = lp.optim.SGD(model.parameters(), 0.1, momentum=0.9, format="plan" if plan else None)
    return model, optimizer, lambda: F.cross_entropy(model(x), y)


def words() -> Case:
    model = GPT(65, 64, 4, 128, 4).bfloat16()
    t = torch.randint(0, 65, (16, 65))
    optimizer = lp.optim.AdamW(model.parameters(), 1e-3)
    return (
        model,
        optimizer,
        lambda: F.cross_entropy(model(t[:, :-1]).float().flatten(0, 1), t[:, 1:].flatten()),
    )


def foreign() -> Case:
    model, _, loss = words()
    return model, torch.optim.AdamW(model.parameters(), 1e-3), loss


CASES: dict[str, Callable[[], Case]] = {
    "LeNet-5, dfx8, batch 128": lambda: images(LeNet5(1, 28, 10), 28, 1, 128, True),
    "ResNet-20, dfx8, batch 32": lambda: images(ResNetCifar(20, 3, 10), 32, 3, 32, True),
    "ResNet-20, fp32, batch 32": lambda: images(ResNetCifar(20, 3, 10), 32, 3, 32, False),
    "GPT of 4 layers, bf16, 1024 tokens": words,
    "the same, torch.optim.AdamW": foreign,
}


OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "shadow": {"shadow": True},
    "accumulator e5m10": {"accumulator": "e5m10"},
}


def measure(case: Case, rounds: int, every: int) -> str:
    model, optimizer, loss = case

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        return time.process_time() - start

    step()
    plain: list[float] = []
    looked: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for _ in range(rounds):
        plain.append(step())
        for name, options in OPTIONS.items():
            with diagnose(model, optimizer, every=1, **options):
                looked[name].append(step())
    cells = []
    for seconds in looked.values():
        shares = [of(seconds) / of(plain) - 1 for of in (min, statistics.median)]
        cells += [f"{shares[0] + 1:.1f}", " / ".join(f"{share / every:.1%}" for share in shares)]
    return " | ".join([f"{1e3 * min(plain):.0f} ms", *cells])


def hooks(steps: int = 2000) -> float:
    """Return the seconds that watching adds to a step that is not looked at."""
    model, x = nn.Linear(1, 1), torch.ones(1, 1)
    optimizer = lp.optim.SGD(model.parameters(), 0.0)

    def run() -> float:
        start = time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
        return (time.process_time() - start) / steps

    plain = [run() for _ in range(5)]
    with diagnose(model, optimizer, every=10**9):
        watched = [run() for _ in range(5)]
    return min(watched) - min(plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    titles = [f"{name}, times | overhead" for name in OPTIONS]
    lines = [
        f"# What a diagnosis costs: {cpu_name()}, {today()}",
        "",
        f"`python -m benchmarks.diagnosis --every {given.every} --rounds {given.rounds}`, torch"
        f" {torch.__version__}. Steps that are looked at, in times of one that is not, and the"
        f" overhead when one in {given.every} is: of the fastest steps / of the medians.",
        "",
        f"| training | step | {' | '.join(titles)} |",
        "|---|---:|" + "---:|" * (2 * len(OPTIONS)),
    ]
    for name, make in CASES.items():
        lines.append(f"| {name} | {measure(make(), given.rounds, given.every)} |")
        print(lines[-1], flush=True)
    lines += ["", f"A step that is watched and not looked at: {1e6 * hooks():.0f} us more."]
    print("\n".join(lines))
    if given.save:
        save("diagnosis", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
