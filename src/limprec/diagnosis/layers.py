"""What flows through the layers: activations, weights, errors and gradients as they are rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..formats import Precision
from ..kernels import dtype_format
from ..kernels.carrier import STORAGE_FORMATS
from ..nn import RoundingEvent, layer_plan, tells, watch_roundings
from ..plan import Accumulator, classifier_of, find_layers
from .accumulators import LayerSums, can_sum
from .findings import Row
from .softmax import SoftmaxTally
from .tensors import TensorTally


class LayerWatch:
    """Watches the layers of a model in the sampled steps.

    Converted layers tell of each rounding. Of other layers with parameters of their own the input
    and the error at the output are seen, in the format of their dtype.

    Args:
        model: the model.
        accumulator: what to judge on sampled dot products of its linear and convolution layers;
            None for what the plan gives each of them, if it does.
    """

    def __init__(self, model: nn.Module, accumulator: Accumulator | None) -> None:
        self._model = model
        self._tallies: dict[tuple[str, str], TensorTally] = {}
        self._formats: dict[tuple[str, str], str] = {}
        products = {n: m for n, m in find_layers(model).items() if can_sum(m)}
        self._classifier = classifier_of(model)
        self._softmax = SoftmaxTally()
        self._sums: dict[str, LayerSums] = {}
        for name, layer in products.items():
            plan = layer_plan(layer)
            if judged := accumulator or (plan and plan.accumulator):
                self._sums[name] = LayerSums(layer, judged)
        self._operands: dict[str, Tensor] = {}
        self._plain = {
            name: module
            for name, module in model.named_modules()
            if not tells(module) and any(True for _ in module.parameters(False))
        }
        self._converted = any(map(tells, model.modules()))

    def look(self, aside: Callable[[], bool]) -> Callable[[], None]:
        """Watch a step, except while ``aside()``; return what stops it."""
        stops = [watch_roundings(self._model, self._rounded)]
        stops += [
            module.register_forward_hook(self._passed(name, aside)).remove
            for name, module in self._plain.items()
        ]

        def stop() -> None:
            for one in stops:
                one()
            self._operands.clear()

        return stop

    def gradient(self, name: str, grad: Tensor) -> None:
        """Take a parameter's gradient, unless its rounding was told of."""
        tally = self._tallies.get((name, "gradient"))
        if tally is None or not tally.rounded:
            self._arrived(name, "gradient", grad)

    def rows(self) -> list[Row]:
        """Return a row for each role of each layer that was seen."""
        rows = []
        for key, tally in self._tallies.items():
            measures = tally.measures()
            if key == (self._classifier, "error"):
                measures |= self._softmax.measures()
            rows.append(Row(*key, self._formats[key], measures=measures))
        for name, sums in self._sums.items():
            for product, sum_tally in sums.tallies.items():
                if found := sum_tally.measures():
                    role = f"accumulator: {product}"
                    rows.append(Row(name, role, str(sums.accumulator), measures=found))
        return rows

    def notes(self) -> list[str]:
        """Return what could not be told."""
        notes = []
        if not self._converted:
            notes.append(
                "The model is not converted: what was lost before a tensor came in its dtype cannot"
                " be told (shadow=True compares gradients with float32)."
            )
        if not self._sums:
            notes.append(
                "The layers add as PyTorch does; accumulator='e5m10', say, judges a narrower sum."
            )
        return notes

    def _rounded(self, event: RoundingEvent) -> None:
        layer, role = event.layer, event.role
        if role in ("gradient", "bias gradient"):
            layer = f"{layer}.{'weight' if role == 'gradient' else 'bias'}"
            role = "gradient"
        self._tally(layer, role, event.precision, True).add(event.before, event.after)
        if (layer, role) == (self._classifier, "error"):
            before, after = event.before, event.after
            if isinstance(self._model.get_submodule(layer), nn.Conv2d):
                before, after = before.movedim(1, -1), after.movedim(1, -1)
            self._softmax.add(before, after)
        if event.layer in self._sums:
            self._operand(event.layer, event.role, event.after)

    def _operand(self, layer: str, role: str, value: Tensor) -> None:
        sums = self._sums[layer]
        if role == "activation":
            self._operands[layer] = value
        elif role == "weight" and layer in self._operands:
            sums.forward(self._operands.pop(layer), value)
        elif role == "error":
            sums.backward(value)

    def _passed(self, name: str, aside: Callable[[], bool]) -> Callable[..., None]:
        def passed(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if aside() or not torch.is_grad_enabled():
                return
            x = args[0] if args and isinstance(args[0], Tensor) else None
            if x is not None:
                self._arrived(name, "activation", x)
            if name in self._sums and x is not None:
                assert isinstance(module.weight, Tensor)
                self._sums[name].forward(x, module.weight)
            if isinstance(output, Tensor) and output.requires_grad:
                result: Any = output
                result.register_hook(lambda grad: self._error(name, grad))

        return passed

    def _error(self, name: str, grad: Tensor) -> None:
        self._arrived(name, "error", grad)
        if name in self._sums:
            self._sums[name].backward(grad)

    def _arrived(self, layer: str, role: str, value: Tensor) -> None:
        """Take a tensor that came in its format already."""
        if value.dtype in STORAGE_FORMATS and value.layout is torch.strided:
            precision = Precision(dtype_format(value.dtype, "diagnose"))
            self._tally(layer, role, precision, False).add(value, value)

    def _tally(self, layer: str, role: str, precision: Precision, rounded: bool) -> TensorTally:
        key = layer, role
        if key not in self._tallies:
            self._tallies[key] = TensorTally(precision.format, rounded=rounded)
            self._formats[key] = str(precision)
        return self._tallies[key]
