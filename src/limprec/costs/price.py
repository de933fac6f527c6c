"""What the operations of a trace cost in the formats of one training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..formats import Format, Precision, parse_format
from ..plan import LayerPlan
from .account import Account
from .storage import Storage, Tensors, stored_bits
from .work import Elementwise, Operand, Parameter, Product, Saved, Trace

_FP32, _BF16 = parse_format("fp32"), parse_format("bf16")
_BACKWARD = 2
"""Element-wise work going back, in units of that going forward: an assumption."""


@dataclass(frozen=True)
class Setting:
    """The formats of one training.

    Args:
        name: of the plan or baseline.
        layers: what products run in.
        stored: what the optimizer stores by; differs where a schedule moves the forward bits.
        kept: what the plan says of the optimizer.
        carrier: of what no plan speaks of.
        storage: how the optimizer keeps things.
    """

    name: str
    layers: Mapping[str, LayerPlan]
    stored: Mapping[str, LayerPlan]
    kept: Mapping[str, Precision]
    carrier: Format
    storage: Storage

    def tensors(self, parameter: Parameter) -> Tensors:
        """Return what is kept for a parameter."""
        plan = self.stored.get(parameter.layer)
        return self.storage.tensors(parameter, plan, self.kept, self.carrier)

    def activation_bits(self, saved: Saved) -> float:
        """Return the bits in which a saved tensor is kept: the widest that a layer asks for."""
        if not saved.is_floating:
            return 8 * saved.itemsize
        plans = [self.layers.get(layer) for layer in saved.layers] or [None]
        return max(stored_bits(p.activation.format if p else self.carrier) for p in plans)


def price(
    found: Trace, setting: Setting, books: Account, *, share: float = 1.0, fused: bool = True
) -> None:
    """Enter a whole step in the books.

    Args:
        found: the step.
        setting: its formats.
        books: where it is counted.
        share: of the parameters that this device updates.
        fused: whether element-wise work moves nothing of its own.
    """
    for product in found.products:
        _price_product(product, setting, books)
    for work in found.elementwise:
        _price_elementwise(work, setting.carrier, books, fused)
    for parameter in found.parameters:
        if parameter.is_trained:
            _price_update(parameter, setting, books, share)


def _price_product(p: Product, setting: Setting, books: Account) -> None:
    """Price a product going forward, and one for each operand that needs a gradient."""
    plan = setting.layers.get(p.layer)
    roles = ("activation", "weight", "error", "gradient")
    formats = {role: plan[role].format if plan else setting.carrier for role in roles}

    def role(operand: Operand) -> str:
        return "weight" if operand.is_weight else "activation"

    def read(operand: Operand, times: int) -> None:
        books.move(p.layer, role(operand), operand.elements, formats[role(operand)], times)

    left, right = formats[role(p.left)], formats[role(p.right)]
    sums = plan.accumulator if plan else None
    books.multiply_add(p.layer, "activation", left, right, p.macs * p.forwards, sums)
    read(p.left, p.forwards)
    read(p.right, p.forwards)
    books.move(p.layer, "activation", p.results, formats["activation"], p.forwards)
    for operand, other in ((p.left, p.right), (p.right, p.left)):
        if operand.needs_gradient:
            result = "gradient" if operand.is_weight else "error"
            factors = formats["error"], formats[role(other)]
            books.multiply_add(p.layer, result, *factors, p.macs, sums)
            books.move(p.layer, "error", p.results, formats["error"])
            read(other, 1)
            books.move(p.layer, result, operand.elements, formats[result])


def _price_elementwise(work: Elementwise, carrier: Format, books: Account, fused: bool) -> None:
    times = work.forwards + _BACKWARD * work.needs_gradient
    books.multiply(work.layer, "element-wise", carrier, carrier, work.multiplies * times)
    books.add(work.layer, "element-wise", carrier, work.adds * times)
    if not fused:
        for elements in work.tensors:
            books.move(work.layer, "element-wise", elements, carrier, times)


def _price_update(parameter: Parameter, setting: Setting, books: Account, share: float) -> None:
    """Price the optimizer's step: float32 arithmetic, all read and all but gradients written."""
    layer = parameter.layer
    multiplies, adds, macs = setting.storage.arithmetic(parameter)
    books.multiply(layer, "parameter", _FP32, _FP32, multiplies * share)
    books.add(layer, "parameter", _FP32, adds * share)
    books.multiply_add(layer, "parameter", _BF16, _BF16, macs * share)
    kept = setting.tensors(parameter)
    nbytes = kept.bytes_by_role()
    books.move_bytes(layer, "gradient", nbytes["gradient"], share)
    for role in ("parameter", "compensation"):
        books.move_bytes(layer, role, nbytes[role], 2 * share)
    for state in kept.states:
        books.move_bytes(layer, "state", state, 2 * share)
