"""The tables of a search as text: computed once, shown on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from ..run import RunResult
from ..table import by_label, spread
from .front import Trial
from .gap import gap
from .loop import Outcome

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
NOTES = (
    "held-out accuracy: one seed, on the sixth of the training set that the trials do not see.",
    "energy: of one training step, memory traffic and the optimizer's step included, by lp.cost;"
    " docs/cost.md says what it leaves out.",
    "memory: parameters, compensation, states, gradients and activations of training, by lp.cost.",
    "test accuracy: trained anew on the whole training set with seeds that no trial saw; mean and"
    " standard deviation of one run, differences seed by seed. A plan is chosen if its mean less"
    " the standard error, which the sentence above gives, keeps the tolerance.",
)


def amount(price: float, objective: str) -> str:
    """Return a price with its unit."""
    return f"{price * 1e6:.2f} uJ" if objective == "energy" else f"{price / 2**20:.3f} MiB"


def line(trial: Trial, objective: str) -> str:
    """Return one trial on a line."""
    what = trial.reason if trial.accuracy is None else f"{100 * trial.accuracy:.2f} %"
    return f"{trial.name} ({trial.origin}), {amount(trial.price, objective)}, {what}"


def verdict(outcome: Outcome) -> str:
    """Return in a sentence what came out."""
    chosen, reference, objective = outcome.chosen, outcome.reference, outcome.settings.objective
    trained = sum(t.trained for t in outcome.trials)
    tried = f"{trained} plans trained, {len(outcome.trials) - trained} skipped unseen"
    if chosen.levels == reference.levels:
        return f"No plan within {outcome.settings.within:g} points saves {objective}; {tried}."
    found = outcome.gap
    if found is None:
        assert chosen.accuracy is not None
        assert reference.accuracy is not None
        points = f"{100 * (chosen.accuracy - reference.accuracy):+.2f} points of held-out accuracy"
    else:
        error = f" ± {found.error:.2f}" if len(found.points) > 1 else ""
        points = f"{found.mean:+.2f}{error} points of test accuracy"
    return (
        f"{chosen.name} takes {outcome.saving:.1%} less {objective} than {reference.name},"
        f" {amount(chosen.price, objective)} against {amount(reference.price, objective)}, at"
        f" {points}; {tried}."
    )


def front_rows(outcome: Outcome) -> Rows:
    """Return the front, cheapest first, with the chosen plan and the reference marked."""
    reference, objective = outcome.reference, outcome.settings.objective
    shown = outcome.front
    shown += [t for t in (outcome.chosen, reference) if t not in shown]
    rows: list[tuple[str, ...]] = []
    for trial in sorted(dict.fromkeys(shown), key=lambda t: t.price):
        mark = "chosen" if trial == outcome.chosen else ""
        mark = "reference" if trial == reference else mark
        assert trial.accuracy is not None
        rows.append(
            (
                trial.name,
                trial.origin,
                amount(trial.price, objective),
                f"{trial.price / reference.price - 1:+.1%}",
                f"{100 * trial.accuracy:.2f} %",
                mark,
            )
        )
    header = ("plan", "proposed by", objective, "against", "held-out accuracy", "")
    return header, rows


def layers(outcome: Outcome, trial: Trial) -> Rows:
    """Return layer by role what a trial's plan runs in."""
    found: dict[str, dict[str, str]] = {}
    for (name, choices), level in zip(outcome.choices.items(), trial.levels, strict=True):
        layer, _, role = name.rpartition("/")
        found.setdefault(layer, {})[role] = choices[level]
    roles = list(next(iter(found.values())))
    return ("layer", *roles), [(layer, *(row[r] for r in roles)) for layer, row in found.items()]


def final_rows(outcome: Outcome) -> Rows:
    """Return the final trainings, a row a plan."""
    prices = {t.name: t.price for t in outcome.trials if t.trained}
    reference, objective = outcome.reference, outcome.settings.objective
    rows: list[tuple[str, ...]] = []
    for label, group in by_label(outcome.final).items():
        cost = prices[label]
        mark = "chosen" if label == outcome.chosen.name else "refused"
        rows.append(
            (
                label,
                str(len(group)),
                spread([100 * r.accuracy for r in group], "{:.2f}", " %"),
                _against(outcome.final, reference.name, label),
                amount(cost, objective),
                f"{cost / reference.price - 1:+.1%}",
                "reference" if label == reference.name else mark,
            )
        )
    return ("plan", "seeds", "test accuracy", "points", objective, "against", ""), rows


def _against(results: Sequence[RunResult], reference: str, label: str) -> str:
    if label == reference:
        return ""
    found = gap(results, reference, label)
    assert found is not None
    return spread(found.points, "{:+.2f}")
