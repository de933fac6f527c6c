"""Averages and sums in few bits, against float64."""

import pytest
import torch
from torch import nn

import limprec as lp
from limprec.errors import OptimizerError


def drifting(average: lp.optim.WeightAverage, p: torch.Tensor, steps: int) -> torch.Tensor:
    """Update an average while the weight drifts; return the exact average."""
    exact = p.detach().double().clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            p.add_(0.01 * torch.randn(p.shape, generator=generator).to(p.dtype))
        exact += (1 - average.decay) * (p.detach().double() - exact)
        average.update()
    return exact


def test_an_average_in_bfloat16_follows_the_exact_one_and_nearest_stands_still() -> None:
    errors = {}
    for writeback in ("nearest", "kahan"):
        torch.manual_seed(1)
        p = nn.Parameter((1 + torch.rand(256)).bfloat16())
        start = p.detach().double().clone()
        average = lp.optim.WeightAverage([p], 0.999, writeback=writeback)
        exact = drifting(average, p, 400)
        assert average.tensors[0].dtype == torch.bfloat16
        errors[writeback] = float((average.exact()[0].double() - exact).abs().mean())
        moved = float((average.exact()[0].double() - start).abs().mean())
        assert moved < 1e-3 or writeback == "kahan"
    assert errors["kahan"] < errors["nearest"] / 20


def test_an_average_of_an_optimizer_sees_its_compensation() -> None:
    p = nn.Parameter(torch.ones(4).bfloat16())
    optimizer = lp.optim.SGD([p], lr=1.0, writeback="kahan")
    average = lp.optim.WeightAverage([p], 0.5, optimizer=optimizer)
    p.grad = torch.full((4,), -(2.0**-10)).bfloat16()  # under half an ulp: p stays, c moves
    optimizer.step()
    average.update()
    assert torch.equal(average.exact()[0], torch.full((4,), 1 + 2.0**-11))


def test_applied_gives_the_weights_back() -> None:
    model = nn.Linear(3, 2)
    average = lp.optim.WeightAverage(model.parameters(), 0.9)
    own = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    moved = [p.detach().clone() for p in model.parameters()]
    with average.applied():
        assert all(torch.equal(p, o) for p, o in zip(model.parameters(), own, strict=True))
    assert all(torch.equal(p, m) for p, m in zip(model.parameters(), moved, strict=True))


def test_an_average_goes_on_from_its_state_bit_for_bit() -> None:
    def make() -> tuple[nn.Parameter, lp.optim.WeightAverage]:
        p = nn.Parameter(torch.linspace(0, 1, 32).bfloat16())
        options = {"compensation_rounding": "stochastic", "seed": 3}
        return p, lp.optim.WeightAverage([p], 0.99, **options)  # type: ignore[arg-type]

    p, straight = make()
    drifting(straight, p, 20)
    state = straight.state_dict()
    q, resumed = make()
    resumed.load_state_dict(state)
    with torch.no_grad():
        q.copy_(p)
    drifting(straight, p, 20)
    drifting(resumed, q, 20)
    assert torch.equal(straight.tensors[0], resumed.tensors[0])
    with pytest.raises(OptimizerError, match="a state of other tensors"):
        lp.optim.WeightAverage([nn.Parameter(torch.ones(3))], 0.9).load_state_dict(state)


def test_bad_decay() -> None:
    with pytest.raises(OptimizerError, match=r"decay is 1\.0; give 0 or more, less than 1"):
        lp.optim.WeightAverage([nn.Parameter(torch.ones(3))], 1.0)


@pytest.mark.parametrize("options", [{}, {"writeback": "stochastic"}, {"writeback": "master"}])
def test_sums_of_many_micro_batches_keep_the_small_gradients(options: dict[str, str]) -> None:
    p = nn.Parameter(torch.zeros(512).bfloat16())
    accumulator = lp.optim.GradientAccumulator([p], **options)  # type: ignore[arg-type]
    plain = torch.zeros(512).bfloat16()
    for _ in range(2048):
        p.grad = torch.ones(512).bfloat16()
        plain += p.grad
        accumulator.add(2.0**-11)
        assert p.grad is None
    accumulator.finish()
    assert p.grad is not None
    assert p.grad.dtype == torch.bfloat16
    assert float(p.grad.float().mean()) == pytest.approx(1.0, rel=0.01)
    assert float(plain.float().mean()) == 256  # and the plain sum stands still


def test_an_accumulator_starts_again_and_leaves_alone_what_has_no_gradient() -> None:
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    accumulator = lp.optim.GradientAccumulator([used, unused])
    for expected in (2.0, 3.0):
        used.grad = torch.full((2,), expected)
        accumulator.add()
        accumulator.finish()
        assert used.grad.tolist() == [expected] * 2
        assert unused.grad is None
        used.grad = None
    used.grad = torch.ones(2)
    with pytest.raises(OptimizerError, match="a gradient that was not added; call add"):
        accumulator.finish()


def test_an_accumulator_goes_on_from_its_state() -> None:
    p = nn.Parameter(torch.zeros(3).bfloat16())
    first = lp.optim.GradientAccumulator([p])
    p.grad = torch.tensor([1.0, 2.0, 3.0]).bfloat16()
    first.add()
    second = lp.optim.GradientAccumulator([p])
    second.load_state_dict(first.state_dict())
    second.finish()
    assert p.grad is not None
    assert p.grad.tolist() == [1.0, 2.0, 3.0]
