"""What a plan says of the layers: its rules, and one layer of one model with all resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..formats import Affine, DynamicFixedPoint, Precision
from .accumulator import Accumulator
from .kinds import KINDS, Group, Kind
from .roles import FP32, Roles

_WITH_BITS = (DynamicFixedPoint, Affine)

STORED = "parameter"
"""What a plan's optimizer calls the parameters themselves."""


@dataclass(frozen=True)
class Rule:
    """Precisions for the layers whose name and type match.

    Args:
        match: glob over the layer's name, e.g. ``conv*``, ``*.attn.*`` or ``*/matmul#1``.
        type: name of a kind (``Linear``, ``LayerNorm``, ``Add``). None means all kinds that
            multiply or look up; norms and element-wise work are reached by their type alone.
            A rule on a type under every name (``match = "*"``) may match nothing: a plan can
            speak of attention to a network that has none.
        roles: role -> precision; the roles that are left out keep what they had.
    """

    match: str
    type: str | None
    roles: Roles

    def matches(self, name: str, kind: Kind) -> bool:
        """Whether the rule speaks of that layer."""
        named = kind.group is Group.PRODUCT if self.type is None else kind.name == self.type
        return named and fnmatchcase(name, self.match)

    @property
    def is_named(self) -> bool:
        """Whether it means layers by their names, so that one at least has to be there."""
        return self.type is None or self.match != "*"

    def __str__(self) -> str:
        """How errors call it."""
        return f"rule {self.match!r}" + (f" type {self.type}" if self.type else "")


@dataclass(frozen=True)
class Call:
    """A function that a model calls, known from a trace.

    Args:
        name: ``path/word#number``, e.g. ``blocks.0/matmul#1``.
        kind: what it computes.
        outputs: size of its last axis, classes if it is the classifier.
    """

    name: str
    kind: Kind
    outputs: int = 0


@dataclass(frozen=True)
class LayerPlan:
    """What one layer of one model runs in: every role resolved.

    A role that the kind does not have is fp32; an accumulator of None adds as PyTorch does.
    """

    name: str
    type: str
    weight: Precision = FP32
    activation: Precision = FP32
    error: Precision = FP32
    gradient: Precision = FP32
    bias: Precision = FP32
    accumulator: Accumulator | None = None

    @property
    def kind(self) -> Kind:
        """The kind of the layer."""
        return KINDS[self.type]

    @property
    def is_planned(self) -> bool:
        """Whether the plan has a word for the layer; one without stays as it is."""
        return self.kind.group is Group.PRODUCT or self != LayerPlan(self.name, self.type)

    def __getitem__(self, role: str) -> Precision:
        """Return the precision of a tensor's role."""
        precision: Precision = getattr(self, role)
        return precision

    @property
    def has_bits(self) -> bool:
        """Whether ``at_bits`` can change it."""
        return any(isinstance(p.format, _WITH_BITS) for p in (self.weight, self.activation))

    def at_bits(self, bits: int) -> LayerPlan:
        """Return the plan with weights and activations of so many bits.

        Dynamic fixed point and affine integers alone: their range follows the tensor. What is of
        another kind, fp32 for one, stays.

        Raises:
            FormatError: for bits that the format cannot have.
        """

        def changed(precision: Precision) -> Precision:
            fmt = precision.format
            if not isinstance(fmt, _WITH_BITS):
                return precision
            return replace(precision, format=replace(fmt, bits=bits))

        return replace(self, weight=changed(self.weight), activation=changed(self.activation))

    def stored(self, role: str, optimizer: Mapping[str, Precision]) -> Precision:
        """Return how a parameter, ``weight`` or ``bias``, is kept between steps.

        Args:
            role: of the parameter.
            optimizer: the plan's ``optimizer``.
        """
        own = self[role]
        return own if role != "weight" or own == FP32 else optimizer.get(STORED, own)

    def shown(self, role: str) -> str:
        """Return a role's entry in tables: ``-`` where the kind does not have it."""
        value = getattr(self, role)
        return "-" if role not in self.kind.roles or value is None else str(value)
