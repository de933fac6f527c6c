"""Networks that people have, most of them small: what makes each, and what it is called with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_flatten

from limprec.errors import IntegrationError
from limprec.integrations.torchvision import import_torchvision

Example = Any
"""A tensor, a tuple of arguments or a dict of keyword arguments."""


@dataclass(frozen=True)
class Network:
    """One entry: a maker, called under a fixed seed, of a model and of what it is called with."""

    name: str
    make: Callable[[], tuple[nn.Module, Example]]

    def __call__(self) -> tuple[nn.Module, Example]:
        torch.manual_seed(0)
        return self.make()


def call(model: nn.Module, example: Example) -> Any:
    """Call a model; dropout draws the same numbers each time."""
    torch.manual_seed(1)
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def results(output: Any) -> list[Tensor]:
    """Return the tensors of an output, whatever holds them."""
    if isinstance(output, dict):
        output = dict(output)
    return [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]


def loss(output: Any) -> Tensor:
    """Return the output's own loss, or one in which every element counts differently."""
    if isinstance(output, dict) and output.get("loss") is not None:
        return output["loss"]  # type: ignore[no-any-return]
    total = torch.zeros(())
    for t in results(output):
        if t.requires_grad:
            weights = torch.linspace(-1, 1, t.numel()).view(t.shape)
            total = total + (t * weights).sum() + t.square().mean()
    return total


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size)


def vision(name: str, size: int, **options: Any) -> Network:
    def make() -> tuple[nn.Module, Example]:
        return getattr(import_models(), name)(num_classes=10, **options), images(size)

    return Network(name, make)


def import_models() -> Any:
    """Return torchvision's models."""
    try:
        return import_torchvision().models
    except IntegrationError as error:
        pytest.skip(f"torchvision is missing: {error}")


def _convnext() -> tuple[nn.Module, Example]:
    models = import_models()
    setting = models.convnext.CNBlockConfig
    blocks = [setting(8, 16, 1), setting(16, None, 1)]
    return models.ConvNeXt(blocks, stochastic_depth_prob=0.1, num_classes=10), images(32)


def _vit() -> tuple[nn.Module, Example]:
    model = import_models().VisionTransformer(32, 16, 2, 2, 16, 32, dropout=0.1, num_classes=10)
    nn.init.normal_(model.heads.head.weight)  # as made, all zeros: no error would pass it
    return model, images(32)


def hugging(name: str, config: str, model: str, attention: str, **options: Any) -> Network:
    def make() -> tuple[nn.Module, Example]:
        transformers = import_transformers()
        cfg = getattr(transformers, config)(attn_implementation=attention, **options)
        ids = torch.randint(0, cfg.vocab_size, (2, 12))
        mask = torch.ones(2, 12, dtype=torch.int64)
        mask[1, 9:] = 0
        many = "Sequence" not in model
        labels = ids if many else torch.tensor([0, 1])
        example = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return getattr(transformers, model)(cfg), example

    return Network(f"{name}-{attention}", make)


def import_transformers() -> Any:
    """Return transformers, which imports torchvision where that is installed."""
    with contextlib.suppress(IntegrationError):
        import_torchvision()
    return pytest.importorskip("transformers", reason="transformers is missing (limprec[dev])")


class Attends(nn.Module):
    """Calls ``nn.MultiheadAttention`` with given options."""

    def __init__(
        self, *, masked: bool = False, padded: bool = False, kdim: int = 0, **options: Any
    ):
        super().__init__()
        self.call = {k: options.pop(k) for k in ("need_weights", "is_causal") if k in options}
        if kdim:
            options |= {"kdim": kdim, "vdim": kdim + 1}
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.masked, self.padded, self.first = masked, padded, options.get("batch_first", False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        batch, source = (k.shape[0], k.shape[1]) if self.first else (k.shape[1], k.shape[0])
        target = q.shape[1] if self.first else q.shape[0]
        options = dict(self.call)
        if self.masked:
            options["attn_mask"] = torch.ones(target, source, dtype=torch.bool).triu(1)
        if self.padded:
            mask = torch.zeros(batch, source, dtype=torch.bool)
            mask[0, -1] = True
            options["key_padding_mask"] = mask
        return self.attention(q, k, v, **options)


def attends(name: str, same: bool = True, **options: Any) -> Network:
    def make() -> tuple[nn.Module, Example]:
        model = Attends(**options)
        first, kdim = model.first, options.get("kdim", 0)

        def sequence(length: int, width: int) -> Tensor:
            return torch.randn(*((2, length) if first else (length, 2)), width)

        if same and not kdim:
            x = sequence(5, 8)
            return model, (x, x, x)
        return model, (sequence(4, 8), sequence(5, kdim or 8), sequence(5, kdim + 1 if kdim else 8))

    return Network(f"mha-{name}", make)


class Functional(nn.Module):
    """Multi-head attention written in einsum, with parameters of its own, and F.linear."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3, 8, 2, 4) / 3)
        self.out = nn.Parameter(torch.randn(8, 8) / 3)
        self.norm = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, (8,), self.norm)
        q, k, v = (torch.einsum("bld,dhe->bhle", x, w) for w in self.qkv)
        weights = torch.einsum("bhqe,bhke->bhqk", q, k).softmax(-1)
        mixed = torch.einsum("bhqk,bhke->bqhe", [weights, v]).flatten(-2)
        return F.linear(mixed, self.out) + x @ self.out.T


class Twice(nn.Module):
    """A module that is called twice, weights that are tied, and an embedding among them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        logits: Tensor = self.head(self.block(self.block(x) + x))
        return logits


class Pairs(nn.Module):
    """Bilinear, embedding bags and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 6, mode="mean")
        self.bilinear = nn.Bilinear(6, 6, 8)
        self.up1 = nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1)
        self.up2 = nn.ConvTranspose2d(1, 2, 3, padding=1)
        self.up3 = nn.ConvTranspose3d(1, 2, 2, bias=False)
        self.down = nn.Conv3d(2, 3, 2)
        self.along = nn.Conv1d(4, 2, 3, padding="same")

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        x = self.bag(ids, offsets)
        x = self.bilinear(x, x.tanh())
        x = self.along(self.up1(x.view(-1, 2, 4)))
        x = self.up2(x.unsqueeze(1))
        y: Tensor = self.down(self.up3(x.unsqueeze(1)))
        return y


def _encoder_layer(**options: Any) -> tuple[nn.Module, Example]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return layer, torch.randn(2, 5, 8)


def _encoder() -> tuple[nn.Module, Example]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    example = {"src": torch.randn(2, 5, 8), "src_key_padding_mask": mask}
    return nn.TransformerEncoder(layer, 2), example


def _transformer() -> tuple[nn.Module, Example]:
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    return model, {"src": torch.randn(2, 5, 8), "tgt": torch.randn(2, 4, 8), "tgt_mask": mask}


def _weight_norm() -> tuple[nn.Module, Example]:
    return (
        nn.Sequential(
            parametrizations.weight_norm(nn.Conv1d(2, 4, 3)),
            nn.Flatten(),
            parametrizations.weight_norm(nn.Linear(12, 3)),
        ),
        torch.randn(4, 2, 5),
    )


def _spectral_norm() -> tuple[nn.Module, Example]:
    return (
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
        torch.randn(4, 6),
    )


_TINY = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
_WIDE = {"intermediate_size": 48, "max_position_embeddings": 16}

WHOLE = [
    vision("resnet18", 64),
    vision("vgg11", 64),
    vision("alexnet", 96),
    vision("mobilenet_v2", 64),
    vision("convnext_tiny", 64),
    vision("vit_b_16", 224),
]
"""In their own size: for the meta device."""
VISION = [
    vision("resnet18", 32),
    vision("mobilenet_v2", 32, width_mult=0.25),
    Network("convnext", _convnext),
    Network("vit", _vit),
]
HUGGING = [
    network
    for attention in ("eager", "sdpa")
    for network in (
        hugging("gpt2", "GPT2Config", "GPT2LMHeadModel", attention, **_GPT2),
        hugging("bert", "BertConfig", "BertForSequenceClassification", attention, **_TINY, **_WIDE),
        hugging(
            "llama",
            "LlamaConfig",
            "LlamaForCausalLM",
            attention,
            num_key_value_heads=2,
            **_TINY,
            **_WIDE,
        ),
    )
]
TORCH = [
    Network("encoder-layer", _encoder_layer),
    Network("encoder-layer-norm-first", lambda: _encoder_layer(norm_first=True, activation="gelu")),
    Network("encoder-padded", _encoder),
    Network("transformer", _transformer),
    Network("weight-norm", _weight_norm),
    Network("spectral-norm", _spectral_norm),
    Network("functional", lambda: (Functional(), torch.randn(2, 5, 8))),
    Network("twice", lambda: (Twice(), torch.randint(0, 11, (3, 4)))),
    Network("pairs", lambda: (Pairs(), (torch.arange(10), torch.tensor([0, 3, 5])))),
]
ATTENTION = [
    attends("plain"),
    attends("no-weights", need_weights=False),
    attends("first", batch_first=True),
    attends("first-no-weights", batch_first=True, need_weights=False),
    attends("cross", same=False),
    attends("cross-no-weights", same=False, need_weights=False),
    attends("kdim", kdim=6),
    attends("kdim-no-weights", kdim=6, need_weights=False),
    attends("bias-kv", add_bias_kv=True, add_zero_attn=True),
    attends("bias-kv-no-weights", add_bias_kv=True, need_weights=False),
    attends("no-bias", bias=False),
    attends("masked", masked=True, need_weights=False),
    attends("masked-causal", masked=True, need_weights=False, is_causal=True),
    attends("padded", padded=True),
    attends("padded-no-weights", padded=True, masked=True, need_weights=False, batch_first=True),
    attends("dropout", dropout=0.5),
    attends("dropout-no-weights", dropout=0.5, need_weights=False),
]
ZOO = [*VISION, *HUGGING, *TORCH, *ATTENTION]
