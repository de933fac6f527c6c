from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from limprec.costs import LayerMacs, count_macs, layer_macs
from limprec.errors import CostError


class Net(nn.Module):
    """Convolutions of every kind, norms, dropout, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 16, (3, 1), groups=4, dilation=2, bias=False)
        self.drop = nn.Dropout()
        self.line = nn.Conv1d(16, 6, 5)
        self.mix = nn.Linear(6, 6)
        self.idle = nn.Linear(100, 100)
        self.head = nn.Linear(6, 10)
        self.scale = torch.ones(6)
        self.scales = [torch.ones(6)]

    def forward(self, x):
        torch.rand(1, device="cpu")  # moves the random state
        x = self.depth(torch.relu(self.norm(self.conv(x))))
        x = self.line(self.drop(x).flatten(2)).transpose(1, 2)
        x = self.mix(self.mix(x)) * self.scale + self.scales[0] + torch.zeros(6)
        return self.head(x.mean(1))


def flops(model: nn.Module, *shape: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(4, *shape))
    return counter.get_total_flops()


def test_against_the_flop_counter_of_torch():
    model = Net()
    assert sum(count_macs(model, (3, 20, 12)).values()) * 2 * 4 == flops(model, 3, 20, 12)


def test_by_hand():
    counts = count_macs(Net(), (3, 20, 12))
    assert counts == {
        "conv": 10 * 6 * 8 * 27,
        "depth": 6 * 6 * 16 * (2 * 3),
        "line": 32 * 6 * 16 * 5,
        "mix": 2 * 32 * 36,
        "idle": 0,
        "head": 60,
    }
    assert list(counts) == ["conv", "depth", "line", "mix", "idle", "head"]
    assert layer_macs(nn.Linear(3, 4), (3,)) == (LayerMacs("", 12),)


def test_the_model_is_left_alone():
    model = Net()
    model.conv.eval()
    seen = []
    model.conv.register_forward_hook(lambda *_: seen.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers(), model.scale)]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    rng = torch.get_rng_state()
    count_macs(model, (3, 20, 12))
    assert torch.equal(torch.get_rng_state(), rng)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [id(t) for t in (*model.parameters(), *model.buffers(), model.scale)] == tensors
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.scale.device == model.scales[0].device == torch.device("cpu")


def test_a_model_on_the_meta_device_too_large_for_any_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**6, 10**7), nn.Linear(10**7, 10))
    assert count_macs(model, (10**6,)) == {"0": 10**13, "1": 10**8}


def test_tokens():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    assert count_macs(model, (16,), dtype=torch.long) == {"1": 16 * 8 * 50}


def test_a_half_precision_model():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).bfloat16()
    assert count_macs(model, (8,)) == {"0": 32}


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Uncopied(nn.Module):
    def __deepcopy__(self, memo):
        raise TypeError("there can be only one")


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Linear(4, 4), (5,), "Linear cannot run on samples of shape (5,)"),
        (nn.Linear(4, 4), (), "input_shape is ()"),
        (nn.Linear(4, 4), (4, 0), "input_shape is (4, 0)"),
        (nn.Linear(4, 4), 4, "input_shape is 4"),
        (nn.Linear(4, 4), (4.0,), "input_shape is (4.0,)"),
        (Undecided(), (4,), "the way through the model must not depend on the data"),
        (Uncopied(), (4,), "cannot copy Uncopied: there can be only one; count the plain model"),
    ],
)
def test_errors_are_one_line(model, shape, message):
    with pytest.raises(CostError) as caught:
        count_macs(model, shape)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
