"""What a trace finds: products, saved tensors, and models that cannot be traced."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

import limprec as lp
from limprec.costs import cost, cross_entropy, trace
from limprec.errors import CostError
from limprec.integrations.torchvision import import_torchvision
from limprec.lab.models import GPT, ResNetCifar


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
        self.spread = nn.ConvTranspose1d(6, 4, 3, stride=2)
        self.head = nn.Linear(4, 10)
        self.scale = torch.ones(6)
        self.scales = [torch.ones(6)]

    def forward(self, x):
        torch.rand(1, device="cpu")  # moves the random state
        x = self.depth(torch.relu(self.norm(self.conv(x))))
        x = self.line(self.drop(x).flatten(2)).transpose(1, 2)
        x = self.mix(self.mix(x)) * self.scale + self.scales[0] + torch.zeros(6)
        return self.head(self.spread(x.transpose(1, 2)).mean(2))


def by_layer(found) -> dict[str, int]:
    counts: dict[str, int] = {}
    for product in found.products:
        counts[product.layer] = counts.get(product.layer, 0) + product.macs
    return counts


def flops(found) -> tuple[int, int]:
    """Return twice the multiply-adds going forward and of the whole step."""
    forward = sum(2 * p.macs for p in found.products)
    back = sum(
        2 * p.macs * (p.left.needs_gradient + p.right.needs_gradient) for p in found.products
    )
    again = sum(2 * p.macs * (p.forwards - 1) for p in found.products)
    return forward, forward + back + again


def torch_flops(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter:
        y = model(x)
        forward = counter.get_total_flops()
        y.sum().backward()
    return forward, counter.get_total_flops()


def test_by_hand():
    assert by_layer(trace(Net(), (3, 20, 12), 2)) == {
        "conv": 2 * 10 * 6 * 8 * 27,
        "depth": 2 * 6 * 6 * 16 * (2 * 3),
        "line": 2 * 32 * 6 * 16 * 5,
        "mix": 2 * 2 * 32 * 36,
        "spread": 2 * 32 * 6 * 4 * 3,
        "head": 2 * 40,
    }
    assert by_layer(trace(nn.Linear(3, 4), (3,))) == {"": 12}


def test_forward_products_of_every_kind_against_the_flop_counter_of_torch():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Net()(torch.zeros(4, 3, 20, 12))
    assert flops(trace(Net(), (3, 20, 12), 4))[0] == counter.get_total_flops()


def test_resnet50_against_the_flop_counter_of_torch():
    with torch.device("meta"):
        model, x = import_torchvision().models.resnet50(), torch.empty(2, 3, 224, 224)
    expected = torch_flops(model, x)
    assert expected[0] == 2 * 8_178_368_512
    assert flops(trace(model, (3, 224, 224), 2)) == expected


def test_gpt2_against_the_flop_counter_of_torch():
    with torch.device("meta"):
        model, x = GPT(50257, 1024, 12, 768, 12), torch.empty(1, 1024, dtype=torch.long)
    assert sum(p.numel() for p in model.parameters()) == 163_037_184  # GPT-2, head not tied
    assert flops(trace(model, (1024,), 1, fused_attention=False)) == torch_flops(model, x)


def test_a_real_run_counts_the_same():
    model = GPT(300, 64, 2, 32, 4)
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch_flops(model, torch.randint(300, (2, 64)))
    assert flops(trace(model, (64,), 2, fused_attention=False)) == expected


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16, bias=False)

    def forward(self, x):
        q = self.mix(x)
        return F.scaled_dot_product_attention(q, q, q)


def test_fused_attention_computes_its_scores_twice_as_torch_counts_it():
    shape = (2, 4, 64, 16)
    forward, whole = flops(trace(Alone(), shape[1:], shape[0]))
    mix = 2 * 2 * 4 * 64 * 16 * 16
    assert forward - mix == sdpa_flop_count(shape, shape, shape)
    back = sdpa_backward_flop_count(shape, shape, shape, shape)
    assert whole - 2 * mix == sdpa_flop_count(shape, shape, shape) + back


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.LSTM(4, 5, batch_first=True), (3, 4)),
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (6, 16)),
    ],
)
def test_modules_that_call_products_themselves(model, shape):
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x):
            y = self.inner(x)
            return y[0] if isinstance(y, tuple) else y

    twin = First()
    found = trace(twin, shape, 2, fused_attention=False)
    with torch.device("meta"):
        assert flops(found) == torch_flops(twin.to("meta"), torch.empty(2, *shape))
    assert all(p.layer for p in found.products)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_have_their_products_under_their_name(kind, gates):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(6, 5, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(10, 7)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    found = trace(Model(), (4, 6), 3)
    steps = 4 * 3 * gates * 5
    assert by_layer(found) == {
        "rnn": 2 * steps * (6 + 5) + 2 * steps * (10 + 5),
        "head": 4 * 3 * 10 * 7,
    }
    assert not any(p.left.is_weight for p in found.products)
    assert {p.role for p in found.parameters if "bias_hh" in p.name} == {"bias"}
    plan = lp.Plan.uniform("e4m3", bias="bf16")
    narrow = cost(Model(), plan, (4, 6), 3, against=())
    numbers = {"weight": 0, "bias": 0}
    for p in found.parameters:
        numbers[p.role] += p.elements
    assert narrow.memory["parameter"] == numbers["weight"] + 2 * numbers["bias"]


def test_products_of_no_layer_are_numbered():
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 6))

        def forward(self, x):
            return torch.einsum("bi,ij->bj", x, self.w) @ self.w.t()

    assert [p.layer for p in trace(Free(), (4,)).products] == ["einsum#0", "matmul#0"]
    names = [p.layer for p in trace(GPT(9, 8, 1, 8, 2), (8,)).products]
    assert names[1:3] == ["layers.0.attention/attention#0"] * 2


class Attending(nn.Module):
    """Attention as a module, as a function and by hand, a recurrent layer, a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        x = self.heads(x, x, x, need_weights=False)[0]
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        x = torch.softmax(x @ x.mT, -1) @ self.recurrent(x)[0]
        return nn.functional.linear(self.head(x), self.head.weight)


@pytest.mark.parametrize("fused", [False, True])
def test_a_layer_has_the_name_and_the_formats_that_conversion_gives_it(fused):
    model, plan = Attending(), lp.Plan.uniform("dfx8")
    traced = trace(model, (5, 8), 3, plan=plan, fused_attention=fused)
    energy = {e.layer: e for e in lp.cost(model, plan, (5, 8), 3, fused_attention=fused).entries}
    converted = lp.convert(model, plan, example_inputs=torch.zeros(3, 5, 8))
    layers = lp.conversion_report(converted).layers
    assert {p.layer for p in traced.products} == set(layers) <= set(energy)
    assert "attention#0" in layers
    found = lp.cost(model, plan, (5, 8), 3, fused_attention=fused, against=()).entries
    products = [e for e in found if e.kind == "multiply" and e.role in ("activation", "error")]
    assert {round(e.picojoules / e.count, 9) for e in products} == {0.2}


def test_only_what_needs_a_gradient_has_one():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.requires_grad_(False)
    first, frozen, last = trace(model, (4,)).products
    assert (first.left.needs_gradient, first.right.needs_gradient) == (False, True)
    assert (frozen.left.needs_gradient, frozen.right.needs_gradient) == (True, False)
    assert (last.left.needs_gradient, last.right.needs_gradient) == (True, True)
    # Behind an embedding the first linear layer does pass an error back.
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    assert trace(tokens, (5,)).products[0].left.needs_gradient


def saved_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Return the bytes that a real run keeps for its backward pass, the model's own left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def save(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
        output = model(x)  # alive, so that no address is used twice
    del output
    return sum(storage.nbytes() for at, storage in kept.items() if at not in own)


def test_saved_tensors_are_those_of_a_real_run():
    model = ResNetCifar(8, 3, 10)
    found = sum(s.elements * s.itemsize for s in trace(model, (3, 32, 32), 4).saved)
    assert found == saved_bytes(model, torch.randn(4, 3, 32, 32))
    # The fused attention of the CPU keeps what ours does; the positions are indices of the model's
    # own making, which do not depend on the input.
    model = GPT(50, 64, 2, 32, 4)
    found = sum(s.elements * s.itemsize for s in trace(model, (64,), 4).saved)
    assert found + 64 * 8 == saved_bytes(model, torch.randint(50, (4, 64)))


def test_recomputed_modules_keep_their_inputs_alone():
    model = GPT(50, 64, 3, 32, 4)
    plain, again = (trace(model, (64,), 4, recompute=r) for r in ((), ("layers.*",)))
    block = 4 * 64 * 32
    inside = [s.elements for s in again.saved]
    assert inside.count(block) >= 3
    assert sum(inside) < sum(s.elements for s in plain.saved) / 3
    assert len(again.blocks) == 3
    assert sum(s.elements for s in again.blocks[0]) < sum(s.elements for s in plain.saved) / 3
    assert {p.forwards for p in again.products if p.layer.endswith(("qkv", "up"))} == {2}
    assert again.products[-1].forwards == 1
    with pytest.raises(CostError, match=r"recompute 'blocks.\*' matches no module"):
        trace(model, (64,), recompute=("blocks.*",))


def test_a_converted_model_is_traced_as_the_plain_one():
    plain = trace(ResNetCifar(8, 3, 10), (3, 32, 32), 2)
    converted = lp.convert(ResNetCifar(8, 3, 10), lp.Plan.load("dfx8"))
    assert trace(converted, (3, 32, 32), 2) == plain
    lp.restore(converted)  # it was left converted


def test_the_model_is_left_alone():
    model = Net()
    model.conv.eval()
    model.conv.register_forward_hook(lambda *_: None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers(), model.scale)]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    rng = torch.get_rng_state()
    trace(model, (3, 20, 12), 2)
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
    assert by_layer(trace(model, (10**6,))) == {"0": 10**13, "1": 10**8}


def test_the_input_is_tokens_if_an_embedding_comes_first():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    assert by_layer(trace(model, (16,))) == {"1": 16 * 8 * 50}
    assert trace(nn.Linear(8, 4).bfloat16(), (8,)).dtype == torch.bfloat16


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Uncopied(nn.Module):
    def __deepcopy__(self, memo):
        raise TypeError("there can be only one")


class Unknown(nn.Module):
    def forward(self, x):
        bias = torch.zeros(2, 4, 4, device=x.device)
        return (
            torch.ops.aten._efficient_attention_forward(
                *3 * [x.view(1, 4, 1, 8)], None, None, None, None, None, 0.0, 0
            )[0]
            + bias.sum()
        )


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Linear(4, 4), (5,), "Linear cannot run on 1 samples of shape (5,)"),
        (nn.Linear(4, 4), (), "input_shape is ()"),
        (nn.Linear(4, 4), (4, 0), "input_shape is (4, 0)"),
        (nn.Linear(4, 4), 4, "input_shape is 4"),
        (nn.Linear(4, 4), (4.0,), "input_shape is (4.0,)"),
        (Undecided(), (4,), "the way through the model must not depend on the data"),
        (Uncopied(), (4,), "cannot copy Uncopied: there can be only one; give the plain model"),
        (Unknown(), (32,), "no rule for the product _efficient_attention_forward"),
    ],
)
def test_errors_are_one_line(model, shape, message):
    with pytest.raises(CostError) as caught:
        trace(model, shape)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_that_does_not_fit_and_a_model_without_parameters():
    class Named(nn.Module):
        def forward(self, x):
            return {"logits": x * 2}

    with pytest.raises(CostError, match=r"the loss cannot take .* give a loss for"):
        trace(Named(), (4,), loss=cross_entropy)
    c = cost(Named(), None, (4,))
    assert (c.total_memory, c.macs["activation"]) == (0, 0)
    assert c.energy > 0
    assert c.table()


@pytest.mark.parametrize("batch", [0, -1, 1.5, True])
def test_a_batch_is_a_number_of_samples(batch):
    with pytest.raises(CostError, match="batch is"):
        trace(nn.Linear(4, 4), (4,), batch)
