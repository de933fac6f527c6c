"""The kinds of layers that a plan speaks of: one entry each, with its modules and its roles."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from torch import nn

TENSOR_ROLES = ("weight", "activation", "error", "gradient", "bias")
"""Tensors of one layer: Qw, Qa, Qe and Qg of the design, and the bias."""
ACCUMULATOR = "accumulator"
LAYER_ROLES = (*TENSOR_ROLES, ACCUMULATOR)
"""What a plan says of a layer."""


class Group(StrEnum):
    """Which section of a plan speaks of a kind."""

    PRODUCT = "product"
    """Sums of products and lookups in tables: ``[default]``."""
    NORM = "norm"
    """Normalisations: ``[norm]``."""
    ELEMENTWISE = "element-wise"
    """The rest, in the carrier unless a rule names the kind."""


@dataclass(frozen=True)
class Kind:
    """One kind of layer.

    Args:
        name: how rules call it (``type = "Linear"``).
        roles: what it has.
        modules: module classes of this kind; none for what is only ever called as a function.
        group: the section that speaks of it.
    """

    name: str
    roles: tuple[str, ...]
    modules: tuple[type[nn.Module], ...] = ()
    group: Group = Group.PRODUCT


_ALL = LAYER_ROLES
_TABLE = ("weight", "error", "gradient")
_NORMAL = TENSOR_ROLES
_PLAIN = ("activation", "error")

KINDS = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("Linear", _ALL, (nn.Linear,)),
            Kind("Conv1d", _ALL, (nn.Conv1d,)),
            Kind("Conv2d", _ALL, (nn.Conv2d,)),
            Kind("Conv3d", _ALL, (nn.Conv3d,)),
            Kind("ConvTranspose1d", TENSOR_ROLES, (nn.ConvTranspose1d,)),
            Kind("ConvTranspose2d", TENSOR_ROLES, (nn.ConvTranspose2d,)),
            Kind("ConvTranspose3d", TENSOR_ROLES, (nn.ConvTranspose3d,)),
            Kind("Bilinear", TENSOR_ROLES, (nn.Bilinear,)),
            Kind("Embedding", _TABLE, (nn.Embedding,)),
            Kind("EmbeddingBag", _TABLE, (nn.EmbeddingBag,)),
            Kind("LSTM", _ALL, (nn.LSTM, nn.LSTMCell)),
            Kind("GRU", _ALL, (nn.GRU, nn.GRUCell)),
            Kind("RNN", _ALL, (nn.RNN, nn.RNNCell)),
            Kind("MultiheadAttention", _ALL, (nn.MultiheadAttention,)),
            Kind("Attention", ("activation", "error", ACCUMULATOR)),
            Kind("Matmul", _ALL),
            Kind(
                "BatchNorm",
                _NORMAL,
                (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
                Group.NORM,
            ),
            Kind(
                "InstanceNorm",
                _NORMAL,
                (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
                Group.NORM,
            ),
            Kind("LayerNorm", _NORMAL, (nn.LayerNorm,), Group.NORM),
            Kind("GroupNorm", _NORMAL, (nn.GroupNorm,), Group.NORM),
            Kind("RMSNorm", _NORMAL[:-1], (nn.RMSNorm,), Group.NORM),
            Kind("Softmax", _PLAIN, (nn.Softmax, nn.LogSoftmax), Group.ELEMENTWISE),
            Kind("CrossEntropy", _PLAIN, (nn.CrossEntropyLoss,), Group.ELEMENTWISE),
            Kind("Add", _PLAIN, (), Group.ELEMENTWISE),
        )
    }
)
"""The kinds by name."""

_CLASSIFIERS = frozenset({"Linear", "Conv1d", "Conv2d", "Conv3d", "Matmul"})
_ELSEWHERE = {"Linear": ("transformers.pytorch_utils", "Conv1D")}
"""Modules of other frameworks, looked for only where they are imported already."""


def kind_of(module: nn.Module) -> Kind | None:
    """Return the kind of a module, None if a plan has no word for it."""
    for kind in KINDS.values():
        if isinstance(module, kind.modules):
            return kind
        if kind.name in _ELSEWHERE:
            place, name = _ELSEWHERE[kind.name]
            other = getattr(sys.modules.get(place), name, None)
            if other is not None and isinstance(module, other):
                return kind
    return None


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module of the layers that multiply or look up, in module order."""
    return {n: m for n, m, kind in find_kinds(model) if kind.group is Group.PRODUCT}


def find_kinds(model: nn.Module) -> Iterator[tuple[str, nn.Module, Kind]]:
    """Yield name, module and kind of every module that a plan has a word for."""
    for name, module in model.named_modules():
        if kind := kind_of(module):
            yield name, module, kind


def can_classify(kind: Kind) -> bool:
    """Whether the last layer of this kind can be the classifier."""
    return kind.name in _CLASSIFIERS


def classifier_of(model: nn.Module) -> str | None:
    """Return the name of a model's last linear or convolution layer in module order."""
    layers = [name for name, _, kind in find_kinds(model) if can_classify(kind)]
    return layers[-1] if layers else None


def outputs_of(module: nn.Module) -> int:
    """Return how many outputs (classes, at the classifier) a layer has, 0 if it cannot be told."""
    for attribute in ("out_features", "out_channels", "nf"):
        outputs = getattr(module, attribute, None)
        if isinstance(outputs, int):
            return outputs
    return 0
