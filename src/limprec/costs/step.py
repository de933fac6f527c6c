"""Energy of the multiply-adds of one training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..formats import Format, parse_format
from ..plan import LayerPlan, Plan, find_layers
from .energy import HOROWITZ_45NM, EnergyTable, mac_energy
from .macs import count_macs


def step_energy(
    model: nn.Module,
    plan: Plan | None,
    input_shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    table: EnergyTable = HOROWITZ_45NM,
) -> float:
    """Return the joules that one training step's multiply-adds take, per sample.

    Every layer multiplies three times: activation by weight going forward, error by weight and
    error by activation going back; the first layer needs no error for its input. Integer products
    are added in int32, others in fp32. Element-wise work and memory traffic are not counted.

    Args:
        model: the network, converted or not; it is left as it was.
        plan: the formats of the operands, None for fp32 throughout.
        input_shape: one sample's shape, without the batch.
        dtype: dtype of the input (int64 for tokens).
        table: picojoules per operation.

    Raises:
        CostError: if the shapes cannot be traced.
        PlanError: if the plan does not fit the model.
    """
    macs = count_macs(model, tuple(input_shape), dtype=dtype)
    layers = plan.resolve(model) if plan else dict.fromkeys(find_layers(model))
    picojoules = 0.0
    for index, (name, layer) in enumerate(layers.items()):
        picojoules += macs[name] * _layer_energy(layer, index == 0, table)
    return picojoules * 1e-12


def _layer_energy(layer: LayerPlan | None, is_first: bool, table: EnergyTable) -> float:
    """Return picojoules per forward multiply-add of the three products of a layer."""
    products: list[tuple[Format, Format]]
    if layer is None:
        fp32 = parse_format("fp32")
        products = [(fp32, fp32)] * 3
    else:
        a, w, e = layer.activation.format, layer.weight.format, layer.error.format
        products = [(a, w), (e, a), (e, w)]
    return sum(mac_energy(x, y, table=table) for x, y in products[: 2 if is_first else 3])
