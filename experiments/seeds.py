"""A table over seeds, of finished runs of ``limprec compare``: means, spreads, paired differences.

    python experiments/seeds.py FOLDER [--keep DIR]

FOLDER is searched for result.json files (or holds kept ones). Differences are taken seed by seed
against the first label, fp32: a seed gives all of them the same weights and the same batches.
``--keep`` copies the results there as LABEL-SEED.json, to be committed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from limprec.lab.run import RunResult
from limprec.lab.table import by_label, percent, spread
from limprec.lab.variants import BASELINE

ORDER = (BASELINE, "nearest", "stochastic", "lazy", "kahan", "kahan-stochastic", "master", "split")
HEADER = ("training", "seeds", "accuracy", "against fp32", "loss", "against fp32", "movement lost")


def load(folder: Path) -> list[RunResult]:
    """Return all finished results below a folder, by variant and seed."""
    files = sorted(folder.rglob("result.json")) or sorted(folder.glob("*.json"))
    results = [RunResult.load(file) for file in files]
    place = {name: number for number, name in enumerate(ORDER)}
    return sorted(results, key=lambda r: (place[r.label.split(" ")[-1]], r.config["seed"]))


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


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    results = load(given.folder)
    print("| " + " | ".join(HEADER) + " |")
    print("|---|" + "---:|" * (len(HEADER) - 1))
    for row in rows(results):
        print("| " + " | ".join(row) + " |")
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        for result in results:
            name = f"{result.label.replace(' ', '-')}-{result.config['seed']}.json"
            result.save(given.keep / name)


if __name__ == "__main__":
    main()
