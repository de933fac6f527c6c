"""The Triton kernels of shared scales against the reference, run by ``test_triton`` as well."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton_checks import DEVICE, DTYPES, check, fits

from limprec.errors import KernelError
from limprec.formats import MAX_RANDOM_BITS, Precision, Rounding, parse_format, parse_precision
from limprec.kernels import Key, triton
from limprec.kernels.triton import runs

GROUPED = [
    *("dfx8c0", "dfx6c-1", "dfx4c1", "dfx8b4", "dfx5b3a0", "dfx16b32", "dfx25b8"),
    *("mxfp8_e4m3", "mxfp8_e5m2b8", "mxfp6_e3m2b5", "mxfp6_e2m3b2a0", "mxfp4_e2m1b3a-2"),
    *("mxint8", "mxint8b3a0", "nvfp4", "nvfp4b8", "nvfp4b3a0"),
    *("int8", "int8s", "int8m", "int4c0", "int4sc1", "int4mc-1", "int8b4", "int3sb3a0", "int16"),
]


@st.composite
def grouped_tensors(draw: st.DrawFn) -> Tensor:
    """Draw tensors whose numbers are near each other, far apart, zero, special or repeated."""
    shape = draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    shape = draw(st.sampled_from([shape, [2, 40], [3, 64], [33, 2]]))
    count = torch.Size(shape).numel()
    near = draw(st.sampled_from([-149, -140, -126, -120, -20, 0, 3, 100, 126]))
    seed, far = draw(st.integers(0, 2**32)), draw(st.sampled_from([1, 3, 20, 150]))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-(2**24), 2**24, (count,), generator=generator).double()
    if draw(st.booleans()):  # few significant bits: ties
        x = (x / 2.0**19).round() * 2.0**19
    x *= torch.exp2((near - 24 - torch.randint(0, far, (count,), generator=generator)).double())
    x[torch.rand(count, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.95]))] *= 0.0
    x = x.float()
    for special in draw(st.lists(st.sampled_from([torch.nan, torch.inf, -torch.inf]), max_size=2)):
        x[draw(st.integers(0, count - 1))] = special
    return x.view(shape)


@pytest.mark.parametrize("name", GROUPED)
@settings(max_examples=6, deadline=None)
@given(
    x=grouped_tensors(),
    rounding=st.sampled_from([*Rounding, Rounding.STOCHASTIC]),
    random_bits=st.sampled_from([32, 23, 16, 5]),
    offset=st.sampled_from([0, 8, 4, 3, 2**40 + 1]),
    dtype=st.sampled_from(DTYPES),
    tile=st.sampled_from([1024, 32]),
)
def test_shared_scales(
    name: str,
    x: Tensor,
    rounding: Rounding,
    random_bits: int,
    offset: int,
    dtype: torch.dtype,
    tile: int,
) -> None:
    fmt = parse_format(name)
    few = random_bits if rounding is Rounding.STOCHASTIC else MAX_RANDOM_BITS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "TILE", tile)  # small ones part the runs
        patch.setattr(runs, "STRIDED_WIDTH", tile // 8)
        x = x.to(dtype) if fits(fmt, dtype) else x
        check(x, Precision(fmt, rounding, few), Key(9, 1, 2, offset))


@pytest.mark.parametrize(
    "name", ["dfx8c0", "dfx8b3000", "mxfp8_e4m3b2048", "nvfp4", "int8", "int8m"]
)
def test_groups_wider_than_a_program(name: str) -> None:
    for shape, rounding in (((2, 1501), "nearest"), ((2200,), "stochastic16")):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
        check(x, parse_precision(f"{name}:{rounding}"), Key(3, offset=16))


def test_an_axis_that_is_not_there() -> None:
    with pytest.raises(KernelError, match=r"dfx8c2 needs axis 2, the tensor has shape \(2, 3\)"):
        triton.round_to(torch.ones(2, 3, device=DEVICE), parse_precision("dfx8c2"), None)
