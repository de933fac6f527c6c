"""Make table.md and heatmap.svg of results.csv.

    LIMPREC_DATA=DIR python -m experiments.guideline.figure

A cell is exp(fp32's loss - loss): how probable the right class is, in the geometric mean over the
test set, relative to fp32; or accuracy relative to fp32's. Both are means over the seeds there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from limprec.bounds import Guideline, guideline

from .run import BITS, CIFAR, LARGE, OTHERS, SIZES, Run, done
from .tasks import SOURCES, Outcome

HERE = Path(__file__).parent
TASKS = (SIZES[0], CIFAR, *SIZES[1:], LARGE)
ROUNDINGS = ("nearest", "stochastic")
WITHIN = 0.98
"""Relative to fp32, from here on up a width counts as good as fp32."""


@dataclass(frozen=True)
class Row:
    """A task under one rounding: bits -> relative likelihood and accuracy, and what we predict."""

    task: tuple[str, int]
    rounding: str
    fp32: Outcome
    likelihood: dict[int, float]
    accuracy: dict[int, float]
    uniform: Guideline
    counted: Guideline

    @property
    def knee(self) -> int | None:
        """The width from which on everything measured is as good as fp32."""
        bad = [n for n, value in self.likelihood.items() if value < WITHIN]
        above = [n for n in self.likelihood if n > max(bad, default=1)]
        return min(above, default=None)


def rows(results: dict[Run, Outcome]) -> list[Row]:
    """Gather the runs with errors in dynamic fixed point."""
    found = []
    for task in TASKS:
        counts = SOURCES[task[0]](task[1]).counts
        for rounding in ROUNDINGS:
            suffix = ":stochastic" if rounding == "stochastic" else ""
            likelihood, accuracy = {}, {}
            for bits in BITS:
                pairs = [
                    (results[run], results[Run(*task, run.seed)])
                    for run in (Run(*task, seed, f"dfx{bits}{suffix}") for seed in range(9))
                    if run in results
                ]
                if pairs:
                    likelihood[bits] = mean(relative(a, b) for a, b in pairs)
                    accuracy[bits] = mean(a.accuracy / b.accuracy for a, b in pairs)
            base = [results[Run(*task, s)] for s in range(9) if Run(*task, s) in results]
            fp32 = Outcome(mean(b.accuracy for b in base), mean(b.loss for b in base))
            found.append(
                Row(
                    task,
                    rounding,
                    fp32,
                    likelihood,
                    accuracy,
                    guideline(task[1], rounding=rounding),
                    guideline(class_counts=counts, rounding=rounding),
                )
            )
    return found


def relative(outcome: Outcome, base: Outcome) -> float:
    """Return the likelihood relative to fp32's, 0 for a training that diverged."""
    return 0.0 if math.isnan(outcome.loss) else math.exp(base.loss - outcome.loss)


def table(found: list[Row], results: dict[Run, Outcome]) -> str:
    """Return the knees, every loss, and the other formats as Markdown."""
    lines = [
        f"Knee: the width from which on the likelihood is within {1 - WITHIN:.0%} of fp32's.",
        "",
        "| task | classes | rounding | knee | least | advised | with counts | fp32 loss |"
        " fp32 accuracy |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        knee = row.knee
        lines.append(
            f"| {row.task[0]} | {row.task[1]} | {row.rounding} | {knee or 'above'} |"
            f" {row.uniform.least} | {row.uniform.advised} |"
            f" {row.counted.least}-{row.counted.advised} | {row.fp32.loss:.3f} |"
            f" {row.fp32.accuracy:.1%} |"
        )
    for name, values, form in (
        ("Likelihood relative to fp32", "likelihood", "{:.2f}"),
        ("Accuracy relative to fp32", "accuracy", "{:.3f}"),
    ):
        lines += ["", f"{name}:", "", "| task | rounding |" + "".join(f" {n} |" for n in BITS)]
        lines.append("|---|---|" + "---:|" * len(BITS))
        for row in found:
            cells = getattr(row, values)
            shown = (form.format(cells[n]) if n in cells else "" for n in BITS)
            lines.append(
                f"| {row.task[0]} {row.task[1]} | {row.rounding} |"
                + "".join(f" {cell} |" for cell in shown)
            )
    return "\n".join([*lines, *_others(results)]) + "\n"


def _others(results: dict[Run, Outcome]) -> Iterable[str]:
    """Yield the blocks, floats, logits and centred errors as tables."""
    yield from ("", "Errors in other formats, words, seed 0, test loss:", "")
    heads = [f"{task[1]} classes" for task in OTHERS]
    yield "| error | loss scale | logits | centred | " + " | ".join(heads) + " |"
    yield "|---|---:|---|---|" + "---:|" * len(heads)
    plain = [Run(*OTHERS[0], 0)]
    kinds = plain + [
        r for r in results if not r.error.startswith(("dfx", "fp32")) or r.logits != "fp32"
    ]
    kinds += [r for r in results if r.centred and r not in kinds]
    shown = dict.fromkeys((r.error, r.loss_scale, r.logits, r.centred) for r in kinds)
    for error, scale, logits, centred in shown:
        cells = []
        for task in OTHERS:
            outcome = results.get(Run(*task, 0, error, scale, logits, centred))
            cells.append(f"{outcome.loss:.2f}" if outcome else "")
        yield (
            f"| {error} | 2^{scale} | {logits} | {'yes' if centred else ''} | "
            + " | ".join(cells)
            + " |"
        )


CELL, TALL, LEFT, TOP, GAP = 34, 26, 118, 74, 44


def svg(found: list[Row]) -> str:
    """Return the heat maps: two roundings by two measures, the predictions as lines."""
    wide, high = CELL * len(BITS), TALL * len(TASKS)
    width, height = LEFT + 2 * wide + GAP + 14, TOP + 2 * (high + 66) - 14
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'"
        f" width='{width}' height='{height}' font-family='system-ui, sans-serif' font-size='11'>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        f"<text x='{LEFT}' y='20' font-size='15' font-weight='600'>The last layer's error in n"
        " bits: training relative to fp32, and what the guideline says</text>",
    ]
    for down, (name, measure) in enumerate(
        (("likelihood of the right class", "likelihood"), ("accuracy", "accuracy"))
    ):
        for right, rounding in enumerate(ROUNDINGS):
            x0, y0 = LEFT + right * (wide + GAP), TOP + down * (high + 66)
            parts.append(
                f"<text x='{x0}' y='{y0 - 22}' font-weight='600'>{name}, {rounding}</text>"
            )
            parts += [
                f"<text x='{x0 + CELL * (i + 0.5)}' y='{y0 - 6}' text-anchor='middle'>{n}</text>"
                for i, n in enumerate(BITS)
            ]
            for i, row in enumerate(r for r in found if r.rounding == rounding):
                y = y0 + TALL * i
                if right == 0:
                    parts.append(
                        f"<text x='{x0 - 8}' y='{y + 17}' text-anchor='end'>{row.task[0]}"
                        f" {row.task[1]}</text>"
                    )
                parts += _cells(getattr(row, measure), x0, y)
                parts += _lines(row, x0, y)
    y = height - 14
    for x, style, label in (
        (LEFT, "stroke='#000' stroke-width='3'", "advised, classes alone"),
        (LEFT + 190, "stroke='#000' stroke-width='1.5' stroke-dasharray='3 2'", "least"),
        (LEFT + 280, "stroke='#d6007b' stroke-width='3'", "advised, class counts known"),
    ):
        parts.append(f"<line x1='{x}' x2='{x}' y1='{y - 12}' y2='{y + 4}' {style}/>")
        parts.append(f"<text x='{x + 7}' y='{y}'>{label}</text>")
    parts.append(
        f"<text x='{LEFT + 490}' y='{y}'>a line stands left of the width it means</text></svg>\n"
    )
    return "\n".join(parts)


def _cells(values: dict[int, float], x0: float, y: float) -> list[str]:
    parts = []
    for i, bits in enumerate(BITS):
        x, value = x0 + CELL * i, values.get(bits)
        fill = "#ddd" if value is None else _color(value)
        parts.append(
            f"<rect x='{x}' y='{y}' width='{CELL}' height='{TALL}' fill='{fill}' stroke='white'/>"
        )
        if value is not None:
            ink = "#fff" if value < 0.45 else "#000"
            text = f"{min(value, 9.99):.2f}".removeprefix("0") if value < 0.995 else f"{value:.2f}"
            parts.append(
                f"<text x='{x + CELL / 2}' y='{y + 17}' text-anchor='middle' font-size='10'"
                f" fill='{ink}'>{text}</text>"
            )
    return parts


def _lines(row: Row, x0: float, y: float) -> list[str]:
    places = [
        (row.uniform.least, "stroke='#000' stroke-width='1.5' stroke-dasharray='3 2'", 0),
        (row.uniform.advised, "stroke='#000' stroke-width='3'", 0),
    ]
    if row.counted.advised != row.uniform.advised:
        places.append((row.counted.advised, "stroke='#d6007b' stroke-width='3'", 0))
    return [
        f"<line x1='{x}' x2='{x}' y1='{y + 1}' y2='{y + TALL - 1}' {style}/>"
        for bits, style, shift in places
        for x in [x0 + CELL * (bits - BITS[0]) + shift]
    ]


def _color(value: float) -> str:
    """Dark violet at 0 over orange to pale yellow at 1: light and dark alone tell it too."""
    stops = (
        (0.0, (43, 16, 74)),
        (0.5, (196, 61, 78)),
        (0.9, (249, 166, 63)),
        (1.0, (252, 246, 191)),
    )
    value = min(max(value, 0.0), 1.0)
    for (low, a), (high, b) in pairwise(stops):
        if value <= high:
            share = (value - low) / (high - low)
            rgb = (round(p + share * (q - p)) for p, q in zip(a, b, strict=True))
            return "#" + "".join(f"{v:02x}" for v in rgb)
    raise AssertionError(value)


def main() -> None:
    """Write both files."""
    results = done()
    found = rows(results)
    (HERE / "table.md").write_text(table(found, results), encoding="utf-8")
    (HERE / "heatmap.svg").write_text(svg(found), encoding="utf-8")


if __name__ == "__main__":
    main()
