"""What a converted model knows: its random state, its layers, and which module is running."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..formats import Precision, Rounding
from ..kernels import Key, TracedKey, round_through
from ..kernels.carrier import is_identity
from ..kernels.stored import Codes
from ..plan import BESIDE_ROLES, DELAYED, FP32, TENSOR_ROLES, Call, Group, LayerPlan, Plan
from .learning import Learner
from .random_state import RandomState
from .saving import Kept
from .scales import Scales
from .tags import ParameterPlan, Tags, plan_of

Teller = Callable[[str, Tensor, Tensor, Precision], None]
"""What a layer calls with role, before, after and precision of each rounding."""

STREAMS = {
    "activation": 0,
    "weight": 1,
    "error": 2,
    "gradient": 3,
    "bias": 4,
    "bias gradient": 5,
    "activation 2": 6,
    "product": 7,
}
"""Tensors of one product; the second operand of a product of activations has its own, and so have
the sums themselves."""
STREAMS_PER_LAYER = 8
_CARRIERS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_CALL, _MOST_CALLS = 2**20, 2**11
_FIRST_FUNCTION, _FUNCTIONS = 2**16, 2**16


class Compute(StrEnum):
    """How a converted model computes its products."""

    EXACT = "exact"
    """In the carrier, or in the plan's accumulators, bit for bit."""
    FAST = "fast"
    """As this machine is fastest: as integers, in bfloat16 (operands exact, results rounded to
    it), or in the carrier; see ``ways``."""
    REAL = "real"
    """As true integer products of int8 codes, exact to the last bit."""


class Saved(StrEnum):
    """How rounded operands wait for the backward pass."""

    CARRIER = "carrier"
    """As they are: rounded values in the dtype of the model."""
    NARROW = "narrow"
    """In real bits, where the format has a dtype that keeps them."""


@dataclass(eq=False)
class LayerState:
    """One layer: its precisions, its place among the random streams, the model it belongs to."""

    plan: LayerPlan
    index: int
    model: ModelState

    def __post_init__(self) -> None:
        """Look up what every call asks for."""
        self.name, self.group, self.planned = self.plan.name, self.plan.kind.group, self.plan
        self.learner: Learner | None = None
        self.set_bits(self.model.bits)

    def set_bits(self, bits: int | None) -> None:
        """Run weights and activations in so many bits, None for those of the plan."""
        self.bits = bits
        self.plan = self.planned if bits is None else self.planned.at_bits(bits)
        self._precisions = {
            (role, dtype): None if is_identity(self.plan[role].format, dtype) else self.plan[role]
            for role in TENSOR_ROLES
            for dtype in _CARRIERS
        }
        self._plain = frozenset(
            dtype
            for dtype in _CARRIERS
            if self.plan.accumulator is None
            and all(self._precisions[role, dtype] is None for role in TENSOR_ROLES)
        )
        self.ways: dict[Compute, bool] = {}
        """Whether its products are computed in a way, as far as it was asked; see ``ways``."""

    @property
    def tell(self) -> Teller | None:
        """What is called with role, before, after and precision of each rounding, see ``watch``."""
        tell = self.model.tell
        return None if tell is None else partial(tell, self.plan.name)

    def is_plain(self, dtype: torch.dtype) -> bool:
        """Whether tensors of a dtype pass through the layer as they are."""
        return dtype in self._plain and self.model.tell is None

    @property
    def is_random_forward(self) -> bool:
        """Whether weights, activations, biases or sums are rounded stochastically."""
        roles = [self.plan[role] for role in ("weight", "activation", "bias")]
        if self.plan.accumulator is not None:
            roles.append(self.plan.accumulator.precision)
        return any(p.rounding is Rounding.STOCHASTIC for p in roles)

    def precision(self, role: str, dtype: torch.dtype) -> Precision | None:
        """Return what a role of a dtype is rounded to, None if it is left as it is."""
        return self._precisions[role, dtype]

    def key(self, precision: Precision | None, stream: str, call: int) -> Key | TracedKey | None:
        """Return the random key of a tensor of the layer's ``call``-th product of this forward."""
        if precision is None or precision.rounding is not Rounding.STOCHASTIC:
            return None
        if torch.compiler.is_compiling():
            return TracedKey(self.model.random.tensor, self._number(stream, call))
        return self._key(stream, call)

    def product_key(self, call: int) -> Key:
        """Return the random key of what belongs to a product itself, not to a tensor."""
        return self._key("product", call)

    def _key(self, stream: str, call: int) -> Key:
        seed, step = self.model.random.numbers
        return Key(seed, self._number(stream, call), step)

    def _number(self, stream: str, call: int) -> int:
        number = self.index * STREAMS_PER_LAYER + STREAMS[stream]
        return number + call % _MOST_CALLS * _CALL

    def round(
        self,
        x: Tensor,
        call: int,
        forward: str | None = None,
        backward: str | None = None,
        *,
        stream: str | None = None,
        back_stream: str | None = None,
        kept: Kept | None = None,
    ) -> Tensor:
        """Round a tensor to one role going forward, its gradient to another going back.

        Args:
            x: the tensor.
            call: number of the product among the layer's.
            forward: role of the result, None to leave it.
            backward: role of the gradient with respect to ``x``, None to leave it.
            stream: random stream, if not that of the role.
            back_stream: likewise going back.
            kept: notes the codes of the result, for autograd to save.
        """
        y = self._round(x, call, forward, backward, stream, back_stream, kept)
        if self.learner is None or forward is None:
            return y
        return self.learner.follow(x, y, self.plan[forward].format)

    def _round(
        self,
        x: Tensor,
        call: int,
        forward: str | None,
        backward: str | None,
        stream: str | None,
        back_stream: str | None,
        kept: Kept | None,
    ) -> Tensor:
        ahead = self._followed(forward, x.dtype, stream or forward, call)
        back = self._followed(backward, x.dtype, back_stream or backward, call)
        if (tell := self.tell) is not None:
            x = self._tell(tell, x, forward, ahead, stream or forward, call)
            if backward is None or not x.requires_grad:
                return x
            name, key = back_stream or backward, self.key(back, back_stream or backward, call)
            planned = self.plan[backward]

            def told(before: Tensor, after: Tensor) -> None:
                tell(name, before, after, planned)

            return round_through(x, None, None, back, key, told=told)
        if ahead is None and back is None:
            return x
        key = self.key(ahead, stream or forward or "", call)
        back_key = self.key(back, back_stream or backward or "", call)
        if kept is None or ahead is None or isinstance(key, TracedKey):
            return round_through(x, ahead, key, back, back_key)
        waiting = kept.waiting(x, ahead, key, self.model.is_given(x))
        rounded = round_through(
            x, waiting if isinstance(waiting, Codes) else ahead, key, back, back_key
        )
        kept.add(rounded, waiting)
        return rounded

    def _followed(
        self, role: str | None, dtype: torch.dtype, stream: str | None, call: int
    ) -> Precision | None:
        """Return what a role is rounded to, under the scale of its history if scales are late."""
        precision = self.precision(role, dtype) if role else None
        scales = self.model.scales
        if scales is None or precision is None:
            return precision
        if torch.compiler.is_compiling():
            from .uncompiled import refuse_delayed

            refuse_delayed()
        step = self.model.random.numbers[1]
        return scales.follow(f"{self.name}.{stream}.{call}", precision, step)

    def _tell(
        self,
        tell: Teller,
        x: Tensor,
        role: str | None,
        ahead: Precision | None,
        stream: str | None,
        call: int,
    ) -> Tensor:
        if role is None or stream is None:
            return x
        after = round_through(x, ahead, self.key(ahead, stream, call))
        tell(role, x, after, self.plan[role])
        return after.view_as(after) if after is x else after  # a hook on a parameter would stay

    def round_weight(self, weight: Tensor, call: int, kept: Kept | None = None) -> Tensor:
        """Return Qw(w), with Qg behind it."""
        return self.round(weight, call, "weight", "gradient", kept=kept)

    def round_bias(self, bias: Tensor, call: int) -> Tensor:
        """Return Qb(b), with Qg behind it; a bias that is not rounded keeps its gradient too."""
        if self.precision("bias", bias.dtype) is None:
            return bias
        return self.round(bias, call, "bias", "gradient", back_stream="bias gradient")

    def round_out(self, y: Tensor, call: int) -> Tensor:
        """Return y, with Qe behind it."""
        return self.round(y, call, None, "error")


@dataclass
class Frame:
    """A module that is running.

    Args:
        name: its dotted name in the converted model.
        module: the module.
        layer: what it is under the plan, None for one that the plan has no word for.
        numbers: functions called so far, by word.
        given: what it was called with, of the whole model alone.
    """

    name: str
    module: nn.Module
    layer: LayerState | None
    numbers: dict[str, int] = field(default_factory=dict)
    given: tuple[object, ...] = ()


class ModelState:
    """What the modules of one converted model share."""

    def __init__(
        self,
        plan: Plan,
        random: RandomState,
        compute: Compute = Compute.EXACT,
        saved: Saved = Saved.CARRIER,
    ) -> None:
        self.plan, self.random, self.compute = plan, random, compute
        self.saves_codes = saved is Saved.NARROW
        late = plan.scaling.tensors == DELAYED
        self.scales = Scales(plan.scaling.history) if late else None
        """Histories of delayed scales, None if scales are those of the tensors at hand."""
        self.layers: dict[str, LayerState] = {}
        self.frames: list[Frame] = []
        self.calls: dict[str, int] = {}
        """Layer -> products so far in the forward pass that runs."""
        self.repeated: set[str] = set()
        """Layers that were called more than once in it."""
        self.order: list[str] | None = None
        """Layers in the order in which they multiply; collected during a trace."""
        self.weights: dict[str, list[Tensor]] = {}
        """Function -> parameters that it multiplies."""
        self.outputs: dict[str, int] = {}
        """Function -> size of its last axis."""
        self.tell: Callable[..., None] | None = None
        """Called with layer, role, before, after and precision of each rounding."""
        self.rounds = True
        self.bits: int | None = None
        """Of weights and activations while a schedule moves them, None for those of the plan."""
        self.left: dict[str, str] = {}
        """What cannot be converted -> why."""
        self.tags = Tags()
        self.inside = 0
        """How many functions of ``HANDLERS`` are running."""
        self.running: str | None = None
        """The layer whose product runs, or ran last."""
        self.was_seen = False
        """Whether a whole forward pass has run."""
        typed = {rule.type for rule in plan.layers}
        self.elementwise = frozenset(t for t in typed if t is not None)
        self.has_norm = bool(plan.norm)
        sections = (plan.default, plan.first, plan.classifier, plan.norm)
        said = {what for section in sections for what in section.values()}
        self.plan_rounds = bool(plan.layers) or not said <= {FP32}

    def speaks_of(self, group: Group, kind: str) -> bool:
        """Whether the plan can say anything of a function of this kind."""
        if group is Group.PRODUCT or kind in self.elementwise:
            return True
        return group is Group.NORM and self.has_norm

    def is_idle(self, module: nn.Module) -> bool:
        """Whether a module can run unseen: the plan rounds nothing, and nobody looks on."""
        if self.plan_rounds or self.order is not None or self.tell is not None:
            return False
        first = next(module.parameters(), None)
        return first is not None and is_identity(FP32.format, first.dtype)

    def is_given(self, x: Tensor) -> bool:
        """Whether a tensor, or what it looks at, is a leaf that the model was called with.

        Its caller holds it, as a rule, and plain training would keep it too.
        """
        given = self.frames[0].given if self.frames else ()
        whole = x if x._base is None else x._base
        return whole.is_leaf and any(whole is one for one in given)

    def add(self, plan: LayerPlan, index: int) -> LayerState:
        """Take a layer in."""
        layer = self.layers[plan.name] = LayerState(plan, index, self)
        return layer

    def function(self, call: Call) -> LayerState:
        """Return the layer of a function, which is taken in when it is first called."""
        found = self.layers.get(call.name)
        if found is None:
            found = self.add(self.plan.layer(call), function_index(call.name))
        return found

    def tag(self, layer: LayerState, parameter: Tensor) -> None:
        """Note on a parameter what the plan says of it; of several layers the first counts.

        Raises:
            PlanError: if two layers would store one parameter in different formats.
        """
        if self.order is not None:  # a trace, whose layers have no plan yet
            return
        plan, kept = layer.plan, self.plan.optimizer
        is_bias = parameter.dim() == 1 and plan.kind.group is Group.PRODUCT
        role = "bias" if is_bias else "weight"
        stored = plan.stored(role, kept)
        note = ParameterPlan(stored, plan.gradient, *(kept.get(r) for r in BESIDE_ROLES))
        before = plan_of(parameter)
        if before is None:
            self.tags.add(parameter, note)
        elif before.parameter != note.parameter:
            raise PlanError(
                "plan",
                f"a parameter that {plan.name!r} shares gets {before.parameter} and"
                f" {note.parameter}",
                f"give {plan.name!r} and the other layer one {role} format",
            )

    def leave(self, word: str, why: str) -> None:
        """Note a function that stays as it is though it multiplies."""
        path = self.frames[-1].name if self.frames else ""
        self.left.setdefault(f"{path}/{word}" if path else word, why)

    def count(self, layer: LayerState, products: int = 1) -> int:
        """Return how many products the layer had in this forward pass before these."""
        name = layer.name
        number = self.calls.get(name, 0)
        self.calls[name] = number + products
        if number:
            self.repeated.add(name)
        if self.order is not None:
            self.order.append(name)
            self.running = name
        return number


def function_index(name: str) -> int:
    """Return a function's place among the random streams: of its name alone, behind all modules."""
    return _FIRST_FUNCTION + zlib.crc32(name.encode()) % _FUNCTIONS
