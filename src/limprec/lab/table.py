"""The table of a comparison: computed once, shown on the terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import write_text
from .run import RunResult

HEADER = (
    "training",
    "accuracy",
    "against fp32",
    "updates lost",
    "movement lost",
    "bits / parameter",
    "MAC energy",
)
NOTES = (
    "accuracy: test set, after the last epoch; against fp32 in percentage points.",
    "updates lost: share of the non-zero updates that left no trace in what is stored; under"
    " stochastic rounding such an update is not lost on average.",
    "movement lost: share of the way that all updates together asked for and the parameters did"
    " not go.",
    "bits / parameter: training state (parameter, gradient, momentum, compensation), averaged over"
    " the parameters.",
    "MAC energy: multiply-adds of one training step against fp32, by the 45 nm table of Horowitz"
    " (ISSCC 2014); memory traffic not counted.",
)


def rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """Return a row of text per result, cells as in ``HEADER``; the first result is the baseline."""
    return [_row(result, results[0]) for result in results]


def write_markdown(results: Sequence[RunResult], path: Path, command: str) -> Path:
    """Write the table, its notes, the command and the versions as Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in results[0].environment.items())
    made = f"Made by `{command}`, seed {results[0].config['seed']}; {versions}.\n"
    return write_text(path, f"{markdown(results)}\n{made}")


def markdown(results: Sequence[RunResult]) -> str:
    """Return the table and its notes as Markdown."""
    head = "| " + " | ".join(HEADER) + " |"
    rule = "|---|" + "---:|" * (len(HEADER) - 1)
    body = ["| " + " | ".join(row) + " |" for row in rows(results)]
    return "\n".join([head, rule, *body, "", *(f"- {note}" for note in NOTES)]) + "\n"


def _row(result: RunResult, base: RunResult) -> tuple[str, ...]:
    gap = 100 * (result.accuracy - base.accuracy)
    return (
        result.label,
        f"{100 * result.accuracy:.2f} %",
        "" if result is base else f"{gap:+.2f}",
        percent(result.updates_lost),
        percent(result.movement_lost),
        f"{result.total_state_bits:.0f}",
        percent(result.mac_energy / base.mac_energy),
    )


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
