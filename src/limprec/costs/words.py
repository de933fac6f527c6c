"""A cost in words: the tables of text that the terminal and the page share."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from .result import ARITHMETIC, PRODUCTS, Cost

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Header and rows."""
_PREFIXES = ("p", "n", "µ", "m", "", "k", "M", "G", "T", "P")
MOST_LAYERS = 24
_FOLD = 100
"""Layers from which on those of one kind share a row."""
MODEL = "(model)"
"""What a layer without a name is called."""


def joules(value: float | None) -> str:
    """Return an energy in three digits: ``3.47 mJ``; nothing for None."""
    if value is None:
        return ""
    if value <= 0:
        return "0 J"
    step = min(max(math.floor(math.log10(value) / 3), -4), len(_PREFIXES) - 5)
    if float(f"{value / 1000.0**step:.3g}") >= 1000 and step < len(_PREFIXES) - 5:
        step += 1
    return f"{_three(value / 1000.0**step)} {_PREFIXES[step + 4]}J"


def size(value: float) -> str:
    """Return bytes in three digits: ``117 MiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while step < len(units) - 1 and float(f"{value / 1024**step:.3g}") >= 1000:
        step += 1
    return f"{_three(value / 1024**step)} {units[step]}"


def comparison(cost: Cost) -> Rows:
    """Return a column per training, the plan and its baselines: totals and their shares of fp32."""
    trainings = [c for _, c in cost.compared]
    base = cost.against.get("fp32")

    def pair(name: str, values: Sequence[float], shown: Callable[[float], str]) -> None:
        rows.append((name, *map(shown, values)))
        if base is not None:
            whole = values[trainings.index(base)]
            rows.append(("  of fp32", *(_share(value, whole) for value in values)))

    rows: list[tuple[str, ...]] = []
    pair("energy", [c.energy for c in trainings], joules)
    pair("of multiply-adds alone", [c.product_energy for c in trainings], joules)
    pair("memory / device", [c.total_memory for c in trainings], size)
    if cost.steps is not None:
        total = [joules(c.run_energy) for c in trainings]
        rows.append((f"{cost.steps:,} steps, all devices", *total))
    return ("a step", *(name for name, _ in cost.compared)), rows


def by_layer(cost: Cost, most: int | None = MOST_LAYERS) -> Rows:
    """Return a row per layer in the model's order; all but the ``most`` costly are summed up.

    Layers of a very deep model whose names differ in numbers alone share a row.
    """
    header = ("layer", "energy", "share", *ARITHMETIC, "memory")
    layers, kinds = cost.by("layer"), cost.by("layer", "kind")
    if most is not None and len(layers) > _FOLD:
        layers, kinds = _folded(layers, kinds)
    kept = set(sorted(layers, key=lambda name: -layers[name])[:most])
    rows = []
    rest = [0.0] * 4
    for name, total in layers.items():
        arithmetic = [kinds.get((name, kind), 0.0) for kind in ARITHMETIC]
        values = [total, *arithmetic, max(total - sum(arithmetic), 0.0)]
        if name in kept:
            rows.append(_layer_row(name or MODEL, values, cost.energy))
        else:
            rest = [a + b for a, b in zip(rest, values, strict=True)]
    if len(layers) > len(kept):
        rows.append(_layer_row(f"{len(layers) - len(kept)} others", rest, cost.energy))
    return header, rows


def by_role(cost: Cost) -> Rows:
    """Return a row per role and a column per kind of operation."""
    energies = cost.by("role", "kind")
    memories = sorted({kind for _, kind in energies if kind not in ARITHMETIC}, key=_level)
    kinds = [*ARITHMETIC, *memories]
    first = ["activation", "weight", *PRODUCTS[1:], "element-wise"]
    roles = sorted({role for role, _ in energies}, key=lambda r: (*first, r).index(r))
    rows = [
        (
            role,
            *(joules(energies[role, kind]) if (role, kind) in energies else "" for kind in kinds),
        )
        for role in roles
    ]
    return ("role", *kinds), rows


def memory(cost: Cost) -> Rows:
    """Return a row per role of memory and a column per training, on each device."""
    roles = dict.fromkeys(role for _, c in cost.compared for role in c.device_memory)
    rows = [
        (role, *(size(c.device_memory.get(role, 0.0)) for _, c in cost.compared))
        for role in roles
        if any(c.device_memory.get(role) for _, c in cost.compared)
    ]
    rows.append(("total", *(size(c.total_memory) for _, c in cost.compared)))
    return ("memory / device", *(name for name, _ in cost.compared)), rows


def notes(cost: Cost) -> list[str]:
    """Return what the numbers rest on, a sentence each."""
    macs = ", ".join(f"{n:,} {w}" for n, w in zip(cost.macs.values(), _WORDS, strict=True))
    found = [
        f"Energies by {cost.technology.source}.",
        f"Multiply-adds of a step of {cost.batch} samples: {macs}.",
        "bf16: operands, gradients and parameters in bf16 beside a float32 master copy and states.",
    ]
    if cost.fitted:
        found.append(f"Fitted, not in the table: {', '.join(cost.fitted)}.")
    if cost.approximate:
        found.append(f"Known second hand: {', '.join(cost.approximate)}.")
    if cost.schedule:
        found.append(
            f"CPT's cost metric: {100 * cost.schedule.mean:.2f} % of 32 bits,"
            f" {-100 * cost.schedule.saving:+.2f} % against the most bits throughout."
        )
    if cost.devices > 1:
        sent = ", ".join(f"{what} {size(n)}" for what, n in cost.communication.items())
        found.append(f"{cost.devices} devices; each sends in a step: {sent}.")
    found.append(f"Not counted: {'; '.join(cost.outside)}.")
    return found


def text(cost: Cost) -> str:
    """Return all tables and notes as plain text."""
    tables = [comparison(cost), by_layer(cost), by_role(cost), memory(cost)]
    return "\n\n".join([*(_plain(*table) for table in tables), "\n".join(notes(cost))])


_WORDS = ("forward", "for errors", "for weight gradients")


def _folded(
    layers: dict[str, float], kinds: dict[tuple[str, str], float]
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Sum up layers whose names differ in numbers alone."""
    stars = {name: re.sub(r"(?<![^.])\d+(?![^./])", "*", name) for name in layers}
    times = Counter(stars.values())
    names = {
        name: f"{star} ({times[star]})" if "*" in star else star for name, star in stars.items()
    }
    folded: dict[str, float] = defaultdict(float)
    for name, energy in layers.items():
        folded[names[name]] += energy
    parts: dict[tuple[str, str], float] = defaultdict(float)
    for (name, kind), energy in kinds.items():
        parts[names[name], kind] += energy
    return folded, parts


def _layer_row(name: str, values: Sequence[float], whole: float) -> tuple[str, ...]:
    total, *parts = values
    share = f"{100 * total / whole:.1f} %" if whole else ""
    return (name, joules(total), share, *(joules(part) if part else "" for part in parts))


def _share(value: float, whole: float) -> str:
    return f"{100 * value / whole:.1f} %" if whole else ""


def _three(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(digits, 2)}f}"


def _level(kind: str) -> tuple[bool, int, str]:
    """Sort memories by size, outside the chip last."""
    words = kind.split()
    units = ("B", "KB", "MB")
    on_chip = len(words) == 3
    return (not on_chip, 1024 ** units.index(words[2]) * int(words[1]) if on_chip else 0, kind)


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )
