"""The table of a comparison: computed once, shown on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from ..files import write_text
from .run import RunResult

HEADER = (
    "training",
    "accuracy",
    "against fp32",
    "loss",
    "updates lost",
    "movement lost",
    "bits / parameter",
    "MAC energy",
)
NOTES = (
    "accuracy and loss (nats): test set, after the last epoch; against fp32 in percentage points.",
    "updates lost: share of the non-zero updates that left no trace in what is stored; under"
    " stochastic rounding such an update is not lost on average.",
    "movement lost: share of the way that all updates together asked for and the parameters did"
    " not go.",
    "bits / parameter: training state (parameter, gradient, momentum, compensation), averaged over"
    " the parameters.",
    "MAC energy: multiply-adds of one training step against fp32, by the 45 nm table of Horowitz"
    " (ISSCC 2014); memory traffic not counted.",
)


SPREAD_NOTE = "of {0} seeds: mean and standard deviation of one run; against fp32 seed by seed."


def rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """Return a row of text per label, cells as in ``HEADER``; the first label is the baseline.

    Results of one label are its seeds: cells give their mean and, for accuracy and loss, the
    standard deviation of one run (n - 1 in the denominator).
    """
    groups = by_label(results)
    base = next(iter(groups.values()))
    return [_row(group, base) for group in groups.values()]


def by_label(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Return the results of each label, in the order in which they came."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.label, []).append(result)
    return groups


def notes(results: Sequence[RunResult]) -> list[str]:
    """Return what a reader must know of the columns."""
    seeds = max(len(group) for group in by_label(results).values())
    return [*NOTES, *([SPREAD_NOTE.format(seeds)] if seeds > 1 else [])]


def write_markdown(results: Sequence[RunResult], path: Path, command: str) -> Path:
    """Write the table, its notes, the command and the versions as Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in results[0].environment.items())
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(r.config["seed"] for r in results))
    made = f"Made by `{command}`, seed {seeds}; {versions}.\n"
    return write_text(path, f"{markdown(results)}\n{made}")


def markdown(results: Sequence[RunResult]) -> str:
    """Return the table and its notes as Markdown."""
    head = "| " + " | ".join(HEADER) + " |"
    rule = "|---|" + "---:|" * (len(HEADER) - 1)
    body = ["| " + " | ".join(row) + " |" for row in rows(results)]
    return "\n".join([head, rule, *body, "", *(f"- {note}" for note in notes(results))]) + "\n"


def _row(group: Sequence[RunResult], base: Sequence[RunResult]) -> tuple[str, ...]:
    twins = {result.config["seed"]: result.accuracy for result in base}
    gaps = [
        100 * (result.accuracy - twins[result.config["seed"]])
        for result in group
        if result.config["seed"] in twins
    ]
    return (
        group[0].label,
        spread([100 * result.accuracy for result in group], "{:.2f}", " %"),
        "" if group is base or not gaps else spread(gaps, "{:+.2f}"),
        spread([result.loss for result in group], "{:.4f}"),
        percent(_mean(group, lambda result: result.updates_lost)),
        percent(_mean(group, lambda result: result.movement_lost)),
        f"{group[0].total_state_bits:.0f}",
        percent(group[0].mac_energy / base[0].mac_energy),
    )


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return mean and standard deviation as text; the mean alone of a single value."""
    mean = form.format(statistics.fmean(values))
    if len(values) == 1:
        return mean + unit
    return f"{mean} ± {form.replace('+', '').format(statistics.stdev(values))}{unit}"


def _mean(group: Sequence[RunResult], value: Callable[[RunResult], float | None]) -> float | None:
    values = [v for result in group if (v := value(result)) is not None]
    return statistics.fmean(values) if values else None


def percent(share: float | None) -> str:
    """Return a share as a percentage, with enough digits near 0 and 100 to tell the difference.

    Nothing for None.
    """
    if share is None:
        return ""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if abs(value) < 0.001:
        return "< 0.001 %"
    digits = 1
    while digits < 3 and round(value, digits) in (0, 100):
        digits += 1
    return f"{value:.{digits}f} %"
