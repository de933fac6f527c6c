"""Noisy quadratics with a known optimum: what each write-back reaches as the rate gets small.

    python experiments/kahan-small-rates/quadratic.py

Minimises (p - w)^2 / 2 over independent parameters, w uniform in [1, 2), from p = w +- 1/8, with
the gradient p - w + noise * z, z standard normal, for SPAN / rate steps of plain SGD. The same
step is a weight average with decay 1 - rate of weights that are w plus noise. Formats are
simulated in float32, so that the write-back alone is narrow. Writes results/quadratic.json, whose
finished rows are kept on a restart, and quadratic.md.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch

import limprec as lp
from limprec.files import write_text
from limprec.lab.run import environment

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results" / "quadratic.json", HERE / "quadratic.md"
SEEDS, SIZE = 5, 64
NOISES = (0.0, 0.01, 0.1, 1.0)
RATES = (1e-2, 1e-3, 1e-4)
SPAN = 6.0
"""Steps times rate: exp(-SPAN) = 0.002 of the start is left at the end."""
TAIL = 0.1
"""Share of the steps, at the end, over which the error is averaged."""

FORMATS = {"bf16": 2.0**-7, "e4m3": 2.0**-3, "dfx6": 2.0**-4}
"""Name -> distance of neighbours in [1, 2)."""

WRITEBACKS: dict[str, dict[str, str]] = {
    "nearest": {"writeback": "nearest"},
    "stochastic": {"writeback": "stochastic"},
    "lazy": {"writeback": "lazy"},
    "kahan": {"compensation_rounding": "nearest"},
    "kahan-stochastic": {"compensation_rounding": "stochastic"},
    "kahan ulp8": {"compensation_format": "ulp8", "compensation_rounding": "nearest"},
    "kahan-stochastic ulp8": {
        "compensation_format": "ulp8",
        "compensation_rounding": "stochastic",
    },
    "kahan-stochastic ulp16": {
        "compensation_format": "ulp16",
        "compensation_rounding": "stochastic",
    },
    "master": {"writeback": "master"},
}


def measure(fmt: str, writeback: str, rate: float) -> list[list[float]]:
    """Return the root mean square of p - w over the tail, for each noise and seed."""
    shape = (len(NOISES), SEEDS, SIZE)
    draw = torch.Generator().manual_seed(0)
    noise = torch.tensor(NOISES)[:, None, None]
    target = 1 + torch.rand(shape, generator=draw)
    p = torch.nn.Parameter(target + 0.25 * (torch.rand(shape, generator=draw) - 0.5))
    optimizer = lp.optim.SGD([p], lr=rate, format=fmt, **WRITEBACKS[writeback])  # type: ignore[arg-type]
    steps = round(SPAN / rate)
    tail = round(TAIL * steps)
    squares = torch.zeros(shape[:2], dtype=torch.float64)
    for step in range(steps):
        p.grad = (p.detach() - target).addcmul_(noise, torch.randn(shape, generator=draw))
        optimizer.step()
        if step >= steps - tail:
            squares += (p.detach() - target).square().mean(2)
    rms: list[list[float]] = (squares / tail).sqrt().tolist()
    return rms


def table(rows: dict[str, list[list[float]]]) -> str:
    """Return the errors in ulps as Markdown: mean and standard deviation over the seeds."""
    parts = []
    for fmt, ulp in FORMATS.items():
        names = [name for name in WRITEBACKS if any(f"{fmt}, {name}, {r:g}" in rows for r in RATES)]
        parts += [f"### {fmt}\n", "| rate, noise | " + " | ".join(names) + " |"]
        parts.append("|---|" + "---:|" * len(names))
        for rate, (place, noise) in itertools.product(RATES, enumerate(NOISES)):
            cells = []
            for name in names:
                errors = [error / ulp for error in rows[f"{fmt}, {name}, {rate:g}"][place]]
                cells.append(f"{statistics.fmean(errors):.2f} ± {statistics.stdev(errors):.2f}")
            parts.append(f"| {rate:g}, {noise:g} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Measure what is missing, and write the results and the table."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows: dict[str, list[list[float]]] = found.get("rms", {})
    for rate, fmt, writeback in itertools.product(RATES, FORMATS, WRITEBACKS):
        key = f"{fmt}, {writeback}, {rate:g}"
        if key in rows or ("ulp" in writeback and fmt == "dfx6"):  # which has no ulp of its own
            continue
        started = time.perf_counter()
        rows[key] = measure(fmt, writeback, rate)
        print(f"{key}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        setup = {"seeds": SEEDS, "size": SIZE, "noises": NOISES, "span": SPAN, "tail": TAIL}
        record = {"setup": setup, "environment": environment(), "rms": rows}
        write_text(RESULTS, json.dumps(record, indent=1) + "\n")
    write_text(TABLE, table(rows))


if __name__ == "__main__":
    main()
