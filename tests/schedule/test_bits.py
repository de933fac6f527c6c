"""Forward bits that move while a model trains."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import testing

import limprec as lp
from limprec.errors import ConversionError, FormatError, LimprecError
from limprec.kernels import round_to
from limprec.nn import set_bits
from limprec.plan import Plan
from limprec.schedule import BitScheduler, Cyclic


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).to(dtype)


def inputs() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


def converted(plan: str = "dfx8", model: nn.Module | None = None, **options: Any) -> nn.Module:
    return lp.convert(model or network(), Plan.uniform(plan), **options)


def step(model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    y = model(inputs())
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize("compute", ["exact", "real"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_like_a_model_converted_in_so_many_bits(compute: str, bits: int) -> None:
    static = Plan.uniform("dfx8", weight=f"dfx{bits}", activation=f"dfx{bits}")
    expected = step(lp.convert(network(), static, compute=compute))
    moved = converted(compute=compute)
    assert set_bits(moved, bits) == 2
    assert same(step(moved), expected)
    set_bits(moved, None)
    assert same(step(moved), step(converted(compute=compute)))


def test_a_layer_shows_its_bits() -> None:
    model = converted()
    set_bits(model, 3)
    assert "weight=dfx3, activation=dfx3, error=dfx8" in repr(model[0])  # type: ignore[index]


def test_what_the_plan_leaves_stays() -> None:
    model = lp.convert(network(), Plan.load("cpt"))
    assert set_bits(model, 3) == 1
    assert "weight=int3mc0, activation=int3m, error=int8m:stochastic" in repr(model[0])
    assert "weight=fp32, activation=fp32" in repr(model[2])


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.matrix = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) @ self.matrix


def test_functions_that_are_met_later_follow() -> None:
    model = converted(model=_Functional())
    assert set_bits(model, 3) == 1
    precision = lp.parse_precision("dfx3")
    x, w = (round_to(t.detach(), precision, None) for t in (model.first(inputs()), model.matrix))
    assert torch.equal(model(inputs()), x @ w)
    assert set_bits(model, 4) == 2


def test_parameters_stay_as_they_are_stored() -> None:
    model = converted()
    set_bits(model, 3)
    optimizer = lp.optim.SGD(model.parameters(), lr=0.1, format="plan")
    eight = lp.parse_precision("dfx8")
    weights = [p.detach() for p in model.parameters() if p.dim() == 2]
    assert all(torch.equal(w, round_to(w, eight, None)) for w in weights)
    assert optimizer.param_groups


def test_the_scheduler_walks_through_the_bits() -> None:
    model, cyclic = converted(), Cyclic(3, 8, cycles=2)
    scheduler, seen = BitScheduler(model, cyclic, steps=40), []
    for _ in range(40):
        seen.append(scheduler.bits)
        assert f"weight=dfx{scheduler.bits}," in repr(model)
        scheduler.step()
    assert seen == [cyclic.bits(t, 40) for t in range(40)]
    assert scheduler.bits == seen[-1] == 8
    scheduler.at(0)
    with scheduler.widest():
        assert "weight=dfx8" in repr(model)
    assert "weight=dfx3" in repr(model)
    other = BitScheduler(converted(), cyclic, steps=40)
    scheduler.at(7)
    other.load_state_dict(scheduler.state_dict())
    assert same(step(other.model), step(model))


def test_a_copy_goes_its_own_way() -> None:
    model = converted()
    set_bits(model, 4)
    twin = copy.deepcopy(model)
    assert same(step(twin), step(model))
    set_bits(twin, 2)
    assert not same(step(twin), step(model))


def test_restored_all_is_as_before() -> None:
    model = converted()
    set_bits(model, 2)
    assert torch.equal(lp.restore(model)(inputs()), network()(inputs()))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_once_for_each_number_of_bits() -> None:
    torch._dynamo.reset()
    counter = testing.CompileCounterWithBackend("aot_eager")
    model, eager = converted(), converted()
    compiled = torch.compile(model, backend=counter)
    for bits in (3, 5, 3, 5, 8):
        set_bits(model, bits)
        set_bits(eager, bits)
        y = compiled(inputs())
        assert torch.equal(y, eager(inputs()))
    assert counter.frame_count == 3


def test_bad_input() -> None:
    with pytest.raises(ConversionError, match=r"lp\.convert it first"):
        set_bits(network(), 4)
    with pytest.raises(ConversionError, match="the model is not converted"):
        BitScheduler(network(), Cyclic(3, 8), 100)
    floating = converted("e4m3")
    floating(inputs())
    with pytest.raises(ConversionError, match="no layer has forward bits to change"):
        set_bits(floating, 4)
    with pytest.raises(ConversionError, match="has more than 8 bits"):
        set_bits(converted(compute="real"), 9)
    with pytest.raises(FormatError, match="layer '0'"):
        set_bits(converted(model=network(torch.bfloat16)), 12)
    with pytest.raises(LimprecError, match="32 cycles in 10 steps"):
        BitScheduler(converted(), Cyclic(3, 8), 10)
    with pytest.raises(LimprecError, match="count from 0"):
        BitScheduler(converted(), Cyclic(3, 8), 100).at(-1)
    model = converted()
    with pytest.raises(FormatError):
        set_bits(model, 1)
    assert same(step(model), step(converted()))


def test_it_trains() -> None:
    x = inputs()
    y = torch.randint(5, (7,), generator=torch.Generator().manual_seed(3))
    model = lp.convert(network(), Plan.load("cpt"))
    optimizer = lp.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = BitScheduler(model, Cyclic(3, 8, cycles=4), steps=120)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    with scheduler.widest():
        assert F.cross_entropy(model(x), y) < 0.1
