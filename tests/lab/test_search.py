"""The plan search: its space, its conclusions, its record, and small searches from end to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from limprec.errors import LabError
from limprec.lab.data import load_data
from limprec.lab.models import MLP
from limprec.lab.run import RunConfig, RunResult
from limprec.lab.search import SearchSettings, Space, cheapest, front, search_plans
from limprec.lab.search.chains import MOST, next_of, thinned
from limprec.lab.search.front import Trial, why_skip
from limprec.lab.search.gap import Gap
from limprec.lab.search.held_out import hold_out
from limprec.lab.search.loop import _Search
from limprec.lab.search.sensitivity import measure_noise, order
from limprec.lab.search.space import Levels
from limprec.lab.search.stopping import LossWatch, TrialStoppedError, why_stop
from limprec.lab.search.study import POPULATION, Study
from limprec.plan import Plan

DFX8 = Plan.load("dfx8")


def settings(**others: object) -> SearchSettings:
    run = RunConfig.usual("mlp", "digits", DFX8, "kahan", epochs=1, batch_size=256, lr=0.1)
    options = {"formats": ("dfx2", "dfx4", "dfx6"), "trials": 3, "seeds": 0, **others}
    return SearchSettings(run, **options)  # type: ignore[arg-type]


def trial(
    number: int, levels: Levels, price: float, accuracy: float | None, **others: object
) -> Trial:
    return Trial(number, levels, f"p{number}", "", price, accuracy, "uniform", **others)  # type: ignore[arg-type]


# The space


def test_a_place_of_the_space_is_a_plan_for_every_role_of_every_layer() -> None:
    model = MLP(64, 10)
    space = Space(model, DFX8, ["dfx4", "dfx6"])
    assert [v.name for v in space.variables][:4] == [f"1/{r}" for r in
        ("weight", "activation", "error", "gradient")]  # fmt: skip
    assert space.plan(space.start) is DFX8
    levels = list(space.start)
    levels[0], levels[2] = 0, 1
    plan = Plan.from_toml(space.plan(tuple(levels)).to_toml())
    first, last = plan.resolve(model).values()
    assert str(first.weight) == "dfx4"
    assert str(first.error) == "dfx6:stochastic"  # the reference's rounding
    assert str(first.bias) == "dfx8"
    assert last == DFX8.resolve(model)["3"]
    assert plan.optimizer == DFX8.optimizer


@pytest.mark.filterwarnings("error")
def test_the_classifier_error_is_never_under_the_guideline() -> None:
    nearest = Plan.uniform("dfx8")
    model = MLP(64, 10)
    space = Space(model, nearest, ["dfx2", "dfx3", "dfx4", "dfx6"])
    error = next(v for v in space.variables if v.name == "3/error")
    assert [str(p) for p in error.choices] == ["dfx4", "dfx6", "dfx8"]  # least 4 for 10 classes
    narrowest = space.uniform()[-1]
    space.plan(narrowest).resolve(model)  # no GuidelineWarning
    assert str(space.precisions(narrowest)["3", "error"]) == "dfx4"
    assert str(space.precisions(narrowest)["3", "weight"]) == "dfx2"


def test_formats_that_leave_no_choice() -> None:
    with pytest.raises(LabError, match="nothing to choose; name more formats"):
        Space(MLP(64, 10), Plan.uniform("dfx8"), ["dfx8"])


# Sensitivity


def test_noise_grows_as_bits_go() -> None:
    given, data = settings(), hold_out(load_data("digits"))
    space = Space(MLP(1024, 10), DFX8, given.formats)
    noise = measure_noise(given.run, data, space)
    assert set(noise) == {v.name for v in space.variables}
    for found in noise.values():
        assert len(found) == 4
        assert all(a > b for a, b in pairwise(found))
    # Two bits less of a dynamic fixed point are a step four times as wide: 12 dB.
    ratio = noise["1/weight"][1] / noise["1/weight"][2]
    assert 10 * math.log10(ratio) == pytest.approx(12, abs=2)


def test_what_saves_most_for_its_noise_is_narrowed_first() -> None:
    space = Space(MLP(64, 10), Plan.uniform("dfx8"), ["dfx4", "dfx6"])
    count = len(space.variables)
    noise = {v.name: [0.4, 0.2, 0.0][-len(v.choices) :] for v in space.variables}
    noise["3/weight"] = [0.02, 0.01, 0.0]
    steps = order(space, noise, lambda levels: 1 + sum(levels), momentum=0.0)
    assert steps[0] == space.start
    changed = [next(i for i in range(count) if a[i] != b[i])
               for a, b in pairwise(steps)]  # fmt: skip
    place = [v.name for v in space.variables].index("3/weight")
    assert changed[:2] == [place, place]
    assert steps[-1] == (0,) * count


def test_stochastic_noise_counts_less_under_momentum() -> None:
    plan = Plan.uniform("dfx8", error="dfx8:stochastic")
    space = Space(MLP(64, 10), plan, ["dfx4"])
    noise = {v.name: [0.1, 0.0] for v in space.variables}

    def first(momentum: float) -> str:
        steps = order(space, noise, lambda levels: 1 + sum(levels), momentum)
        return next(v.role for v, a, b in zip(space.variables, *steps[:2], strict=True) if a != b)

    assert first(0.9) == "error"
    assert first(0.0) == "weight"


# Chains


def test_halving_finds_the_edge() -> None:
    chain = [(n,) for n in range(20, 0, -1)]
    for edge in range(22):
        known: dict[Levels, bool] = {}
        while (levels := next_of(chain, known.get)) is not None:
            assert levels not in known
            known[levels] = levels[0] >= edge
        assert len(known) <= 5
        good = [levels[0] for levels, passed in known.items() if passed]
        assert min(good, default=21) == max(1, min(edge, 21))


def test_a_thinned_chain_falls_evenly() -> None:
    chain = [(n,) for n in range(100, -1, -1)]
    kept = thinned(chain, lambda levels: 2.0 ** levels[0])
    assert len(kept) == MOST
    assert kept[-1] == (0,)
    steps = [a[0] - b[0] for a, b in pairwise(kept)]
    assert set(steps) <= {6, 7}
    assert thinned(chain, lambda levels: 1.0) == []


# The front and what follows from it


def test_the_front_and_the_cheapest() -> None:
    reference = trial(0, (3,), 10, 0.95)
    trials = [
        reference,
        trial(1, (2,), 8, 0.949),
        trial(2, (1,), 8, 0.940),
        trial(3, (0,), 2, 0.5),
        trial(4, (0,), 1, None, reason="stopped: x"),
        trial(5, (5,), 12, 0.951),
    ]
    assert [t.number for t in front(trials)] == [3, 1, 0, 5]
    assert [t.number for t in cheapest(trials, reference, 0.2)] == [1, 0]
    assert [t.number for t in cheapest(trials, reference, 1.0)] == [1, 2, 0]
    assert [t.number for t in cheapest(trials, reference, 0.05)] == [0]


@pytest.mark.parametrize(
    ("levels", "price", "why"),
    [
        ((5, 0), 10, "costs no less than p0"),
        ((1, 1), 5, "trained before"),
        ((0, 1), 4, "nowhere wider than trial 1, which is too narrow"),
        ((3, 3), 8, "nowhere narrower than trial 2, which is good enough"),
        ((0, 2), 4, "nowhere wider than trial 3, which is too narrow"),
        ((2, 1), 5, None),
    ],
)
def test_what_need_not_be_trained(levels: Levels, price: float, why: str | None) -> None:
    reference = trial(0, (4, 4), 10, 0.95)
    known = [
        reference,
        trial(1, (1, 1), 5, 0.90),
        trial(2, (3, 2), 7, 0.949),
        trial(3, (0, 3), 6, None, reason="stopped: its loss is not finite"),
        trial(4, (2, 2), 6, None, reason="skipped: dear", trained=False),
    ]
    assert why_skip(levels, price, known, reference, 0.2, samples=10_000) == why


def test_few_samples_condemn_nothing() -> None:
    reference = trial(0, (4,), 10, 0.95)
    known = [reference, trial(1, (2,), 5, 0.90)]
    assert why_skip((1,), 4, known, reference, 0.2, samples=100) is None


def test_trials_are_stopped_by_their_loss() -> None:
    reference = trial(0, (4,), 10, 0.95, curve=(2.0, 1.0, 0.5))
    other = trial(1, (2,), 5, 0.94, curve=(2.0, 1.1, 0.6))
    known = [reference, other]
    assert why_stop((9.0,), 6, known, reference) is None  # too early to tell
    assert why_stop((2.0, math.nan), 6, known, reference) == "its loss is not finite"
    assert why_stop((2.0, 3.1), 4, known, reference) == "its loss is 3.1 times the reference's"
    assert "trial 1, which costs no more" in str(why_stop((2.0, 1.7), 6, known, reference))
    assert why_stop((2.0, 1.7), 4, known, reference) is None  # cheaper than all: may be of use
    assert why_stop((2.0, 9.0), 10, [], None) is None  # the reference itself


def test_loss_is_watched_part_by_part() -> None:
    class Fit:
        estimated_stepping_batches = 20
        global_step = 0

    seen: list[int] = []
    watch = LossWatch(lambda curve: seen.append(len(curve)) or ("why" if len(curve) == 3 else None))
    fit = Fit()

    def train() -> None:
        for step in range(1, 21):
            fit.global_step = step
            loss = {"loss": torch.tensor(float(step))}
            watch.on_train_batch_end(fit, None, loss, None, 0)  # type: ignore[arg-type]

    with pytest.raises(TrialStoppedError, match="why") as stopped:
        train()
    assert fit.global_step == 8  # 3 of 8 parts of 20 steps: 7.5
    assert seen == [1, 2, 3]
    assert stopped.value.curve == (2.0, 4.5, 7.0)  # steps 1 to 3, 4 and 5, 6 to 8


# Held-out data


def test_a_sixth_of_the_training_set_is_held_out() -> None:
    data = load_data("digits")
    held = hold_out(data)
    assert len(held.train) + len(held.test) == len(data.train)
    assert len(held.test) == len(data.train) // 6
    assert np.array_equal(held.test.labels[:2], data.train.labels[[5, 11]])


def test_text_keeps_its_last_sixth(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh" * 100)
    data = load_data(f"text:{tmp_path / 'a.txt'}", context=8)
    held = hold_out(data)
    assert len(held.test) == len(data.train) // 6
    whole = np.concatenate([held.train.labels, held.test.labels])
    assert np.array_equal(whole, data.train.labels)


# From end to end


def test_a_search_goes_on_and_ends_with_a_plan(tmp_path: Path) -> None:
    data, given = load_data("digits"), settings()
    ended: list[int] = []
    found = search_plans(given, data, tmp_path, on_trial=lambda t, done: ended.append(t.number))
    assert ended == [0, 1, 2]
    assert found.trials[0] == found.reference
    assert found.reference.origin == "reference"
    chosen = Plan.load(tmp_path / "plan.toml")
    assert chosen.name == found.chosen.name
    assert all(t.price < found.reference.price for t in found.trials[1:])
    assert len(list((tmp_path / "plans").iterdir())) == len(found.front)
    again = search_plans(replace(given, trials=4), data, tmp_path)
    assert again.trials[:3] == found.trials
    assert sum(t.trained for t in again.trials) == 4


def test_the_sampler_and_the_final_seeds(tmp_path: Path) -> None:
    data = load_data("digits")
    given = settings(trials=5, seeds=1, within=100.0, formats=("dfx4", "dfx7"), objective="memory")
    found = search_plans(given, data, tmp_path)
    assert {t.origin for t in found.trials} <= {"reference", "uniform", "sensitivity", "nsga2"}
    assert found.chosen.price == min(t.price for t in found.trials if t.accuracy is not None)
    assert {r.label for r in found.final} == {"dfx8", found.chosen.name}
    assert {r.config["seed"] for r in found.final} == {1}
    assert found.gap is not None
    assert found.as_dict()["saving"] > 0


def test_what_was_proposed_is_crossed_by_the_sampler(tmp_path: Path) -> None:
    given = settings(formats=("dfx2", "dfx3", "dfx4", "dfx5", "dfx6", "dfx7"))
    space = Space(MLP(1024, 10), DFX8, given.formats)
    file = tmp_path / "study.journal"
    study = Study(given, space, file, "s")
    pair = [tuple(level - back for level in space.start) for back in (0, 1)]
    plan = DFX8.to_toml()
    for price, levels in enumerate([*pair, *pair]):
        study.propose(levels, "sensitivity")
        asked, levels, origin = study.ask()
        # Dearer and more accurate: all four are of the front.
        done = Trial(asked.number, levels, "p", plan, 1.0 + price, 0.9 + price / 100, origin)
        study.tell(asked, done)
    kept = file.read_bytes()

    def children() -> list[Levels]:
        file.write_bytes(kept)
        again = Study(given, space, file, "s")  # another process goes on
        asked = [again.ask() for _ in range(20)]
        assert {origin for _, _, origin in asked} == {"nsga2"}
        return [levels for _, levels, _ in asked]

    found = children()
    assert found == children()
    values = [pair for levels in found for pair in zip(levels, space.start, strict=True)]
    inherited = sum(start - level in (0, 1) for level, start in values)
    # One value of eight is drawn anew; of six or seven choices drawn at random a third is theirs.
    assert inherited / len(values) > 0.75


def test_neighbours_of_the_best_make_up_for_chains_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(trials=20, formats=("dfx2", "dfx3", "dfx4", "dfx5", "dfx6", "dfx7"))

    def train(search: _Search, record: Trial, plan: Plan) -> Trial:
        start, widest = search.space.start, search.chains["sensitivity"][0]
        first = next(i for i, level in enumerate(widest) if level < start[i])
        if record.levels[first] < start[first]:  # the sensitivities were wrong about this one
            return replace(record, reason="stopped: its loss is not finite")
        return replace(record, accuracy=0.9)

    monkeypatch.setattr(_Search, "_train", train)
    found = search_plans(given, load_data("digits"), tmp_path)
    origins = [t.origin for t in found.trials if t.accuracy is not None]
    assert origins[:4] == ["reference", "neighbour", "neighbour", "neighbour"]
    assert len(origins) > POPULATION  # the sampler, which crosses them, finds more
    assert set(origins[4:]) == {"nsga2"}
    assert found.chosen.origin == "nsga2"
    prices = [t.price for t in found.trials if t.origin == "neighbour" and t.accuracy is not None]
    assert prices == sorted(prices, reverse=True)  # each a neighbour of the one before


def test_what_a_killed_process_was_at_is_trained_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings()
    space = Space(MLP(1024, 10), DFX8, given.formats)
    file = tmp_path / "study.journal"
    study = Study(given, space, file, "s")
    study.propose(space.start, "reference")
    _, levels, origin = study.ask()
    assert (levels, origin) == (space.start, "reference")
    monkeypatch.setattr("limprec.lab.search.study._is_alive", lambda pid: True)
    assert Study(given, space, file, "s").in_work() == {space.start}  # another's: left alone
    monkeypatch.setattr("limprec.lab.search.study._is_alive", lambda pid: False)
    with file.open("ab") as journal:
        journal.write(b'{"op_code":4,"wor')  # what a kill leaves
    again = Study(given, space, file, "s")
    asked, levels, origin = again.ask()
    assert (levels, origin) == (space.start, "reference")
    plan = DFX8.to_toml()
    again.tell(asked, Trial(asked.number, levels, "dfx8", plan, 1.0, 0.9, origin, (1.0,)))
    kept = Study(given, space, file, "s").trials()
    assert [t.accuracy for t in kept] == [0.9]


@pytest.mark.parametrize("storage", ["{tmp}/study.journal", "sqlite:///{tmp}/study.db"])
def test_a_study_of_something_else_is_refused(tmp_path: Path, storage: str) -> None:
    place = storage.format(tmp=tmp_path)
    given = settings()
    space = Space(MLP(1024, 10), DFX8, given.formats)
    Study(given, space, place, "s").noise = {"1/weight": [0.5, 0.25, 0.0]}
    assert Study(replace(given, trials=9, within=1.0), space, place, "s").noise is not None
    for change, message in (
        ({"run": replace(given.run, model="lenet5")}, "has model 'mlp', not 'lenet5'"),
        ({"run": replace(given.run, seed=3)}, "has seed 0, not 3"),
        ({"run": replace(given.run, plan=Plan.uniform("dfx6"))}, 'has plan "dfx8"'),
        ({"objective": "memory"}, "has objective 'energy', not 'memory'"),
        ({"formats": ("dfx4",)}, "has formats"),
    ):
        with pytest.raises(LabError, match="choose another --out or --study") as error:
            Study(replace(given, **change), space, place, "s")  # type: ignore[arg-type]
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "time"}, "unknown objective 'time'; use energy or memory"),
        ({"sampler": "grid"}, "unknown sampler 'grid'; use nsga2 or tpe"),
        ({"formats": ()}, "no formats; name some"),
        ({"trials": 0}, "trials is 0; give 1 or more"),
        ({"seeds": -1}, "seeds is -1; give 0 or more"),
        ({"final_epochs": 0}, "final_epochs is 0; give 1 or more"),
        ({"within": math.nan}, "within is nan; give 0 or more points"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(LabError) as error:
        settings(**change)
    assert message in str(error.value)


def test_two_machines_share_a_study(tmp_path: Path) -> None:
    data, given = load_data("digits"), settings(trials=4)
    space = Space(MLP(1024, 10), DFX8, given.formats)
    file = tmp_path / "study.journal"
    other = Study(given, space, file, "s")
    other.propose(space.start, "reference")
    asked, levels, origin = other.ask()
    begun: list[Levels] = []

    def ended(trial: Trial, done: int) -> None:
        begun.append(trial.levels)
        if len(begun) == 1:  # the other machine is done with the reference
            plan = DFX8.to_toml()
            other.tell(asked, Trial(asked.number, levels, "dfx8", plan, 1.0, 0.9, origin))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limprec.lab.search.study._is_alive", lambda pid: True)
        found = search_plans(given, data, tmp_path / "b", storage=file, study="s", on_trial=ended)
    assert space.start not in begun
    assert len(begun) == len(set(begun)) == 3
    assert found.reference.accuracy == 0.9
    assert found.trials[1].origin == "uniform"


def test_a_reference_that_another_machine_never_finished(tmp_path: Path) -> None:
    data, given = load_data("digits"), settings(trials=2)
    space = Space(MLP(1024, 10), DFX8, given.formats)
    file = tmp_path / "study.journal"
    other = Study(given, space, file, "s")
    other.propose(space.start, "reference")
    other.ask()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limprec.lab.search.study._is_alive", lambda pid: True)
        found = search_plans(given, data, tmp_path / "b", storage=file, study="s")
    assert [t.origin for t in found.trials] == ["uniform", "sensitivity", "reference"]
    assert found.reference.accuracy is not None


def test_a_mean_near_the_tolerance_holds_if_its_error_is_small() -> None:
    assert Gap((-0.3, -0.1, -0.2)).error == pytest.approx(0.1 / math.sqrt(3))
    assert not Gap((-0.3, -0.1, -0.18)).holds(0.2)  # mean -0.193
    assert Gap((-0.19, -0.18, -0.2)).holds(0.2)
    assert Gap((-0.2,)).holds(0.2)  # one seed knows no error
    assert not Gap((-0.21,)).holds(0.2)


def test_a_candidate_that_the_final_seeds_refute_leads_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, given = load_data("digits"), settings(trials=3, seeds=1, within=100.0)
    refused: list[str] = []

    def judge(results: Sequence[RunResult], reference: str, chosen: str) -> Gap:
        refused[:] = refused or [chosen]
        return Gap((-101.0 if chosen in refused else 0.0,))

    monkeypatch.setattr("limprec.lab.search.loop.gap", judge)
    found = search_plans(given, data, tmp_path)
    labels = list(dict.fromkeys(r.label for r in found.final))
    assert len(labels) == 3  # the reference, the refuted one, the chosen one
    assert labels[0] == "dfx8"
    assert labels[2] == found.chosen.name
    refuted = next(t for t in found.trials if t.name == labels[1])
    assert refuted.price < found.chosen.price <= found.reference.price
    again = search_plans(given, data, tmp_path)
    assert (again.chosen, again.trials, again.final) == (found.chosen, found.trials, found.final)
