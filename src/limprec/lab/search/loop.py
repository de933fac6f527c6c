"""The search itself: what to train next, training it, and the choice at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...files import write_text
from ...integrations.lightning import pl
from ...plan import Plan
from ..compare import compare, finished
from ..data import DataSet
from ..models import Task, build_model
from ..run import RunConfig, RunResult
from ..variants import Variant
from .chains import next_of, thinned
from .front import Trial, cheapest, front, passes, why_skip
from .gap import Gap, gap
from .held_out import hold_out
from .pricing import Pricing
from .sensitivity import measure_noise, order
from .settings import SearchSettings
from .space import Levels, Space, neighbours
from .stopping import LossWatch, TrialStoppedError, why_stop
from .study import POPULATION, Study

SKIPS = 25
"""Plans that are skipped in a row before the search ends: nothing new is being proposed."""
CANDIDATES = 5
"""Plans that the final training tries, cheapest first, before the reference is left as it is."""


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Args:
        settings: the search.
        trials: all of them, also those of earlier sittings and of other machines.
        reference: the reference's.
        chosen: the cheapest that is good enough; the reference if none is.
        noise: variable -> noise to signal of each choice, narrowest first.
        choices: variable -> names of its choices.
        final: final trainings on the whole training set, judged by the test set: the reference's
            seeds first, then those of each candidate tried, the chosen one last.
    """

    settings: SearchSettings
    trials: tuple[Trial, ...]
    reference: Trial
    chosen: Trial
    noise: dict[str, list[float]]
    choices: dict[str, list[str]]
    final: tuple[RunResult, ...]

    @property
    def saving(self) -> float:
        """Share of the reference's price that the chosen plan saves."""
        return 1 - self.chosen.price / self.reference.price

    @property
    def front(self) -> list[Trial]:
        """The trials that no other beats in both objectives, cheapest first."""
        return front(self.trials)

    @property
    def gap(self) -> Gap | None:
        """How far the chosen plan's test accuracy lies from the reference's; None if not run."""
        return gap(self.final, self.reference.name, self.chosen.name)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "objective": self.settings.objective,
            "within": self.settings.within,
            "reference": self.reference.as_dict(),
            "chosen": self.chosen.as_dict(),
            "saving": self.saving,
            "gap": self.gap and self.gap.mean,
            "gap_error": self.gap and self.gap.error,
            "front": [trial.number for trial in self.front],
            "trials": [trial.as_dict() for trial in self.trials],
            "final": [result.as_dict() for result in self.final],
        }


def search_plans(
    settings: SearchSettings,
    data: DataSet,
    out: Path,
    *,
    storage: str | Path | None = None,
    study: str | None = None,
    on_trial: Callable[[Trial, int], None] = lambda trial, done: None,
    on_step: Callable[[str, int, float], None] = lambda label, done, share: None,
) -> Outcome:
    """Search, or go on with a search, and write what was found.

    Args:
        settings: the search.
        data: its data set, loaded.
        out: folder: ``study.journal``, the trials' runs, ``plan.toml`` (the chosen plan), the
            front's other plans in ``plans/``.
        storage: of the study, see ``Study``; None for ``study.journal`` in ``out``.
        study: its name; None for one made of model, data and plan.
        on_trial: called with each trial that ends and how many trainings are done.
        on_step: called with what is trained, the trainings done and the share of the one at work.

    Raises:
        LabError: for a study of something else.
        PlanError, CostError: if the plan or the model does not fit.
    """
    search = _Search(settings, data, out, storage, study, on_trial, on_step)
    search.run()
    return search.finish(data)


class _Search:
    def __init__(
        self,
        settings: SearchSettings,
        data: DataSet,
        out: Path,
        storage: str | Path | None,
        study: str | None,
        on_trial: Callable[[Trial, int], None],
        on_step: Callable[[str, int, float], None],
    ) -> None:
        self.settings, self.out = settings, out
        self.on_trial, self.on_step = on_trial, on_step
        plan, run = settings.run.plan, settings.run
        assert plan is not None
        task = Task(data.kind, tuple(data.input_shape), data.num_classes)
        self.space = Space(build_model(run.model, task, run.seed), plan, settings.formats)
        self.data = hold_out(data)
        self.price = Pricing(settings, self.data, self.space)
        self.price(self.space.start)  # what cannot be priced shows before a folder is made
        name = study or f"{run.model}-{run.data}-{plan.name}"
        self.study = Study(settings, self.space, storage or out / "study.journal", name)
        self.trials = self.study.trials()
        self.refuted: set[Levels] = set()

    @property
    def trained(self) -> int:
        return sum(trial.trained for trial in self.trials)

    @property
    def reference(self) -> Trial | None:
        return next((t for t in self.trials if t.levels == self.space.start and t.trained), None)

    def run(self) -> None:
        """Train until there are enough trials, or nothing new is proposed."""
        self._noise()
        skipped = 0
        while skipped < SKIPS and (self.trained < self.settings.trials or not self.reference):
            self._propose_next()
            record = self._evaluate()
            skipped = 0 if record.trained else skipped + 1
            self.trials = self.study.trials()
            self.on_trial(record, self.trained)

    def _noise(self) -> None:
        if self.study.noise is None:
            self.study.noise = measure_noise(self.settings.run, self.data, self.space)
        noise = self.study.noise
        assert noise is not None
        self.noise = noise
        run, start = self.settings.run, self.price(self.space.start)
        steps = order(self.space, noise, self.price, run.momentum)
        self.chains = {
            "uniform": [p for p in self.space.uniform() if self.price(p) < start],
            "sensitivity": thinned(steps, self.price),
        }

    def _propose(self, levels: Levels, origin: str) -> bool:
        if levels in self.study.in_work():
            return False
        self.study.propose(levels, origin)
        return True

    def _propose_next(self) -> None:
        """Propose the next plan of a chain; the sampler is asked where both have found their edge.

        Their plans are its first generation, and so are neighbours of the cheapest good one where
        too few of them were trained to the end: of plans drawn at random hardly any is.

        The settings' tolerance and what was skipped are judged anew each time: a study that goes
        on with another tolerance looks for another edge.
        """
        self.trials = self.study.trials()  # other machines go on too
        if self.reference is None:
            # Where another machine is at it, the chains' middles will be asked for anyway.
            middles = {o: next_of(c, lambda levels: None) for o, c in self.chains.items()}
            known = {trial.levels for trial in self.trials}
            for origin, levels in {"reference": self.space.start, **middles}.items():
                if levels and levels not in known and self._propose(levels, origin):
                    return
            if self.trained >= self.settings.trials:  # that machine may be gone
                self.study.propose(self.space.start, "reference")
            return
        for origin, chain in self.chains.items():
            levels = next_of(chain, self._verdict)
            if levels is not None and self._propose(levels, origin):
                return
        if sum(t.accuracy is not None for t in self.trials) < POPULATION:
            best = cheapest(self._judged(), self.reference, self.settings.within)[0].levels
            for levels in sorted(neighbours(best), key=self.price):
                if self._verdict(levels) is None and self._propose(levels, "neighbour"):
                    return

    def _verdict(self, levels: Levels) -> bool | None:
        reference, within = self.reference, self.settings.within
        assert reference is not None
        for trial in self._judged():
            if trial.levels == levels and trial.trained:
                return passes(trial, reference, within)
        reason = self._why_skip(levels)
        return None if reason is None else "good enough" in reason

    def _why_skip(self, levels: Levels) -> str | None:
        if self.reference is None or levels == self.space.start:
            return None
        samples, within = len(self.data.test), self.settings.within
        price = self.price(levels)
        return why_skip(levels, price, self._judged(), self.reference, within, samples)

    def _evaluate(self) -> Trial:
        asked, levels, origin = self.study.ask()
        plan = self.space.plan(levels)
        record = Trial(
            asked.number, levels, plan.name, plan.to_toml(), self.price(levels), None, origin
        )
        if reason := self._why_skip(levels):
            record = replace(record, reason=f"skipped: {reason}", trained=False)
        else:
            record = self._train(record, plan)
        self.study.tell(asked, record)
        return record

    def _train(self, record: Trial, plan: Plan) -> Trial:
        others = [t for t in self.trials if t.levels != record.levels]
        label = f"trial {record.number} ({record.origin})"
        watch = LossWatch(
            lambda curve: why_stop(curve, record.price, others, self.reference),
            lambda share: self.on_step(label, self.trained, share),
        )
        run = replace(self.settings.run, plan=plan)
        try:
            (result,) = compare(
                [Variant("trial", run)],
                self.data,
                self.out / "trials",
                on_start=lambda variant: [watch],
            )
        except TrialStoppedError as stopped:
            return replace(record, curve=stopped.curve, reason=f"stopped: {stopped}")
        return replace(record, accuracy=result.accuracy, curve=tuple(watch.curve))

    def finish(self, data: DataSet) -> Outcome:
        """Train the best candidates anew, choose, and write the plans."""
        reference = self.reference
        assert reference is not None
        chosen, final = self._final(reference, data)
        outcome = Outcome(
            self.settings,
            tuple(self.trials),
            reference,
            chosen,
            self.noise,
            {v.name: [str(p) for p in v.choices] for v in self.space.variables},
            tuple(final),
        )
        write_text(self.out / "plan.toml", chosen.plan)
        for place, trial in enumerate(outcome.front):
            write_text(self.out / "plans" / f"{place:02d}-{trial.name}.toml", trial.plan)
        return outcome

    def _final(self, reference: Trial, data: DataSet) -> tuple[Trial, list[RunResult]]:
        """Return the cheapest plan that holds over the seeds, and the trainings that say so.

        For each one that does not, the chain of the sensitivities is asked for a wider one. What
        an earlier sitting refuted stays so.
        """
        final = self._refuted_before(reference)
        for _ in range(CANDIDATES):
            candidate = cheapest(self._judged(), reference, self.settings.within)[0]
            if candidate.levels == reference.levels or not self.settings.seeds:
                return candidate, final
            final += [] if final else self._seeds(reference, data)
            final += self._seeds(candidate, data)
            found = gap(final, reference.name, candidate.name)
            assert found is not None
            if found.holds(self.settings.within):
                return candidate, final
            self.refuted.add(candidate.levels)
            levels = next_of(self.chains["sensitivity"], self._verdict)
            if levels is not None and self._propose(levels, "sensitivity"):
                record = self._evaluate()
                self.trials = self.study.trials()
                self.on_trial(record, self.trained)
        return reference, final

    def _refuted_before(self, reference: Trial) -> list[RunResult]:
        """Note which plans earlier final trainings refuted, and return those trainings.

        The reference's come first; nothing where there were none.
        """
        base = self._finished(reference)
        found: list[RunResult] = []
        done = (t for t in self.trials if t.accuracy is not None and t.levels != reference.levels)
        for trial in sorted(done, key=lambda t: t.price) if base else ():
            own = self._finished(trial)
            between = gap([*base, *own], reference.name, trial.name)
            if own and between is not None and not between.holds(self.settings.within):
                self.refuted.add(trial.levels)
                found += own
        return [*base, *found]

    def _finished(self, trial: Trial) -> list[RunResult]:
        """Return the final trainings of a plan, nothing unless all its seeds are through."""
        results = [finished(row, self.out / "final") for row in self._rows(trial)]
        return [] if None in results else [r for r in results if r is not None]

    def _judged(self) -> list[Trial]:
        """Return the trials, those that the final seeds refuted as failed ones."""
        return [
            replace(t, accuracy=None, reason="refuted") if t.levels in self.refuted else t
            for t in self.trials
        ]

    def _seeds(self, trial: Trial, data: DataSet) -> list[RunResult]:
        watch = partial(self._watch, trial)
        return compare(self._rows(trial), data, self.out / "final", on_start=watch)

    def _rows(self, trial: Trial) -> list[Variant]:
        """Return the final trainings of a plan, one a seed."""
        run, epochs = self.settings.run, self.settings.final_epochs
        plan = Plan.from_toml(trial.plan)
        base: RunConfig = replace(run, plan=plan, epochs=epochs or run.epochs)
        return [
            Variant(trial.name, replace(base, seed=run.seed + 1 + number))
            for number in range(self.settings.seeds)
        ]

    def _watch(self, trial: Trial, variant: Variant) -> Sequence[pl.Callback]:
        label = f"final {variant.title}"
        return [
            LossWatch(lambda curve: None, lambda share: self.on_step(label, self.trained, share))
        ]
