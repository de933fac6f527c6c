"""Checkpoints of torch.optim and in full precision; what does not fit changes nothing."""

import copy
from typing import Any

import pytest
import torch
from problems import fit, problem
from torch import nn

import limprec as lp
from limprec.errors import OptimizerError


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adafactor"])
def test_a_checkpoint_of_torch_goes_on(name: str) -> None:
    """In float32 with nearest the run goes on as torch's own would, within rounding."""
    options: dict[str, Any] = {"lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {})}
    model, loss = problem()
    theirs = getattr(torch.optim, name)(model.parameters(), **options)
    fit(loss, theirs, 4)
    ours, our_loss = problem(seed=7)
    ours.load_state_dict(model.state_dict())
    optimizer = getattr(lp.optim, name)(ours.parameters(), **options, writeback="nearest")
    optimizer.load_state_dict(theirs.state_dict())
    fit(loss, theirs, 4)
    fit(our_loss, optimizer, 4)
    for p, q in zip(ours.parameters(), model.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=2e-6)


def test_states_of_torch_are_rounded_into_few_bits() -> None:
    model, loss = problem(torch.bfloat16)
    theirs = torch.optim.AdamW(model.parameters(), 0.01)
    fit(loss, theirs, 4)
    optimizer = lp.optim.AdamW(model.parameters(), 0.01, state_format="mxfp8")
    optimizer.load_state_dict(theirs.state_dict())
    for p in model.parameters():
        mine, other = optimizer.state[p], theirs.state[p]
        assert mine["exp_avg"].dtype == torch.float8_e4m3fn
        assert mine["exp_avg_sq_scale"].dtype == torch.uint8
        scale = 2.0 ** (mine["exp_avg_scale"][0].float() - 127)
        first = mine["exp_avg"].flatten()[0].float() * scale
        assert float(first) == pytest.approx(float(other["exp_avg"].flatten()[0]), rel=0.07)
        assert "compensation" in mine
    fit(loss, optimizer, 2)


def test_what_does_not_fit_changes_nothing() -> None:
    model, loss = problem()
    optimizer = lp.optim.SGD(model.parameters(), 0.1, 0.9)
    fit(loss, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    adam = lp.optim.AdamW(model.parameters())
    fit(loss, adam, 1)
    other = lp.optim.SGD(nn.Linear(6, 9).parameters(), 0.1, 0.9)
    wrong_shape = copy.deepcopy(before)
    wrong_shape["state"][3]["momentum_buffer"] = torch.zeros(4)
    for saved, message in (
        (adam.state_dict(), "a state 'exp_avg' in the checkpoint; load a checkpoint of SGD"),
        (other.state_dict(), r"groups of \[2\] parameters in the checkpoint, of \[4\] here"),
        (wrong_shape, r"momentum_buffer of shape \(4,\) for one of \(3,\)"),
    ):
        with pytest.raises(OptimizerError, match=message):
            optimizer.load_state_dict(saved)
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for number, state in before["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, after["state"][number][name])


@pytest.mark.parametrize("writeback", ["kahan", "lazy", "master", "split"])
def test_full_precision_goes_in_and_comes_out(writeback: str) -> None:
    full = problem()[0].state_dict()
    model, loss = problem(torch.bfloat16, seed=5)
    optimizer = lp.optim.AdamW(model.parameters(), writeback=writeback, compensation_format="ulp16")
    optimizer.load_full_precision_state_dict(full, model)
    back = optimizer.full_precision_state_dict(model)
    for name, value in full.items():
        assert back[name].dtype == torch.float32
        assert torch.equal(model.state_dict()[name], value.bfloat16())
        # 16 bits beside bfloat16's 8: all of float32, or all but the last bit
        assert torch.allclose(back[name], value, rtol=2.0**-23, atol=0)
    fit(loss, optimizer, 1)


def test_names_come_from_named_parameters_too() -> None:
    model, _ = problem(torch.bfloat16)
    named = lp.optim.SGD(model.named_parameters(), 0.1)
    assert set(named.full_precision_state_dict()) == set(dict(model.named_parameters()))
    with pytest.raises(OptimizerError, match="the parameters have no names; pass the model"):
        lp.optim.SGD(model.parameters(), 0.1).full_precision_state_dict()


def test_a_full_precision_checkpoint_must_fit() -> None:
    model, _ = problem(torch.bfloat16)
    optimizer = lp.optim.SGD(model.parameters(), 0.1)
    before = [p.detach().clone() for p in model.parameters()]
    state = problem(seed=3)[0].state_dict()
    with pytest.raises(
        OptimizerError, match=r"2\.bias is missing; give a checkpoint of this model"
    ):
        optimizer.load_full_precision_state_dict(
            {n: t for n, t in state.items() if n != "2.bias"}, model
        )
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_refresh_takes_parameters_as_they_are() -> None:
    """A full-precision copy would else overwrite weights that were loaded after it was made."""
    model, loss = problem(torch.bfloat16)
    optimizer = lp.optim.SGD(model.parameters(), 0.0, writeback="master")
    model.load_state_dict(problem(torch.bfloat16, seed=8)[0].state_dict())
    loaded = [p.detach().clone() for p in model.parameters()]
    optimizer.refresh()
    fit(loss, optimizer, 1)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), loaded, strict=True))


def test_an_offloaded_copy_gives_the_same_bits_and_stays_in_main_memory() -> None:
    models = []
    for offload in (False, True):
        model, loss = problem(torch.bfloat16)
        optimizer = lp.optim.SGD(model.parameters(), 0.1, writeback="kahan", offload=offload)
        fit(loss, optimizer, 3)
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(saved)
        assert all(s["compensation"].device.type == "cpu" for s in optimizer.state.values())
        models.append(model)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
