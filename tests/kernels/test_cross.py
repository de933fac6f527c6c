"""The native kernels on another processor, where a cross compiler and an emulator are there."""

from __future__ import annotations

import io
import os
import shutil
from itertools import islice
from pathlib import Path

import cross
import pytest
import torch
from cross_calls import Argument, calls, rounding_call
from native_checks import built

from limprec.formats import parse_precision

there = pytest.mark.skipif(
    not (
        os.environ.get("LIMPREC_CROSS")  # building takes a minute or more
        and shutil.which(cross.COMPILER.split()[0])
        and shutil.which(cross.RUNNER)
    ),
    reason=f"LIMPREC_CROSS is not set, no {cross.COMPILER.split()[0]} or no {cross.RUNNER}",
)


@there
@built
def test_the_same_bits_on_arm(tmp_path: Path) -> None:
    program = cross.build(tmp_path)
    some = islice(calls(), 0, None, 3)  # all of them take longer
    count, elements, faults = cross.compare(program, tmp_path, some)
    assert faults == []
    assert count > 2000
    assert elements > 5_000_000


def test_differences_are_seen_and_any_nan_is_one() -> None:
    want = torch.tensor([1.0, torch.nan, -0.0, 2.0])
    bits = want.view(torch.int32).clone()
    bits[1] ^= -(2**31) + 1  # another NaN
    assert cross.differences(cross.as_bytes(bits), want) == (0, "")
    bits[2] = 0
    assert cross.differences(cross.as_bytes(bits), want)[0] == 1
    bits[3] += 1
    wrong, first = cross.differences(cross.as_bytes(bits), want)
    assert wrong == 2
    assert first == "0.0, not -0.0, at 2 of torch.float32"
    small = torch.tensor([1.0, torch.nan]).to(torch.float8_e5m2)
    other = small.view(torch.int8).clone()
    other[1] ^= -128
    assert cross.differences(cross.as_bytes(other), small) == (0, "")
    other[0] += 1
    assert cross.differences(cross.as_bytes(other), small)[0] == 1


@built
def test_a_call_records_each_memory_once_and_touches_none() -> None:
    base = torch.arange(12.0).view(3, 4)
    before = base.clone()
    arguments: list[Argument] = [base[:, 1:], base[:, :3]]
    call = rounding_call("round_to_out", arguments, parse_precision("fx4.0"), 0)
    text, left = cross.record(call)
    assert torch.equal(base, before)
    assert [x.shape for x in left] == [(12,)]  # both arguments lie in it
    want = base[:, 1:].clamp(max=7)
    assert torch.equal(left[0].view(3, 4)[:, :3], want)
    file = io.BytesIO(text)
    assert file.read(8 + len(call.operator))[8:].decode() == "round_to_out"
