"""What the tests of the native kernels share: tensors, and equality with the reference."""

import pytest
import torch
from torch import Tensor

from limprec.errors import FormatError
from limprec.formats import Format, Precision
from limprec.kernels import Key, check_carrier, native, reference
from limprec.kernels.native import Simd

built = pytest.mark.skipif(native.missing() is not None, reason=f"{native.missing()}")

LEVELS = [Simd(level) for level in range(1, native.best_simd() + 1)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
KEY = Key(2**64 - 12345, stream=7, step=9, offset=2**35 - 1001)


def integers(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def assert_same(got: Tensor, expected: Tensor, x: Tensor, what: object = "") -> None:
    """Same bits; any NaN equals any other."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    wrong = (integers(got) != integers(expected)) & ~(got.isnan() & expected.isnan())
    if wrong.any():
        i = int(wrong.flatten().nonzero()[0])
        a, b, c = (t.flatten()[i].item() for t in (x, got, expected))
        pytest.fail(f"{what}: {a!r} gave {b!r}, not {c!r}, at {i}; {int(wrong.sum())} wrong")


def fits(fmt: Format, dtype: torch.dtype) -> bool:
    try:
        check_carrier(fmt, dtype, "test")
    except FormatError:
        return False
    return True


def spread(dtype: torch.dtype, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    return (x * torch.exp2(torch.randint(-20, 20, (count,), generator=generator))).to(dtype)


def expected(x: Tensor, precision: Precision, key: Key | None = KEY) -> Tensor:
    """What the reference makes of a tensor."""
    bits = precision.random_bits
    return reference.quantize(x, precision.format, precision.rounding, key, random_bits=bits)


def layouts(dtype: torch.dtype) -> dict[str, Tensor]:
    x = spread(dtype, 6 * 7 * 24 * 12).view(6, 7, 24, 12)
    long = spread(dtype, 4 * 5 * 700).view(4, 5, 700)
    parts = spread(dtype, 2 * 301 * 3 * 2 * 24).view(2, 301, 3, 2, 24)[:, :, 1]
    return {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3),
        "reversed": x.permute(3, 2, 1, 0),
        "every other": x[:, ::2, 3:, ::3],
        "one column": x[..., 5],
        "expanded": x[:, :1].expand(6, 7, 24, 12),
        "windows": x.view(-1).unfold(0, 5, 2)[:301],
        "parts": parts,
        "heads of parts": parts.transpose(1, 2),
        "turned heads": parts.permute(0, 2, 3, 1),
        "scalar": x[0, 0, 0, 0],
        "long runs": long.transpose(1, 2).contiguous().transpose(1, 2),
        "empty": x[:, :0],
    }
