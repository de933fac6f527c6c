"""Bytes a parameter of the training state, measured from the tensors after a step.

    python -m benchmarks.memory

Parameters, gradients and everything in the optimizer's state are counted, scales included; what a
step needs only while it runs is not.
"""

from __future__ import annotations

from typing import Any

import torch

import limprec as lp

COUNT = 1 << 20
FP8 = torch.float8_e4m3fn
ROWS: list[tuple[str, str, torch.dtype, dict[str, Any]]] = [
    ("SGD, momentum", "SGD", torch.float32, {"writeback": "nearest"}),
    ("SGD, momentum", "SGD", torch.bfloat16, {"writeback": "kahan"}),
    ("SGD, momentum", "SGD", torch.bfloat16, {"writeback": "split"}),
    ("SGD, momentum", "SGD", torch.bfloat16, {"compensation_format": "ulp8"}),
    (
        "SGD, momentum",
        "SGD",
        torch.bfloat16,
        {"compensation_format": "ulp8", "state_format": "mxfp8"},
    ),
    ("SGD, momentum", "SGD", FP8, {"writeback": "kahan"}),
    ("SGD, momentum", "SGD", FP8, {"writeback": "kahan", "state_format": "mxfp8"}),
    ("AdamW", "AdamW", torch.float32, {"writeback": "nearest"}),
    ("AdamW", "AdamW", torch.bfloat16, {"writeback": "kahan"}),
    ("AdamW", "AdamW", torch.bfloat16, {"writeback": "stochastic"}),
    ("AdamW", "AdamW", torch.bfloat16, {"writeback": "master"}),
    ("AdamW", "AdamW", torch.bfloat16, {"state_format": "mxfp8"}),
    (
        "AdamW",
        "AdamW",
        torch.bfloat16,
        {"state_format": "mxfp8", "compensation_format": "ulp8"},
    ),
    ("Lion", "Lion", torch.bfloat16, {"writeback": "kahan"}),
    ("Adafactor", "Adafactor", torch.bfloat16, {"writeback": "kahan"}),
    ("Muon", "Muon", torch.bfloat16, {"writeback": "kahan"}),
]


def measure(name: str, dtype: torch.dtype, options: dict[str, Any]) -> dict[str, float]:
    """Return role -> bytes a parameter."""
    p = torch.nn.Parameter(torch.randn(1024, COUNT // 1024).to(dtype))
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(lp.optim, name)([p], lr=1e-3, **momentum, **options)
    p.grad = torch.randn(p.shape).to(dtype)
    optimizer.step()
    kept = {"parameter": p, "gradient": p.grad}
    kept |= {n: t for n, t in optimizer.state[p].items() if isinstance(t, torch.Tensor)}
    return {role: t.nbytes / p.numel() for role, t in kept.items()}


def main() -> None:
    print("| optimizer | parameters | options | bytes | of them |")
    print("|---|---|---|---:|---|")
    for title, name, dtype, options in ROWS:
        found = measure(name, dtype, options)
        words = ", ".join(f"{k}={v}" for k, v in options.items())
        parts = ", ".join(f"{role} {size:.3g}" for role, size in found.items())
        kind = str(dtype).removeprefix("torch.")
        print(f"| {title} | {kind} | {words} | **{sum(found.values()):.2f}** | {parts} |")


if __name__ == "__main__":
    main()
