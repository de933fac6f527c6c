"""Watching changes no bit, looks at the steps it says, and leaves nothing behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from trainings import Network, clusters, in_dtype, steps

import limprec as lp
from limprec.diagnosis import Diagnosis, Report, diagnose
from limprec.errors import DiagnosisError, FormatError


def converted() -> tuple[nn.Module, torch.optim.Optimizer]:
    plan = lp.Plan.uniform("dfx8:stochastic", bias="bf16")
    model = lp.convert(Network(10, norm=True), plan, seed=3)
    return model, lp.optim.AdamW(model.parameters(), 1e-2, format="plan")


@pytest.mark.parametrize("ours", [True, False])
def test_not_a_bit_changes(ours: bool) -> None:
    x, y = clusters(10)
    ends = []
    for watch in (False, True):
        model, optimizer = converted()
        if not ours:
            optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        if watch:
            with diagnose(model, optimizer, every=2, shadow=True, accumulator="e5m10"):
                steps(model, optimizer, x, y, 5)
        else:
            steps(model, optimizer, x, y, 5)
        ends.append(copy.deepcopy(model.state_dict()))
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


def test_nothing_is_left_behind() -> None:
    x, y = clusters(10)
    model, optimizer = converted()
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with diagnose(model, optimizer, every=1, shadow=True) as watching:
        steps(model, optimizer, x, y, 2)
        model(x[:4])  # a step that is never finished
    watching.close()
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert after == before
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert optimizer._observers == []  # type: ignore[attr-defined]
    assert all(p._backward_hooks in (None, {}) for p in model.parameters())
    assert all(m._limprec.model.tell is None for m in model.modules() if hasattr(m, "_limprec"))
    steps(model, optimizer, x, y, 2)
    assert watching.report().steps == 2


@pytest.mark.parametrize(("every", "sampled"), [(1, 7), (3, 3), (50, 1)])
def test_every_so_many_steps_one_is_looked_at(every: int, sampled: int) -> None:
    report = in_dtype(lambda p: torch.optim.SGD(p, 0.1), every=every, count=7)
    assert (report.steps, report.sampled, report.every) == (7, sampled, every)


def test_evaluation_and_accumulated_gradients_are_no_steps_of_their_own() -> None:
    x, y = clusters(10)
    model, optimizer = converted()
    with diagnose(model, optimizer, every=1) as watching:
        for _ in range(2):
            nn.functional.cross_entropy(model(x[:8]), y[:8]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            model(x[:8])
    report = watching.report()
    assert (report.steps, report.sampled) == (1, 1)
    errors = {row.layer: row for row in report.rows if row.role == "error"}
    assert errors["head"]["elements"] == 80


def test_gradients_released_in_the_backward_pass_are_seen() -> None:
    x, y = clusters(10)
    model = Network(10).bfloat16()
    optimizer = lp.optim.SGD(model.parameters(), 0.01, writeback="nearest")
    stop = optimizer.release_gradients()
    with diagnose(model, optimizer, every=2) as watching:
        for _ in range(4):
            nn.functional.cross_entropy(model(x[:64].bfloat16()).float(), y[:64]).backward()
            optimizer.step()
    stop()
    updates = [row for row in watching.report().rows if row.role == "update"]
    assert len(updates) == 6
    assert all(row["updates_lost"] > 0.1 for row in updates)


def test_a_wrapped_optimizer_is_ours() -> None:
    report = in_dtype(
        lambda p: lp.optim.WriteBackWrapper(p, lambda q: torch.optim.NAdam(q, 1e-3)), count=6
    )
    assert report.optimizer == "WriteBackWrapper"
    assert any("movement_lost" in row.measures for row in report.rows)


def test_another_optimizer_is_diagnosed_as_far_as_it_goes() -> None:
    report = in_dtype(lambda p: torch.optim.SGD(p, 1e-4), count=6)
    row = next(row for row in report.rows if row.layer == "first.weight" and row.role == "update")
    assert row["updates_lost"] > 0.9
    assert "movement_lost" not in row.measures
    assert any("how far its updates were to go is not known" in note for note in report.notes)


def test_the_whole_training_counts_for_what_stands_still() -> None:
    p = nn.Parameter(torch.ones(4).bfloat16())
    model = nn.Module()
    model.p = p
    optimizer = lp.optim.SGD(model.parameters(), 1.0, writeback="kahan")
    with diagnose(model, optimizer, every=100) as watching:
        for _ in range(4):  # the first collects; the parameter moves in a step not looked at
            p.grad = torch.full_like(p, 2.0**-10)
            optimizer.step()
    (row,) = watching.report().rows
    assert row["still"] == 0
    assert row["movement_lost"] == 0


def test_without_a_step_there_is_no_report() -> None:
    model, optimizer = converted()
    with diagnose(model, optimizer) as watching, pytest.raises(DiagnosisError) as caught:
        watching.table()
    assert str(caught.value) == (
        "diagnose: no step was taken yet; call model(...) in training mode and optimizer.step()"
        " while it watches"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; give an integer of 1 or more"),
        ({"every": 2.5}, "every is 2.5"),
        ({"chunk": 8}, "chunk=8 without an accumulator; name one, e.g. accumulator='e5m10'"),
        ({"kahan": True}, "kahan without an accumulator"),
        ({"scaler": 1024.0}, "float is no scaler; give a torch.amp.GradScaler"),
        ({"model": "mlp"}, "str is no model; give a torch.nn.Module"),
        ({"optimizer": None}, "NoneType is no optimizer; give one of lp.optim or torch.optim"),
        ({"model": nn.Linear(2, 2)}, "the optimizer holds no parameter of the model"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    model, optimizer = converted()
    with pytest.raises(DiagnosisError) as caught:
        diagnose(**{"model": model, "optimizer": optimizer, **options})
    assert message in str(caught.value)
    assert not model._forward_pre_hooks or len(model._forward_pre_hooks) == 1  # conversion's own


def test_an_unknown_accumulator_is_refused() -> None:
    model, optimizer = converted()
    with pytest.raises(FormatError, match="q8"):
        diagnose(model, optimizer, accumulator="q8")


def test_the_diagnosis_speaks_for_its_report(tmp_path: Any) -> None:
    x, y = clusters(10)
    model, optimizer = converted()
    with diagnose(model, optimizer, every=1) as watching:
        steps(model, optimizer, x, y, 2)
    assert isinstance(watching, Diagnosis)
    assert watching.table(limit=3) == watching.report().table(3)
    assert "more rows that lose less" in watching.table(limit=3)
    watching.save(tmp_path / "d.json")
    assert Report.load(tmp_path / "d.json") == watching.report()
    assert watching.to_json() == (tmp_path / "d.json").read_text()
    assert watching.as_dict()["steps"] == 2


def test_sparse_gradients_and_late_parameters_are_no_trouble() -> None:
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Linear(4, 2))
    late = nn.Parameter(torch.ones(1))
    sparse = torch.optim.SGD(model.parameters(), 0.1)
    with diagnose(model, sparse, every=1, shadow=True) as watching:
        model(torch.tensor([1, 2])).square().sum().backward()
        sparse.step()
    cosine = {row.layer: row["cosine"] for row in watching.report().rows if row["cosine"]}
    assert cosine["0.weight"] == pytest.approx(1)
    dense = nn.Linear(4, 2)
    optimizer = lp.optim.SGD(dense.parameters(), 0.1)
    with diagnose(dense, optimizer, every=1) as watching:
        optimizer.add_param_group({"params": [late]})
        (dense(torch.ones(1, 4)) * late).sum().backward()
        optimizer.step()
    assert watching.report().steps == 1


def test_a_model_that_is_one_layer_and_one_that_works_in_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    for one in (nn.Linear(4, 2), model, lp.convert(nn.Linear(4, 2), lp.Plan.uniform("dfx8"))):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        with diagnose(one, optimizer, every=1, shadow=True, accumulator="e5m10") as watching:
            one(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
        roles = {row.role for row in watching.report().rows}
        assert {"update", "gradient", "error", "activation", "accumulator: gradient"} <= roles


def test_the_accumulators_of_the_plan_are_judged() -> None:
    torch.manual_seed(0)
    rule = lp.plan.Rule("2", None, {"accumulator": "e5m2 chunk=4"})
    plan = lp.Plan(default={"accumulator": "fp16"}, layers=(rule,))
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    lp.convert(model, plan)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = []
    for accumulator in (None, "e8m20"):
        with diagnose(model, optimizer, every=1, accumulator=accumulator) as watching:
            model(torch.randn(8, 16)).square().sum().backward()
            optimizer.step()
        report = watching.report()
        found.append({r.layer: r for r in report.rows if r.role == "accumulator: forward"})
        assert not any("add as PyTorch does" in note for note in report.notes)
    planned, given = found
    assert {n: row.format for n, row in planned.items()} == {"0": "fp16", "2": "e5m2 chunk=4"}
    assert {row.format for row in given.values()} == {"e8m20"}
    assert planned["0"]["sum_error"] < 1e-2 < planned["2"]["sum_error"]
