"""Each kind of layer against its composition by hand, of ``lp.quantize`` and plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limprec as lp
from limprec.formats import Precision, parse_precision
from limprec.nn.state import STREAMS, STREAMS_PER_LAYER, function_index
from limprec.plan import Rule

CALL = 2**20
"""Random streams from one call of a layer to its next."""
SEED = 3
ROLES = {
    "weight": "e4m3:stochastic",
    "activation": "dfx7:stochastic",
    "error": "dfx8:stochastic",
    "gradient": "e5m2:stochastic",
    "bias": "bf16:stochastic",
}
PARSED = {role: parse_precision(name) for role, name in ROLES.items()}


class Quantize(torch.autograd.Function):
    """Q1(x) going forward, Q2(gradient) going back, each with its stream."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ahead: Any, back: Any) -> Tensor:
        ctx.back = back
        return quantize(x, ahead)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return quantize(grads[0], ctx.back), None, None


def quantize(x: Tensor, to: tuple[Precision, int] | None) -> Tensor:
    if to is None:
        return x.clone()
    return lp.quantize(x.contiguous(), to[0], seed=SEED, stream=to[1], step=1)


@dataclass
class Hand:
    """Rounds the tensors of one layer's one product."""

    index: int
    call: int = 0

    def _to(self, role: str, stream: str) -> tuple[Precision, int]:
        return PARSED[role], self.index * STREAMS_PER_LAYER + STREAMS[stream] + self.call * CALL

    def x(self, x: Tensor, stream: str = "activation") -> Tensor:
        return Quantize.apply(x, self._to("activation", stream), None)  # type: ignore[no-any-return,no-untyped-call]

    def w(self, w: Tensor) -> Tensor:
        to = self._to("weight", "weight"), self._to("gradient", "gradient")
        return Quantize.apply(w, *to)  # type: ignore[no-any-return,no-untyped-call]

    def b(self, b: Tensor) -> Tensor:
        to = self._to("bias", "bias"), self._to("gradient", "bias gradient")
        return Quantize.apply(b, *to)  # type: ignore[no-any-return,no-untyped-call]

    def y(self, y: Tensor) -> Tensor:
        return Quantize.apply(y, None, self._to("error", "error"))  # type: ignore[no-any-return,no-untyped-call]

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return self.y(F.linear(self.x(x), self.w(w), None if b is None else self.b(b)))

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.y(self.x(a) @ self.x(b, "activation 2"))


def attend(index: int, call: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = Hand(index, call).matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))
    return Hand(index, call + 1).matmul(scores.softmax(-1), v)


Forward = Callable[..., Tensor]


def simple(function: Callable[..., Tensor], **options: Any) -> Callable[[nn.Module], Forward]:
    """Return the composition of a layer with one input, a weight and perhaps a bias."""

    def compose(layer: nn.Module) -> Forward:
        def forward(x: Tensor) -> Tensor:
            hand, bias = Hand(0), layer.bias
            b = None if bias is None else hand.b(bias)  # type: ignore[arg-type]
            return hand.y(function(hand.x(x), hand.w(layer.weight), b, **options))  # type: ignore[arg-type]

        return forward

    return compose


def embedding(layer: nn.Module) -> Forward:
    return lambda ids: Hand(0).y(F.embedding(ids, Hand(0).w(layer.weight), padding_idx=1))  # type: ignore[arg-type]


def bag(layer: nn.Module) -> Forward:
    return lambda ids: Hand(0).y(F.embedding_bag(ids, Hand(0).w(layer.weight), mode="sum"))  # type: ignore[arg-type]


def bilinear(layer: nn.Module) -> Forward:
    def forward(a: Tensor, b: Tensor) -> Tensor:
        hand = Hand(0)
        right = hand.x(b, "activation 2")
        return hand.y(F.bilinear(hand.x(a), right, hand.w(layer.weight), hand.b(layer.bias)))  # type: ignore[arg-type]

    return forward


def multihead(layer: nn.Module) -> Forward:
    assert isinstance(layer, nn.MultiheadAttention)

    def forward(x: Tensor) -> Tensor:
        assert layer.in_proj_weight is not None
        x = x.transpose(0, 1)  # PyTorch computes with the sequence first
        together = Hand(0).linear(x, layer.in_proj_weight, layer.in_proj_bias)
        heads = [t.unflatten(-1, (2, 3)).permute(1, 2, 0, 3) for t in together.chunk(3, -1)]
        mixed = attend(0, 1, *heads).permute(2, 0, 1, 3).flatten(2)
        y = Hand(1).linear(mixed, layer.out_proj.weight, layer.out_proj.bias)
        return y.transpose(0, 1)

    return forward


class SelfAttention(nn.Module):
    """A module that calls ``nn.MultiheadAttention``."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class Functions(nn.Module):
    """Functions that no module stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))
        self.v = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        q = F.linear(x, self.w, self.b)
        q = F.scaled_dot_product_attention(q, q.sin(), q.cos())
        return torch.einsum("bli,io->blo", q, self.v) @ self.v.T

    def compose(self) -> Forward:
        def forward(x: Tensor) -> Tensor:
            linear, attention, einsum, matmul = (
                function_index(f"{word}#0") for word in ("linear", "attention", "einsum", "matmul")
            )
            q = Hand(linear).linear(x, self.w, self.b)
            q = attend(attention, 0, q, q.sin(), q.cos())
            hand = Hand(einsum)
            y = hand.y(torch.einsum("bli,io->blo", hand.x(q), hand.w(self.v)))
            hand = Hand(matmul)
            return hand.y(hand.x(y) @ hand.w(self.v.T))

        return forward


def normal(function: Callable[..., Tensor]) -> Callable[[nn.Module], Forward]:
    """Return the composition of a normalisation."""

    def compose(layer: nn.Module) -> Forward:
        def forward(x: Tensor) -> Tensor:
            hand = Hand(0)
            w, b = hand.w(layer.weight), getattr(layer, "bias", None)  # type: ignore[arg-type]
            return hand.y(function(hand.x(x), w, None if b is None else hand.b(b)))

        return forward

    return compose


class Elementwise(nn.Module):
    """Softmax and sum, as a module and as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax, self.scale = nn.Softmax(-1), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return self.softmax(x) + x.log_softmax(-1)

    def compose(self) -> Forward:
        def forward(x: Tensor) -> Tensor:
            x = x * self.scale
            a = Hand(0).y(Hand(0).x(x).softmax(-1))
            hand = Hand(function_index("log_softmax#0"))
            b = hand.y(hand.x(x).log_softmax(-1))
            hand = Hand(function_index("add#0"))
            return hand.y(hand.x(a) + hand.x(b, "activation 2"))

        return forward


class Loss(nn.Module):
    """A loss within the model."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(x * self.scale, torch.arange(3))

    def compose(self) -> Forward:
        def forward(x: Tensor) -> Tensor:
            hand = Hand(function_index("cross_entropy#0"))
            return F.cross_entropy(hand.y(hand.x(x * self.scale)), torch.arange(3))

        return forward


DEFAULT = lp.Plan(default=ROLES)
NORM = lp.Plan(norm=ROLES)
_PLAIN = {role: ROLES[role] for role in ("activation", "error")}
ELEMENTWISE = lp.Plan(
    layers=tuple(Rule("*", kind, _PLAIN) for kind in ("Softmax", "Add"))  # type: ignore[arg-type]
)
LOSS = lp.Plan(layers=(Rule("*", "CrossEntropy", _PLAIN),))  # type: ignore[arg-type]
IDS = torch.tensor([[0, 1, 2, 2], [5, 3, 1, 0]])


def x(*shape: int) -> Tensor:
    return torch.randn(shape)


def own(model: nn.Module) -> Forward:
    return model.compose()  # type: ignore[no-any-return,operator]


CASES: dict[str, tuple[lp.Plan, Any, Any, Any]] = {
    "Linear": (DEFAULT, lambda: nn.Linear(7, 5), simple(F.linear), lambda: [x(3, 2, 7)]),
    "Conv1d": (
        DEFAULT,
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        simple(F.conv1d, stride=2, padding=1, groups=2),
        lambda: [x(2, 4, 9)],
    ),
    "Conv2d": (
        DEFAULT,
        lambda: nn.Conv2d(2, 3, (2, 3), bias=False, dilation=(1, 2)),
        simple(F.conv2d, dilation=(1, 2)),
        lambda: [x(2, 2, 5, 7)],
    ),
    "Conv3d": (DEFAULT, lambda: nn.Conv3d(2, 3, 2), simple(F.conv3d), lambda: [x(2, 2, 3, 4, 3)]),
    "ConvTranspose1d": (
        DEFAULT,
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2),
        simple(F.conv_transpose1d, stride=2, output_padding=1, groups=2),
        lambda: [x(2, 4, 5)],
    ),
    "ConvTranspose2d": (
        DEFAULT,
        lambda: nn.ConvTranspose2d(2, 3, 3, padding=1, bias=False),
        simple(F.conv_transpose2d, padding=1),
        lambda: [x(2, 2, 4, 5)],
    ),
    "ConvTranspose3d": (
        DEFAULT,
        lambda: nn.ConvTranspose3d(2, 3, 2),
        simple(F.conv_transpose3d),
        lambda: [x(2, 2, 3, 2, 3)],
    ),
    "Embedding": (DEFAULT, lambda: nn.Embedding(6, 4, padding_idx=1), embedding, lambda: [IDS]),
    "EmbeddingBag": (DEFAULT, lambda: nn.EmbeddingBag(6, 4, mode="sum"), bag, lambda: [IDS]),
    "Bilinear": (DEFAULT, lambda: nn.Bilinear(3, 4, 5), bilinear, lambda: [x(6, 3), x(6, 4)]),
    "MultiheadAttention": (
        DEFAULT,
        SelfAttention,
        lambda model: multihead(model.attention),
        lambda: [x(2, 4, 6)],
    ),
    "functions": (DEFAULT, Functions, own, lambda: [x(2, 3, 4)]),
    "LayerNorm": (
        NORM,
        lambda: nn.LayerNorm(6),
        normal(lambda x, w, b: F.layer_norm(x, (6,), w, b)),
        lambda: [x(3, 4, 6)],
    ),
    "GroupNorm": (
        NORM,
        lambda: nn.GroupNorm(2, 4),
        normal(lambda x, w, b: F.group_norm(x, 2, w, b)),
        lambda: [x(3, 4, 5)],
    ),
    "RMSNorm": (
        NORM,
        lambda: nn.RMSNorm(6),
        normal(lambda x, w, b: F.rms_norm(x, (6,), w)),
        lambda: [x(3, 4, 6)],
    ),
    "BatchNorm": (
        NORM,
        lambda: nn.BatchNorm2d(4),
        normal(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True)),
        lambda: [x(3, 4, 5, 2)],
    ),
    "element-wise": (ELEMENTWISE, Elementwise, own, lambda: [x(3, 4, 5)]),
    "cross entropy": (LOSS, Loss, own, lambda: [x(3, 5)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_its_composition_bit_for_bit(name: str) -> None:
    plan, make, compose, draw = CASES[name]
    torch.manual_seed(0)
    inputs = draw()
    layer = make()
    torch.manual_seed(1)
    for parameter in layer.parameters():  # not the ones and zeros that norms start with
        nn.init.normal_(parameter)
    results = []
    for forward in (compose(layer), lp.convert(layer, plan, seed=SEED, example_inputs=inputs)):
        layer.zero_grad()
        leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in inputs]
        y = forward(*leaves)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
        y.backward(upstream)
        results.append(
            {"output": y.detach()}
            | {f"input {i}": t.grad for i, t in enumerate(leaves) if t.grad is not None}
            | {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
        )
    expected, found = results
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
        assert tensor.any(), key


@pytest.mark.parametrize("boolean", [True, False])
def test_a_query_that_sees_no_key_gets_zeros_and_passes_none_on(boolean: bool) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), attn_mask=mask)

    torch.manual_seed(0)
    model, data = Masked(), x(2, 3, 4)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    if not boolean:
        mask = torch.zeros(3, 3).masked_fill(~mask, -math.inf)
    found = []
    for _ in range(2):
        model.zero_grad()
        y = model(data, mask)
        y.square().sum().backward()
        assert not y[:, 1].any()
        found.append(model.qkv.weight.grad)
        lp.convert(model, lp.Plan.uniform("e8m19")) if len(found) == 1 else None
        model.qkv.weight.grad = None
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
