"""Trials, the front they form, and what may be concluded from them before training another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .space import Levels, is_narrower


@dataclass(frozen=True)
class Trial:
    """One plan of a search.

    Args:
        number: in the study.
        levels: its place in the space.
        name: of the plan.
        plan: as TOML text.
        price: joules of a step, or bytes.
        accuracy: share of the held-out samples classified rightly; None if not trained to the end.
        origin: what proposed it: ``reference``, ``uniform``, ``sensitivity``, ``neighbour``, or
            the sampler.
        curve: mean training loss of each part of the training.
        reason: why it was skipped or stopped; empty for one that was trained to the end.
        trained: whether training began.
    """

    number: int
    levels: Levels
    name: str
    plan: str
    price: float
    accuracy: float | None
    origin: str
    curve: tuple[float, ...] = ()
    reason: str = ""
    trained: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both accuracy and price, cheapest first."""
    best: list[Trial] = []
    done = (t for t in trials if t.accuracy is not None)
    for trial in sorted(done, key=lambda t: (t.price, -_accuracy(t), t.number)):
        if not best or _accuracy(trial) > _accuracy(best[-1]):
            best.append(trial)
    return best


def cheapest(trials: Sequence[Trial], reference: Trial, within: float) -> list[Trial]:
    """Return the trials at most ``within`` points below the reference, cheapest first.

    The reference itself is the last resort; what costs more is left out.
    """
    good = [t for t in trials if passes(t, reference, within) and t.price < reference.price]
    return [*sorted(good, key=lambda t: (t.price, -_accuracy(t))), reference]


def passes(trial: Trial, reference: Trial, within: float) -> bool:
    """Whether a trial was trained to the end and is at most ``within`` points below."""
    return trial.accuracy is not None and _drop(trial, reference) <= within + 1e-9


def clearly_fails(trial: Trial, reference: Trial, within: float, samples: int) -> bool:
    """Whether chance among the samples does not explain how far a trial is below.

    It must be under the tolerance by two standard errors of the difference of two independent
    shares; both saw the same samples, so this asks for more than it need.
    """
    if trial.accuracy is None:
        return trial.trained and bool(trial.reason)
    p, q = _accuracy(reference), trial.accuracy
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / samples)
    return _drop(trial, reference) > within + 200 * error


def why_skip(
    levels: Levels,
    price: float,
    trials: Sequence[Trial],
    reference: Trial,
    within: float,
    samples: int,
) -> str | None:
    """Return why a plan need not be trained, or None.

    Narrower everywhere is taken to be no more accurate. This may err by chance, never by much.

    Args:
        levels: of the plan.
        price: of the plan.
        trials: what is known.
        reference: the trial of the reference.
        within: points of tolerance.
        samples: held-out samples.
    """
    if any(t.levels == levels and t.trained for t in trials):
        return "trained before"
    if price >= reference.price:
        return f"costs no less than {reference.name}"
    for trial in trials:
        if not trial.trained:
            continue
        if is_narrower(levels, trial.levels) and clearly_fails(trial, reference, within, samples):
            return f"nowhere wider than trial {trial.number}, which is too narrow"
        if is_narrower(trial.levels, levels) and passes(trial, reference, within):
            return f"nowhere narrower than trial {trial.number}, which is good enough"
    return None


def _accuracy(trial: Trial) -> float:
    assert trial.accuracy is not None
    return trial.accuracy


def _drop(trial: Trial, reference: Trial) -> float:
    """Return points of accuracy below the reference."""
    return 100 * (_accuracy(reference) - _accuracy(trial))
