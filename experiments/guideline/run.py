"""Train every task at every width of the classifier's error; go on where it stopped.

    LIMPREC_DATA=DIR python -m experiments.guideline.run [--only words] [--minutes 40]

One line a run is added to results.csv; a line that is there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.errors import GuidelineWarning

from .tasks import SOURCES, Outcome, Task, evaluate

RESULTS = Path(__file__).parent / "results.csv"
BITS = range(2, 17)
SIZES = (("mnist", 10), ("clusters", 10), ("clusters", 100), ("clusters", 1000),
         ("words", 100), ("words", 1000))  # fmt: skip
"""Cheap tasks: every width, two seeds."""
CIFAR, LARGE = ("cifar", 100), ("words", 10000)
"""Costly tasks: widths that say most first, a second seed about the knees only."""
OTHERS = (("words", 100), ("words", 1000))
"""Tasks that block formats, floats and rounded logits are tried on, with one seed."""
BLOCKS = ("mxfp4_e2m1", "mxfp6_e2m3", "mxfp6_e3m2", "mxint8", "mxfp8_e4m3", "mxfp8_e5m2")
SCALES = (0, 2, 4, 6, 8, 10)
"""Loss scales 2^k for the float format e4m3."""


@dataclass(frozen=True)
class Run:
    """One training: what its line in results.csv is found by."""

    source: str
    classes: int
    seed: int
    error: str = "fp32"
    """Precision of the classifier's error."""
    loss_scale: int = 0
    """Its exponent."""
    logits: str = "fp32"
    """Format of the logits, to nearest; ``clipped`` lets no gradient through where they clip."""
    centred: int = 0
    """1 if each sample's rounded errors are made to sum to 0 again."""


def runs() -> Iterator[Run]:
    """Yield every run, those that say most first."""
    yield from _grid(0)
    yield from _blocks(OTHERS[0])
    yield from _centred(OTHERS[0])
    yield from (Run(*OTHERS[1], 0, name) for name in BLOCKS if name not in BLOCKS[2::3])
    yield from _others(OTHERS[0])
    yield from _widths(LARGE, 0, (13, 14, 12, 15), (4, 6))
    yield from _others(OTHERS[1])
    yield from _widths(LARGE, 0, (10, 8, 16, 4, 6, 11, 2), (8, 2, 5, 12, 16))
    yield from _blocks(OTHERS[1])
    yield from _grid(1)
    yield from _widths(CIFAR, 0, range(2, 13), (2, 3, 4, 5, 6, 8))
    yield from _widths(CIFAR, 1, (7, 8, 9), (3, 4))
    yield from _widths(LARGE, 1, (13, 14, 15), ())
    yield from _widths(LARGE, 0, (9, 7), (3,))
    for task in (CIFAR, LARGE):
        yield from _widths(task, 0, BITS, BITS)


def _grid(seed: int) -> Iterator[Run]:
    for task in SIZES:
        yield from _widths(task, seed, BITS, BITS)


def _widths(
    task: tuple[str, int], seed: int, nearest: Iterable[int], stochastic: Iterable[int]
) -> Iterator[Run]:
    yield Run(*task, seed)
    yield from (Run(*task, seed, f"dfx{bits}") for bits in nearest)
    yield from (Run(*task, seed, f"dfx{bits}:stochastic") for bits in stochastic)


def _blocks(task: tuple[str, int]) -> Iterator[Run]:
    for name in BLOCKS:
        yield Run(*task, 0, name)
        yield Run(*task, 0, f"{name}:stochastic")


def _centred(task: tuple[str, int]) -> Iterator[Run]:
    for error in ("mxfp8_e4m3", "mxfp6_e3m2", "mxfp4_e2m1:stochastic", "dfx6"):
        yield Run(*task, 0, error, centred=1)


def _others(task: tuple[str, int]) -> Iterator[Run]:
    yield from (Run(*task, 0, "e4m3", scale) for scale in SCALES)
    yield from (Run(*task, 0, "e4m3:stochastic", scale) for scale in SCALES)
    for bits in range(3, 7):
        yield Run(*task, 0, logits=f"dfx{bits}")
        yield Run(*task, 0, logits=f"fx{bits}.{bits - 4} clipped")
    for name in ("fx5.1", "fx6.1 clipped", "fx7.1 clipped"):
        yield Run(*task, 0, logits=name)


def train(run: Run, task: Task) -> Outcome:
    """Train one network: SGD, momentum 0.9, a rate that falls linearly to 0."""
    torch.manual_seed(run.seed)
    network = task.network()
    plan = lp.Plan(classifier={"error": "fp32" if run.centred else run.error})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuidelineWarning)  # too few bits are the point
        lp.convert(network, plan, seed=run.seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=task.rate, momentum=0.9)
    random = torch.Generator().manual_seed(100 + run.seed)
    scale = 2.0**run.loss_scale
    for step in range(task.steps):
        optimizer.param_groups[0]["lr"] = task.rate * (1 - step / task.steps)
        x, y = task.batch(random)
        z = network(x)
        if run.logits != "fp32":
            name, _, gradient = run.logits.partition(" ")
            z = lp.quantize(z, name, gradient=gradient or "straight_through")
        if run.centred:
            z.register_hook(partial(_centre, run, step))
        optimizer.zero_grad()
        (scale * F.cross_entropy(z, y)).backward()
        if run.loss_scale:
            _unscale(network, scale)
        optimizer.step()
    return evaluate(network, task)


def _centre(run: Run, step: int, error: Tensor) -> Tensor:
    rounded = lp.quantize(error, run.error, seed=run.seed, step=step)
    return rounded - rounded.mean(1, keepdim=True)


def _unscale(network: nn.Module, scale: float) -> None:
    for parameter in network.parameters():
        assert parameter.grad is not None
        parameter.grad /= scale


@cache
def _task(source: str, classes: int) -> Task:
    return SOURCES[source](classes)


def done() -> dict[Run, Outcome]:
    """Return the runs of results.csv."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return {
            Run(
                r["source"], int(r["classes"]), int(r["seed"]),
                r["error"], int(r["loss_scale"]), r["logits"], int(r["centred"]),
            ): Outcome(float(r["accuracy"]), float(r["loss"]))
            for r in csv.DictReader(file)
        }  # fmt: skip


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one source, such as words")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    finished, start = done(), time.monotonic()
    wanted = dict.fromkeys(runs())
    todo = [r for r in wanted if r not in finished and options.only in (None, r.source)]
    names = [f.name for f in fields(Run)] + ["accuracy", "loss", "seconds"]
    new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        for number, run in enumerate(todo, 1):
            if time.monotonic() - start > 60 * options.minutes:
                break
            begun = time.monotonic()
            outcome = train(run, _task(run.source, run.classes))
            seconds = time.monotonic() - begun
            writer.writerow(
                {
                    **asdict(run),
                    "accuracy": f"{outcome.accuracy:.5f}",
                    "loss": f"{outcome.loss:.5f}",
                    "seconds": f"{seconds:.1f}",
                }
            )
            file.flush()
            print(f"{number}/{len(todo)} {run} {outcome} {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
