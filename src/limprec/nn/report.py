"""What became of a model: which layers run in what, and what could not be converted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..errors import ConversionError, ConversionWarning
from ..plan import LayerPlan, Plan, format_table
from .fitting import fits
from .place import PLACE, Place
from .state import Compute


@dataclass(frozen=True)
class ConversionReport:
    """What became of a model under conversion.

    Args:
        plan: the plan.
        layers: name -> what it runs in, for modules and for the functions that were seen so far.
        compute: how products are computed.
        elsewhere: layers that multiply in the carrier though ``compute`` asks for another way.
        left: what multiplies and stays as it is -> why.
    """

    plan: Plan
    layers: Mapping[str, LayerPlan]
    compute: Compute
    elsewhere: tuple[str, ...]
    left: Mapping[str, str]

    def __str__(self) -> str:
        """Return a table of the layers and a line for each thing that was left."""
        lines = [format_table(self.plan, self.layers), f"compute: {self.compute}"]
        if self.elsewhere:
            lines.append("in the carrier: " + ", ".join(self.elsewhere))
        lines += [f"not converted: {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


def conversion_report(model: nn.Module) -> ConversionReport:
    """Return what became of a converted model.

    Functions are known once a forward pass, or ``convert`` with ``example_inputs``, has seen them.

    Raises:
        ConversionError: if the model is not converted.
    """
    place: Place | None = getattr(model, PLACE, None)
    if place is None:
        raise ConversionError("report", "the model is not converted", "lp.convert(model, plan)")
    state = place.model
    plans = {name: layer.plan for name, layer in state.layers.items()}
    elsewhere: tuple[str, ...] = ()
    if state.compute is not Compute.EXACT:
        elsewhere = tuple(n for n, plan in plans.items() if not fits(state.compute, plan))
    return ConversionReport(state.plan, plans, state.compute, elsewhere, dict(state.left))


def warn_left(left: Mapping[str, str]) -> None:
    """Warn of what multiplies and stays as it is."""
    things = "; ".join(f"{name}: {why}" for name, why in left.items())
    warnings.warn(f"convert: not converted: {things}", ConversionWarning, stacklevel=3)
