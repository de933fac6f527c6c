"""A write-back around optimizers of torch.optim."""

import pytest
import torch
from problems import fit, problem
from torch import nn

import limprec as lp
from limprec.errors import OptimizerError


def test_in_float32_it_is_the_inner_optimizer() -> None:
    (a, a_loss), (b, b_loss) = problem(), problem()
    wrapped = lp.optim.WriteBackWrapper(
        a.parameters(), lambda p: torch.optim.NAdam(p, lr=0.01), writeback="nearest"
    )
    fit(a_loss, wrapped, 10)
    fit(b_loss, torch.optim.NAdam(b.parameters(), lr=0.01), 10)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-6)


def test_in_bfloat16_kahan_follows_float32_and_nearest_does_not() -> None:
    reference, reference_loss = problem()
    fit(reference_loss, torch.optim.NAdam(reference.parameters(), lr=2e-5), 60)
    distance = {}
    for writeback in ("nearest", "kahan"):
        model, loss = problem(torch.bfloat16)
        optimizer = lp.optim.WriteBackWrapper(
            model.parameters(), lambda p: torch.optim.NAdam(p, lr=2e-5), writeback=writeback
        )
        optimizer.load_full_precision_state_dict(problem()[0].state_dict(), model)
        fit(loss, optimizer, 60)
        exact = optimizer.full_precision_state_dict(model)
        distance[writeback] = max(
            float((exact[n] - p).abs().max()) for n, p in reference.state_dict().items()
        )
    assert distance["kahan"] < distance["nearest"] / 3


def test_between_steps_the_copies_take_no_memory_and_states_are_saved() -> None:
    model, loss = problem(torch.bfloat16)

    def make(model: nn.Module) -> lp.optim.WriteBackWrapper:
        params = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "lr": 0.02},
            {"params": [p for p in model.parameters() if p.ndim == 1]},
        ]
        return lp.optim.WriteBackWrapper(params, lambda groups: torch.optim.Adamax(groups, lr=0.01))

    optimizer = make(model)
    assert [group["lr"] for group in optimizer.inner.param_groups] == [0.02, 0.01]
    fit(loss, optimizer, 3)
    for group in optimizer.inner.param_groups:
        assert all(p.untyped_storage().nbytes() <= 8 for p in group["params"])
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    other, other_loss = problem(torch.bfloat16, seed=4)
    resumed = make(other)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    fit(loss, optimizer, 3)
    fit(other_loss, resumed, 3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_bad_input() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(OptimizerError, match="state_format; leave it out"):
        lp.optim.WriteBackWrapper([p], torch.optim.NAdam, state_format="bf16")
    wrapped = lp.optim.WriteBackWrapper([p], torch.optim.NAdam)
    with pytest.raises(OptimizerError, match="a checkpoint of no wrapper"):
        wrapped.load_state_dict(lp.optim.SGD([p]).state_dict())
