"""The plans that come with the package: each loads, fits the reference networks, and trains."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limprec as lp
from limprec.lab.models import Task, build_model
from limprec.plan import FP32, Plan, ready_plans

NAMES = sorted(ready_plans())
TASKS = {
    "lenet5": Task("image", (1, 32, 32), 10),
    "resnet20": Task("image", (3, 32, 32), 100),
    "gpt-mini": Task("text", (16,), 65),
}
WRITE_BACKS = {"wage": "stochastic", "fx16": "stochastic"}


def test_the_plans_of_the_issue_are_there() -> None:
    assert set(NAMES) == {
        *("dfx8", "wage", "cpt", "fp8", "mxfp8", "nvfp4", "bf16", "fp16", "fx16", "dfx12")
    }


@pytest.mark.parametrize("name", NAMES)
def test_it_names_its_source_and_survives_toml(name: str) -> None:
    plan = Plan.load(name)
    assert plan.name == name
    assert name == "dfx8" or any(f"{year}" in plan.description for year in range(2014, 2026))
    assert Plan.from_toml(plan.to_toml()) == plan


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", TASKS)
def test_it_fits_the_reference_networks(name: str, model: str) -> None:
    network = build_model(model, TASKS[model], seed=0)
    layers = Plan.load(name).resolve(network)
    inner = [p for p in layers.values() if p.type in ("Linear", "Conv2d")][1]
    assert inner.weight != FP32
    assert inner.activation != FP32
    assert inner.error != FP32
    assert len(Plan.load(name).table(network).splitlines()) >= len(layers) + 2


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:640, None] / 8 - 1
    return x, torch.tensor(data.target)[:640]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64)
    ).extend([nn.ReLU(), nn.Linear(64, 10)])
    plan = Plan.load(name)
    lp.convert(model, plan)
    optimizer = lp.optim.SGD(
        model.parameters(), lr=0.1, format="plan", writeback=WRITE_BACKS.get(name, "kahan")
    )
    losses = []
    for step in range(20):
        x, y = (part[step * 32 : step * 32 + 32] for part in digits)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
