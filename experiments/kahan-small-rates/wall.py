"""Does a compensation let a parameter move by updates under its own unit, upwards and downwards?

    python experiments/kahan-small-rates/wall.py

256 parameters at 1.5, one more at 1.9 that stays, and STEPS equal updates that ask for two ulps;
the compensation is rounded stochastically. Prints how far p + c came on average, in ulps.
"""

from __future__ import annotations

import torch

import limprec as lp

STEPS, ASKED = 5120, 2.0
CASES = {
    "bf16": (2.0**-7, (None, "ulp8", "ulp16", "dfx8")),
    "e4m3": (2.0**-3, (None, "ulp8", "ulp16", "dfx8")),
    "fx8.6": (2.0**-6, (None, "ulp8", "ulp16", "dfx8", "bf16")),
    "dfx8": (2.0**-6, (None, "dfx6", "bf16", "e5m2")),
    "dfx6": (2.0**-4, (None, "dfx8", "bf16", "e5m2")),
}
"""Format -> its ulp at 1.5, and formats of the compensation; None is the parameter's own."""


def arrived(fmt: str, compensation: str | None, asked: float, ulp: float) -> float:
    """Return the mean way of p + c in ulps, where ``asked`` ulps were asked for."""
    p = torch.nn.Parameter(torch.full((257,), 1.5))
    p.data[-1] = 1.9
    optimizer = lp.optim.SGD(
        [p],
        lr=1.0,
        format=fmt,
        compensation_format=compensation,
        compensation_rounding="stochastic",
    )
    start = optimizer.exact(p)
    gradient = torch.full_like(p, -asked * ulp / STEPS)
    gradient[-1] = 0
    for _ in range(STEPS):
        p.grad = gradient
        optimizer.step()
    return float((optimizer.exact(p) - start)[:-1].mean() / ulp)


def main() -> None:
    """Print the table as Markdown."""
    print(f"| parameter | compensation | asked {ASKED:+g} | asked {-ASKED:+g} |")
    print("|---|---|---:|---:|")
    for fmt, (ulp, compensations) in CASES.items():
        for name in compensations:
            up, down = (arrived(fmt, name, way, ulp) for way in (ASKED, -ASKED))
            print(f"| {fmt} | {name or 'its own'} | {up:+.2f} | {down:+.2f} |")


if __name__ == "__main__":
    main()
