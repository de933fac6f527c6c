"""Tensors in real bits: each element takes as many bits as its format has, and no more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FormatError, KernelError
from ..formats import (
    NVFP4,
    Affine,
    DynamicFixedPoint,
    DynamicFloatingPoint,
    Format,
    Microscaling,
    Precision,
    Rounding,
    ScalarFormat,
    ScaledFormat,
    parse_format,
    with_rounding,
)
from ..kernels.carrier import check_carrier
from ..kernels.codes import decode, encode
from ..kernels.dispatch import round_to
from ..kernels.random import Key
from ..kernels.reference import parts
from ..kernels.scaled import Parts, join


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor in the real bits of its format.

    Args:
        codes: uint8, one dimension. The words of the elements in row-major order, each in
            ``format.bits`` bits, without gaps: bit b of word i is bit (i * bits + b) % 8 of byte
            (i * bits + b) // 8, the least significant first. Words of 8, 16, 32 or 64 bits are thus
            little-endian numbers, and of two 4-bit words the first lies in the lower half.
        format: the format. A word is what ``encode`` of its (element) format says, for floats the
            encoding of ml_dtypes.
        shape: the shape of the tensor.
        dtype: the dtype that it had, and gets back.
        scales: one entry a group. Dynamic fixed point: exponents of the LSB, int16; dynamic
            floating point: of the scale. MX: e8m0 codes,
            uint8. NVFP4: e4m3 codes, uint8, and the tensor's scale, float32. Affine: scales,
            float32, and zero points, int32 (``real``: float32 minima). Otherwise empty.
    """

    codes: Tensor
    format: Format
    shape: tuple[int, ...]
    dtype: torch.dtype
    scales: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + sum(s.nbytes for s in self.scales)


def pack(
    x: Tensor,
    fmt: str | Format,
    rounding: str | Rounding | None = None,
    *,
    seed: int | None = None,
    stream: int = 0,
    step: int = 0,
) -> Packed:
    """Put a tensor into the real bits of a format.

    Args:
        x: float32, float64, bfloat16 or float16 tensor of any shape, empty ones included.
        fmt: the format or its short name.
        rounding: None: ``x`` holds values of the format already, and ``unpack`` gives it back
            exactly (-0 as 0 where the format has no -0). A rounding: ``x`` is rounded on the way,
            and ``unpack`` gives what ``quantize`` would have. Formats whose scale is no power of
            two (NVFP4, affine) are best packed this way, since the scales of a rounded tensor need
            not be those it was rounded with.
        seed: for ``stochastic``, as for ``quantize``.
        stream: as for ``quantize``.
        step: as for ``quantize``.

    Raises:
        FormatError: if an element is no value of the format (NaN where it has no code for it, an
            infinity where it has none), with its row-major place; or if the dtype cannot carry
            the format.
        KernelError: for a wrong dtype, a missing axis, or ``stochastic`` without a seed.
    """
    fmt = parse_format(fmt) if isinstance(fmt, str) else fmt
    check_carrier(fmt, x.dtype, "pack")
    nearest = Precision(fmt)
    precision = nearest if rounding is None else with_rounding(nearest, rounding)
    key = None
    if precision.rounding is Rounding.STOCHASTIC:
        if seed is None:
            raise KernelError("pack", "stochastic rounding without a seed", "pass seed=0, say")
        key = Key(seed, stream, step)
    x = x.detach()
    if isinstance(fmt, ScaledFormat):
        split = parts(x, fmt, precision.rounding, key, random_bits=precision.random_bits)
        back = join(split, fmt).to(x.dtype)
        nan = back.isnan()
        wrong = nan & (not fmt.has_nan)
        if rounding is None:
            wrong |= (back != x) & ~(nan & x.isnan())
        words, _ = encode(torch.where(nan, 0.0, split.elements), fmt.element)
        scales = _store_scales(split.scales, fmt)
    else:
        assert isinstance(fmt, ScalarFormat)
        if rounding is not None:
            x = round_to(x, precision, key)
        words, wrong = encode(x, fmt)
        scales = ()
    _refuse(x, wrong, fmt)
    return Packed(pack_words(words, fmt.bits), fmt, tuple(x.shape), x.dtype, scales)


def unpack(packed: Packed) -> Tensor:
    """Return the tensor that was packed: its values, shape and dtype."""
    fmt, count = packed.format, math.prod(packed.shape)
    words = unpack_words(packed.codes, fmt.bits, count).view(packed.shape)
    if isinstance(fmt, ScaledFormat):
        elements = decode(words, fmt.element)
        return join(Parts(elements, _load_scales(packed.scales, fmt)), fmt).to(packed.dtype)
    assert isinstance(fmt, ScalarFormat)
    return decode(words, fmt).to(packed.dtype)


def pack_words(words: Tensor, bits: int) -> Tensor:
    """Put words (int64, 0 to 2^bits - 1) side by side: uint8, the order as ``Packed`` says."""
    words = words.reshape(-1)
    if bits in _WHOLE:
        return words.to(_WHOLE[bits]).view(torch.uint8)
    size = (words.numel() * bits + 7) // 8
    words = torch.nn.functional.pad(words, (0, -words.numel() % 8)).view(-1, 8)
    out = words.new_zeros((words.shape[0], bits), dtype=torch.uint8)
    for byte, word, shift in _overlaps(bits):
        piece = words[:, word] << shift if shift >= 0 else words[:, word] >> -shift
        out[:, byte] |= (piece & 0xFF).to(torch.uint8)
    return out.view(-1)[:size].clone()


def unpack_words(codes: Tensor, bits: int, count: int) -> Tensor:
    """Return ``count`` words of ``bits`` bits as int64; the inverse of ``pack_words``.

    Raises:
        FormatError: if there are not as many bytes as that takes.
    """
    size = (count * bits + 7) // 8
    if codes.dtype != torch.uint8 or codes.numel() != size:
        raise FormatError(
            "unpack",
            f"{codes.numel()} elements of {codes.dtype}",
            f"{count} words of {bits} bits are {size} of torch.uint8",
        )
    if bits in _WHOLE:
        words = codes.contiguous().view(_WHOLE[bits]).to(torch.int64)
        return words & ((1 << bits) - 1) if bits < 64 else words
    groups = torch.nn.functional.pad(codes, (0, -codes.numel() % bits)).view(-1, bits)
    out = groups.new_zeros((groups.shape[0], 8), dtype=torch.int64)
    for byte, word, shift in _overlaps(bits):
        piece = groups[:, byte].to(torch.int64)
        out[:, word] |= piece >> shift if shift >= 0 else piece << -shift
    return (out & ((1 << bits) - 1)).view(-1)[:count]


_WHOLE = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
"""Dtypes whose memory is the words themselves."""


def _overlaps(bits: int) -> list[tuple[int, int, int]]:
    """Return which bytes share bits with which of eight words: byte = word << shift."""
    pairs = [(byte, word) for byte in range(bits) for word in range(8)]
    return [
        (byte, word, word * bits - byte * 8)
        for byte, word in pairs
        if word * bits < byte * 8 + 8 and byte * 8 < (word + 1) * bits
    ]


def _store_scales(scales: tuple[Tensor, ...], fmt: ScaledFormat) -> tuple[Tensor, ...]:
    if isinstance(fmt, DynamicFixedPoint | DynamicFloatingPoint):
        return (scales[0].to(torch.int16),)
    if isinstance(fmt, Microscaling):
        return ((scales[0] + 127).to(torch.uint8),)
    if isinstance(fmt, NVFP4):
        return encode(scales[0], fmt.scale)[0].to(torch.uint8), scales[1]
    assert isinstance(fmt, Affine)
    step, zero = scales
    return step, zero if fmt.zero == "real" else zero.to(torch.int32)


def _load_scales(scales: tuple[Tensor, ...], fmt: ScaledFormat) -> tuple[Tensor, ...]:
    if isinstance(fmt, DynamicFixedPoint | DynamicFloatingPoint):
        return (scales[0].to(torch.int64),)
    if isinstance(fmt, Microscaling):
        return (scales[0].to(torch.int64) - 127,)
    if isinstance(fmt, NVFP4):
        return decode(scales[0].to(torch.int64), fmt.scale).to(torch.float32), scales[1]
    return scales[0], scales[1].to(torch.float32)


def _refuse(x: Tensor, wrong: Tensor, fmt: Format) -> None:
    """Name the first element that is no value of the format."""
    if not bool(wrong.any()):
        return
    if isinstance(fmt, ScaledFormat) and bool((wrong & ~x.isfinite()).any()):
        wrong = wrong & ~x.isfinite()  # it took the rest of its group along
    first = int(wrong.flatten().to(torch.uint8).argmax())
    value = float(x.flatten()[first])
    remedy = f"round it first, lp.quantize(x, '{fmt}'), or give pack a rounding"
    if not math.isfinite(value):
        remedy = "choose a format that has it, or see where it came from"
    elif isinstance(fmt, ScaledFormat):
        remedy = "give pack a rounding, e.g. rounding='nearest'"
    raise FormatError("pack", f"element {first} is {value!r}, no value of {fmt}", remedy)
