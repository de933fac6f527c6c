"""``cost``: energy and memory of a training step, from a trace, a plan and an energy table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ..errors import CostError
from ..formats import parse_format
from ..kernels import storage_format
from ..plan import Plan
from .account import Account
from .cyclic import Schedule, schedule_cost
from .layouts import Layout
from .price import Setting, price
from .result import Cost
from .storage import PLAN, Storage, Tensors
from .tables import HOROWITZ_45NM, EnergyTable, energy_table
from .tracing import Loss, trace
from .work import Parameter, Saved, Trace

_FP32, _BF16 = parse_format("fp32"), parse_format("bf16")
_OUTSIDE = (
    "rounding itself, its random bits and the scales' arithmetic",
    "bias additions and their gradients",
    "control, clocks, leakage, idle units, operands fetched more than once",
    "the input pipeline and the host",
)
Baseline = Literal["fp32", "bf16"]


def cost(
    model: nn.Module,
    plan: Plan | None,
    input_shape: Sequence[int],
    batch: int = 1,
    *,
    technology: EnergyTable | str | Path = HOROWITZ_45NM,
    optimizer: str = "sgd-momentum",
    writeback: str | None = None,
    format: str | None = PLAN,
    state_format: str | None = None,
    compensation_format: str | None = None,
    carrier: str | None = None,
    accumulator: str | None = None,
    steps: int | None = None,
    schedule: Schedule | None = None,
    devices: int = 1,
    shard: str = "none",
    loss: Loss | None = None,
    dtype: torch.dtype | None = None,
    recompute: Sequence[str] = (),
    fused_attention: bool = True,
    fused_elementwise: bool = True,
    residence: Mapping[str, str] | None = None,
    against: Sequence[Baseline] = ("fp32", "bf16"),
) -> Cost:
    """Return what a training step costs in energy and memory, without running it.

    The model runs once forward on the meta device. Counted are all products going forward and
    back, element-wise work, the optimizer's step, and each tensor once wherever it is read or
    written, in the smallest memory of the technology that holds it whole; docs/cost.md has the
    formulas and what they leave out.

    Args:
        model: takes one tensor, batch first; on any device, meta too; converted or not; it is
            left as it is.
        plan: the formats; layers and roles that it does not name run in ``carrier``.
        input_shape: shape of one sample, without the batch.
        batch: samples of a step on each device.
        technology: ``45nm``, ``7nm``, a table or a TOML file.
        optimizer: ``sgd``, ``sgd-momentum``, ``adam``, ``adamw``, ``rmsprop``, ``lion``,
            ``adafactor`` or ``muon``.
        writeback: ``nearest``, ``stochastic``, ``kahan``, ``lazy``, ``master`` or ``split``; None
            means ``kahan`` under a plan and ``nearest`` without one.
        format: of stored parameters: ``plan``, None for the carrier, or a name.
        state_format: of the optimizer's states, as the optimizers take it; None for the plan's
            ``momentum``, else the parameter's, second moments in bf16 if that has 16 bits or fewer.
        compensation_format: of what ``kahan`` and ``lazy`` keep; None for the plan's, else the
            parameter's; also ``ulp8`` and ``ulp16``.
        carrier: format of what the plan does not speak of; None for the model's dtype.
        accumulator: format that all products are added in; None for the plan's of each layer (Kahan
            sums take four additions a term), where it has none int32 (integers) or fp32.
        steps: of the whole training, for the energy of the run.
        schedule: forward bits by step, e.g. ``lp.schedule.Cyclic(3, 8)``: weights and activations
            in dynamic fixed point or affine integers get these bits; needs ``steps``.
        devices: that train in parallel, each with ``batch`` samples.
        shard: ``none``, ``zero1``, ``zero2`` or ``zero3``: what each keeps a share of.
        loss: called with the model's output; None leaves the loss out, and ``outside`` says so.
        dtype: of the input; None means ``torch.long`` if an embedding comes first.
        recompute: name patterns of modules whose activations are computed again going back.
        fused_attention: whether the scores of ``scaled_dot_product_attention`` stay on the chip.
        fused_elementwise: whether element-wise work moves nothing of its own.
        residence: role -> memory, in place of the rule by size, e.g. ``{"weight": "SRAM 1 MB"}``.
        against: baselines: ``fp32``; ``bf16`` operands with a float32 master copy and states.

    Raises:
        CostError: for shapes that cannot be traced, a table without a needed entry, a format
            without a rule, or an unknown name.
        PlanError: if the plan does not fit the model.
        FormatError: for an unknown format.
    """
    prices, layout = energy_table(technology), Layout(devices, shard)
    if steps is not None and steps < 1:
        raise CostError("cost", f"steps is {steps}", "give 1 or more")
    if schedule is not None and (steps is None or plan is None):
        raise CostError("cost", "a schedule without plan or steps", "give both")
    name = writeback or ("nearest" if plan is None else "kahan")
    storage = Storage(optimizer, name, format, state_format, compensation_format)
    found = trace(
        model,
        input_shape,
        batch,
        dtype=dtype,
        loss=loss,
        fused_attention=fused_attention,
        recompute=recompute,
        plan=plan,
    )
    layers = {} if plan is None else plan.resolve(model, found.calls, found.last)
    layers = {name: layer for name, layer in layers.items() if layer.is_planned}
    setting = Setting(
        "no plan" if plan is None else plan.name,
        layers,
        layers,
        {} if plan is None else plan.optimizer,
        storage_format(found.dtype, "cost") if carrier is None else parse_format(carrier),
        storage,
    )
    sums = None if accumulator is None else parse_format(accumulator)
    outside = _outside(loss is None, layout)

    def result(setting: Setting, shares: Mapping[int, float] | None = None) -> Cost:
        books = Account(prices, sums, residence or {})
        for bits, share in (shares or {0: 1.0}).items():
            books.weight = share
            at_bits = _at_bits(setting, bits)
            price(found, at_bits, books, share=layout.share("state"), fused=fused_elementwise)
        memory = _memory(found, _at_bits(setting, max(shares or (0,))))
        whole = {p: setting.tensors(p) for p in found.parameters}
        return Cost(
            plan=setting.name,
            technology=prices,
            batch=batch,
            entries=books.entries(),
            macs=_macs(found),
            memory=memory,
            device_memory=layout.memory(memory, _largest_layer(whole)),
            communication=layout.communication(
                sum(t.bytes_by_role()["parameter"] for p, t in whole.items() if p.is_trained),
                memory["gradient"],
            ),
            devices=devices,
            steps=steps,
            fitted=tuple(books.fitted),
            approximate=tuple(books.approximate),
            outside=outside,
        )

    baselines: dict[str, Cost] = {b: result(_baseline(b, storage)) for b in against}
    if schedule is None:
        return replace(result(setting), against=baselines)
    assert steps is not None
    metric = schedule_cost(schedule, _error_bits(setting), steps)
    shares = {bits: count / steps for bits, count in metric.steps_at.items()}
    return replace(result(setting, shares), schedule=metric, against=baselines)


def step_energy(
    model: nn.Module,
    plan: Plan | None,
    input_shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    table: EnergyTable | str = HOROWITZ_45NM,
    schedule: Schedule | None = None,
    steps: int | None = None,
) -> float:
    """Return the joules that one training step's multiply-adds take, per sample.

    Element-wise work, memory traffic and the optimizer are not in it; ``cost`` has them.

    Args:
        model: the network, converted or not; it is left as it was.
        plan: the formats of the operands, None for those of the model's dtype.
        input_shape: one sample's shape, without the batch.
        dtype: dtype of the input (int64 for tokens).
        table: picojoules per operation.
        schedule: forward bits by step, over whose ``steps`` the mean is taken.
        steps: of the whole training; needed with a schedule.

    Raises:
        CostError: if the shapes cannot be traced.
        PlanError: if the plan does not fit the model.
    """
    batch = 2  # batch normalisation refuses to train on a single number
    found = cost(
        model,
        plan,
        input_shape,
        batch,
        technology=table,
        dtype=dtype,
        against=(),
        schedule=schedule,
        steps=steps,
    )
    return found.product_energy / batch


def _memory(found: Trace, setting: Setting) -> dict[str, float]:
    total = dict.fromkeys(("parameter", "compensation", "state", "gradient"), 0.0)
    for parameter in found.parameters:
        for role, nbytes in setting.tensors(parameter).bytes_by_role().items():
            total[role] += nbytes

    def kept(tensors: Sequence[Saved]) -> float:
        return sum(setting.activation_bits(s) * s.elements for s in tensors) / 8

    blocks = max((kept(block) for block in found.blocks), default=0.0)
    return {**total, "activation": kept(found.saved) + blocks, "buffer": float(found.buffer_bytes)}


def _largest_layer(tensors: Mapping[Parameter, Tensors]) -> float:
    layers: dict[str, float] = defaultdict(float)
    for parameter, kept in tensors.items():
        layers[parameter.layer] += kept.bytes_by_role()["parameter"]
    return max(layers.values(), default=0.0)


def _macs(found: Trace) -> dict[str, int]:
    macs = {"activation": 0, "error": 0, "gradient": 0}
    for p in found.products:
        macs["activation"] += p.macs * p.forwards
        for operand in (p.left, p.right):
            if operand.needs_gradient:
                macs["gradient" if operand.is_weight else "error"] += p.macs
    return macs


def _baseline(name: str, storage: Storage) -> Setting:
    if name == "fp32":
        return Setting(name, {}, {}, {}, _FP32, Storage(storage.optimizer, "nearest", None))
    if name == "bf16":
        states = None if storage.recipe.is_factored else "fp32"
        mixed = Storage(storage.optimizer, "master", None, states)
        return Setting(name, {}, {}, {}, _BF16, mixed)
    raise CostError("cost", f"unknown baseline {name!r}", "use fp32 and bf16")


def _at_bits(setting: Setting, bits: int) -> Setting:
    """Return the setting with forward integers of so many bits; 0 leaves them."""
    if not bits:
        return setting

    if not any(p.has_bits for p in setting.layers.values()):
        raise CostError(
            "cost",
            f"no layer of plan {setting.name!r} has forward bits to schedule",
            "give weights and activations in dynamic fixed point or affine integers",
        )
    return replace(setting, layers={n: p.at_bits(bits) for n, p in setting.layers.items()})


def _error_bits(setting: Setting) -> int:
    """Return the bits that most layers' errors have."""
    return Counter(p.error.format.bits for p in setting.layers.values()).most_common(1)[0][0]


def _outside(no_loss: bool, layout: Layout) -> tuple[str, ...]:
    words = ["the loss (none was given)"] if no_loss else []
    if layout.devices > 1:
        words.append("energy of the communication between devices")
    return (*words, *_OUTSIDE)
