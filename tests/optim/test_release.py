"""Gradient release: the bits of plain stepping, and a clear word where it cannot work."""

import gc
import weakref

import pytest
import torch
from problems import fit, problem
from torch import nn

import limprec as lp
from limprec.errors import OptimizerError


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor"])
def test_release_gives_the_bits_of_plain_stepping(name: str) -> None:
    models = []
    for released in (False, True):
        model, loss = problem(torch.bfloat16)
        make = getattr(lp.optim, name)
        optimizer = make(model.parameters(), 0.01, compensation_rounding="stochastic", seed=2)
        if released:
            optimizer.release_gradients()
        fit(loss, optimizer, 6)
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_are_gone_after_backward_and_come_back_when_it_ends() -> None:
    model, loss = problem()
    optimizer = lp.optim.SGD(model.parameters(), 0.1)
    stop = optimizer.release_gradients()
    loss().backward()
    assert all(
        p.grad is not None and p.grad.untyped_storage().nbytes() <= 4 for p in model.parameters()
    )
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())
    stop()
    loss().backward()
    assert all(type(p.grad) is torch.Tensor for p in model.parameters())


def test_what_needs_all_gradients_is_refused() -> None:
    model, loss = problem()
    optimizer = lp.optim.SGD(model.parameters(), 0.1)
    optimizer.release_gradients()
    loss().backward()
    with pytest.raises(OptimizerError, match="of a gradient that is gone; clip, scale or read"):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with pytest.raises(OptimizerError, match=r"a second backward pass before step\(\)"):
        loss().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss()).backward()
    with pytest.raises(OptimizerError, match="gradient release"):
        scaler.step(optimizer)
    with pytest.raises(OptimizerError, match="gradients are released already"):
        optimizer.release_gradients()


def test_no_gradient_outlives_its_step() -> None:
    """What is lined up for the next step must not hold the last one's gradients."""
    model, loss = problem(torch.bfloat16)
    optimizer = lp.optim.AdamW(model.parameters())
    for _ in range(2):
        loss().backward()
        kept = [weakref.ref(p.grad) for p in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
        gc.collect()
        assert [ref() for ref in kept] == [None] * len(kept)
