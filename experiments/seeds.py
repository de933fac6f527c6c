"""A table over seeds, of finished runs of ``limprec compare``: means, spreads, paired differences.

    python experiments/seeds.py FOLDER [--keep DIR] [--figure FILE.svg]

FOLDER is searched for result.json files (or holds kept ones). Differences are taken seed by seed
against the first label, fp32: a seed gives all of them the same weights and the same batches.
``--keep`` copies the results there as LABEL-SEED.json, to be committed, without the folder of a
text; ``--figure`` draws the
differences in loss, a dot a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import statistics
from collections.abc import Sequence
from pathlib import Path

from limprec.files import write_text
from limprec.lab.run import RunResult
from limprec.lab.table import by_label, percent, spread
from limprec.lab.variants import BASELINE

ORDER = (BASELINE, "nearest", "stochastic", "lazy", "kahan", "kahan-stochastic", "master", "split")
HEADER = ("training", "seeds", "accuracy", "against fp32", "loss", "against fp32", "movement lost")


def load(folder: Path) -> list[RunResult]:
    """Return all finished results below a folder, by variant and seed."""
    files = sorted(folder.rglob("result.json")) or sorted(folder.glob("*.json"))
    results = [RunResult.load(file) for file in files]
    return sorted(results, key=lambda r: (*_place(r.label), r.config["seed"]))


def _place(label: str) -> tuple[int, str]:
    """Return where a label stands: by its write-back, then by its way to compute."""
    words = label.split(" ")
    way = words.pop() if words[-1] not in ORDER else ""
    return ORDER.index(words[-1]), way


def rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """Return the cells under ``HEADER``."""
    groups = by_label(results)
    base = {r.config["seed"]: r for r in groups[BASELINE]}
    table = []
    for label, group in groups.items():
        twins = [(r, base[r.config["seed"]]) for r in group if r.config["seed"] in base]
        lost = [r.movement_lost for r in group if r.movement_lost is not None]
        paired = label != BASELINE and twins
        table.append(
            (
                label,
                str(len(group)),
                spread([100 * r.accuracy for r in group], "{:.2f}", " %"),
                spread([100 * (r.accuracy - b.accuracy) for r, b in twins], "{:+.2f}")
                if paired
                else "",
                spread([r.loss for r in group], "{:.4f}"),
                spread([r.loss - b.loss for r, b in twins], "{:+.4f}") if paired else "",
                percent(statistics.fmean(lost)) if lost else "",
            )
        )
    return table


def figure(results: Sequence[RunResult]) -> str:
    """Return the differences in test loss against fp32 as SVG: a dot a seed, a bar for the mean."""
    groups = by_label(results)
    base = {r.config["seed"]: r.loss for r in groups.pop(BASELINE)}
    gaps = {
        label: [r.loss - base[r.config["seed"]] for r in group if r.config["seed"] in base]
        for label, group in groups.items()
    }
    every = [0.0, *(gap for group in gaps.values() for gap in group)]
    low, high = min(every), max(every)
    margin = 0.06 * (high - low)
    left, right, row, top = 210, 660, 34, 20

    def place(value: float) -> float:
        return left + (right - left) * (value - low + margin) / (high - low + 2 * margin)

    bottom = top + row * len(gaps)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{bottom + 50}"'
        ' font-family="system-ui, sans-serif" font-size="14">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="{top}" y2="{bottom}" stroke="#222"/>',
        f'<text x="{(left + right) / 2}" y="{bottom + 40}" text-anchor="middle">'
        "test loss against fp32, same seed (nats); right is worse</text>",
    ]
    parts += [
        f'<text x="{place(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:+.3f}</text>'
        for tick in (0.0, max(every, key=abs))
    ]
    for number, (label, group) in enumerate(gaps.items()):
        y = top + row * (number + 0.5)
        parts += [
            f'<text x="{left - 16}" y="{y + 5}" text-anchor="end">',
            f"{html.escape(label)}</text>",
        ]
        parts += [
            f'<circle cx="{place(gap):.1f}" cy="{y}" r="5" fill="#0072b2" fill-opacity=".6"/>'
            for gap in group
        ]
        if group:
            x = place(statistics.fmean(group))
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11}" y2="{y + 11}"')
            parts.append('stroke="#d55e00" stroke-width="3"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    results = load(given.folder)
    print("| " + " | ".join(HEADER) + " |")
    print("|---|" + "---:|" * (len(HEADER) - 1))
    for row in rows(results):
        print("| " + " | ".join(row) + " |")
    if given.figure is not None:
        write_text(given.figure, figure(results))
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        for found in results:
            kind, colon, place = found.config["data"].partition(":")
            data = kind + colon + Path(place).name
            result = dataclasses.replace(found, config={**found.config, "data": data})
            name = f"{result.label.replace(' ', '-')}-{result.config['seed']}.json"
            result.save(given.keep / name)


if __name__ == "__main__":
    main()
