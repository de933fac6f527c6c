"""The networks that people have convert unmodified: nothing lost, nothing unseen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from zoo import WHOLE, ZOO, Example, Network, call, loss, results

import limprec as lp
from limprec.errors import ConversionError, PlanError
from limprec.nn import conversion_report, plan_of, without_rounding
from limprec.plan import Group, Rule, kind_of

FP32 = lp.Plan.uniform("fp32")
SEEN = lp.Plan(layers=(Rule("*", None, {"weight": "fp32"}),))
"""Rounds nothing either, but a plan with a rule is looked up for each function."""
FINE = lp.Plan.uniform("e8m19", bias="e8m19")

_ONE = """
mm addmm bmm baddbmm mv addmv dot vdot convolution _trilinear embedding _embedding_bag
"""
_TWO = """
_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable
"""

ADDED = ("norm", "layer_scale", "class_token", "pos_embedding")
"""In names of parameters of no layer that are no operand of a product."""

networks = pytest.mark.parametrize("network", ZOO, ids=lambda n: n.name)


class Products(TorchDispatchMode):
    """Counts products and lookups at the level of PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.rpartition("::")[2]
        self.names += [name] * (name in _ONE.split()) + [name] * 2 * (name in _TWO.split())
        return func(*args, **(kwargs or {}))


def run(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """Return outputs, gradients of inputs and parameters, and buffers after one step."""
    inputs: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        inputs.append(x.detach().clone().requires_grad_(x.is_floating_point()))
        return inputs[-1]

    output = call(model, tree_map_only(Tensor, leaf, example))
    loss(output).backward()
    found = {f"output {i}": t.detach() for i, t in enumerate(results(output))}
    found |= {f"input {i}": t.grad for i, t in enumerate(inputs) if t.grad is not None}
    found |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@networks
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_fp32_plan_is_the_original_bit_for_bit(network: Network, training: bool) -> None:
    plain, example = network()
    expected = run(plain.train(training), example)
    for plan in (FP32, SEEN):
        model, _ = network()
        lp.convert(model, plan, example_inputs=example)
        found = run(model.train(training), example)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name].nan_to_num(7.5), tensor.nan_to_num(7.5)), (plan, name)
        if plan is FP32 and not training:  # PyTorch has kernels of its own for inference
            with torch.no_grad():
                pairs = zip(
                    results(call(plain, example)), results(call(model, example)), strict=True
                )
                assert all(torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) for a, b in pairs)


@networks
def test_roundings_are_all_that_changes(network: Network) -> None:
    """In a format that loses next to nothing, everything stays close: no operand is mixed up."""
    plain, example = network()
    model, _ = network()
    lp.convert(model, FINE, example_inputs=example)
    expected, found = run(plain.eval(), example), run(model.eval(), example)
    assert found.keys() == expected.keys()
    changed = 0
    for name, tensor in expected.items():
        largest = tensor.abs().max() if tensor.is_floating_point() else 0
        torch.testing.assert_close(
            found[name],
            tensor,
            rtol=1e-4,
            atol=3e-4 * float(largest) + 1e-6,
            equal_nan=True,
            msg=name,
        )
        changed += not torch.equal(found[name], tensor)
    assert changed  # and it did round


@networks
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_no_product_is_missed(network: Network, training: bool) -> None:
    plain, example = network()
    with Products() as products:
        call(plain.train(training), example)
    model, _ = network()
    model.train(training)
    lp.convert(model, lp.Plan.load("dfx8"), example_inputs=example)
    state = model._limprec.model  # type: ignore[union-attr]
    known = set(state.layers)
    value = loss(call(model, example))
    assert counted(state) == len(products.names), (state.calls, products.names)
    assert set(state.layers) == known  # the trace found every function
    assert conversion_report(model).left == {}
    value.backward()
    assert value.isfinite()
    for name, parameter in model.named_parameters():
        kind = kind_of(model.get_submodule(name.rpartition(".")[0]))
        if kind is None:
            multiplies = not any(word in name.lower() for word in ADDED)
        else:
            multiplies = kind.group is Group.PRODUCT
        assert (plan_of(parameter) is not None) == multiplies, name
    lp.optim.SGD(model.parameters(), 0.1, 0.9, writeback="kahan", format="plan").step()


def counted(state: Any) -> int:
    """Return how many products conversion saw in the last forward pass."""
    layers = state.layers
    return sum(n for name, n in state.calls.items() if layers[name].group is Group.PRODUCT)


@pytest.mark.parametrize("network", WHOLE, ids=lambda n: n.name)
def test_whole_networks_without_values(network: Network) -> None:
    with torch.device("meta"):
        model, example = network()
    with Products() as products:
        call(model, example)
    lp.convert(model, lp.Plan.load("dfx8"), example_inputs=example)
    with without_rounding(model):
        call(model, example)
    assert counted(model._limprec.model) == len(products.names)  # type: ignore[union-attr]
    report = conversion_report(model)
    assert report.left == {}
    assert not [name for name in report.layers if "#" in name]  # each product has its module


def test_a_weight_that_a_parent_multiplies_by_is_its_childs() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Embedding(5, 4), nn.Linear(4, 4)

        def forward(self, ids: Tensor) -> Tensor:
            x = F.linear(self.table(ids), self.fc.weight, self.fc.bias)
            return F.linear(x, self.table.weight)  # a product, which a table has none of

    model = lp.convert(Parent(), lp.Plan.uniform("dfx8"), example_inputs=torch.arange(3))
    assert list(conversion_report(model).layers) == ["table", "fc", "linear#0"]
    model(torch.arange(3))
    assert model._limprec.model.calls == {"table": 1, "fc": 1, "linear#0": 1}  # type: ignore[union-attr]


def test_a_way_that_depends_on_values_and_one_that_cannot_be_gone() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.seen = nn.Linear(4, 4), 0

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            self.seen += 1
            y: Tensor = self.fc(x)
            return y @ y.T if bool(mask.all()) else y

    model, x = Looks(), torch.randn(2, 4)
    lp.convert(model, lp.Plan.uniform("dfx8"), example_inputs=(x, torch.ones(2)))
    assert "matmul#0" in conversion_report(model).layers
    assert model.seen == 0  # a copy ran
    with pytest.raises(ConversionError, match=r"Looks cannot run on example_inputs: .*shapes"):
        lp.convert(Looks(), lp.Plan.uniform("dfx8"), example_inputs=(x[:, :3], torch.ones(2)))
    meta = torch.ones(2, device="meta")
    with pytest.raises(ConversionError, match="cannot run on example_inputs without values"):
        lp.convert(Looks(), lp.Plan.uniform("dfx8"), example_inputs=(x, meta))


def test_a_plan_for_norms_fits_a_model_of_norms() -> None:
    model = lp.convert(nn.LayerNorm(4), lp.Plan(norm={"activation": "dfx8"}))
    assert str(conversion_report(model).layers[""].activation) == "dfx8"
    with pytest.raises(PlanError, match="no layer to convert"):
        lp.convert(nn.LayerNorm(4), lp.Plan.uniform("dfx8"))
