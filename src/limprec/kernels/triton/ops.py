"""The operators ``torch.ops.limprec.triton_*``: what the compiler sees of the kernels.

Triton and the kernels are imported when one of them first runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULTS = "SymInt seed=0, SymInt stream=0, SymInt step=0, SymInt offset=0"
_LIBRARY = torch.library.Library("limprec", "FRAGMENT")  # type: ignore[no-untyped-call]


def _round(
    x: Tensor, text: str, seed: int = 0, stream: int = 0, step: int = 0, offset: int = 0
) -> Tensor:
    from .launch import round_into

    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    round_into(x, out, text, seed, stream, step, offset)
    return out


def _round_in_place(
    x: Tensor, text: str, seed: int = 0, stream: int = 0, step: int = 0, offset: int = 0
) -> None:
    from .launch import round_into

    round_into(x, x, text, seed, stream, step, offset)


def _round_to_out(
    x: Tensor,
    out: Tensor,
    text: str,
    seed: int = 0,
    stream: int = 0,
    step: int = 0,
    offset: int = 0,
) -> None:
    from .launch import round_into

    round_into(x, out, text, seed, stream, step, offset)


def _fresh(x: Tensor, *arguments: str | int, **named: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _nothing(*arguments: Tensor | str | int, **named: int) -> None:
    return None


for _schema, _run, _fake in (
    (f"triton_round(Tensor x, str text, {DEFAULTS}) -> Tensor", _round, _fresh),
    (f"triton_round_(Tensor(a!) x, str text, {DEFAULTS}) -> ()", _round_in_place, _nothing),
    (
        f"triton_round_out(Tensor x, Tensor(a!) out, str text, {DEFAULTS}) -> ()",
        _round_to_out,
        _nothing,
    ),
):
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema)  # type: ignore[no-untyped-call]
    for _key in ("CUDA", "CPU"):  # the CPU for Triton's interpreter
        _LIBRARY.impl(_name, _run, _key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"limprec::{_name}", _fake, lib=_LIBRARY)

ROUND = torch.ops.limprec.triton_round.default
ROUND_IN_PLACE = torch.ops.limprec.triton_round_.default
ROUND_TO_OUT = torch.ops.limprec.triton_round_out.default
