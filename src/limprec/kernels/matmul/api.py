"""The door to products at accumulator precision: checks the arguments and picks the backend."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ...errors import KernelError
from ...formats import FixedPoint, FloatingPoint, Format, Rounding, parse_format, parse_rounding
from ..carrier import check_carrier
from ..dispatch import Backend
from ..random import Key
from . import native, reference
from .adder import check_format, check_sum, parse_adder
from .reference import Request

_PLAIN = (Tensor, torch.nn.Parameter)
MAX_TERMS = 2**31
"""Longest dot product; a stochastic rounding counts its terms in 32 bits."""
OPERAND_BITS = 26
OPERAND_RANGE = 2.0**250
"""What float64 operands may have, so that a float64 holds every product; float32 always has it."""


def matmul(
    a: Tensor,
    b: Tensor,
    accumulator: str | Format = "e5m10",
    product: str | Format | None = None,
    chunk: int | None = None,
    kahan: bool = False,
    rounding: str | Rounding = "nearest",
    seed: int | None = None,
    adder: str | None = None,
    out: Tensor | None = None,
    backend: Backend = Backend.AUTO,
) -> Tensor:
    """Multiply matrices as hardware with a narrow accumulator does, bit for bit.

    Shapes and broadcasting are those of ``torch.matmul``. With Q the rounding of an *exact* number
    to the accumulator and P to the product format, each element of the result is, for k = 0 to
    K - 1 in this order and acc = 0 before it:

    - without ``product``: acc = Q(acc + a[k] * b[k]), one rounding of the exact multiply-add;
    - with ``product``: acc = Q(acc + P(a[k] * b[k])), multiplier and adder round one after the
      other;
    - with ``chunk=n``: the above over n terms at a time, each from 0, and the sums of the chunks
      added in order, total = Q(total + part) from 0;
    - with ``kahan``: s and c from 0, and for x = a[k] * b[k] (or its P) the four operations
      y = Q(x - c), t = Q(s + y), d = Q(t - s), c = Q(d - y), then s = t. The sums of chunks are
      added in the same way, with an s and c of their own;
    - ``adder="tree"``: the terms of a chunk (of all K without one) are added in pairs of
      neighbours, then these sums in pairs, and so on; every node is Q(left + right), an input
      without a neighbour meets a zero. Without ``product`` the first level adds exact products;
    - ``adder="aligned:N:G"``: N terms at a time as matrix units do it, x[0..N-1] and acc together.
      With E the largest floor(log2 |.|) of them (at least the format's smallest normal exponent)
      and m its mantissa bits, each is truncated toward zero to a multiple of 2^(E - m - G), these
      are added exactly, and the sum is rounded once. Floating-point accumulators only.

    Args:
        a: float32, float64, bfloat16 or float16 tensor, (K), (M, K) or (..., M, K). Operands are
            taken as they are: quantize them first. float64 is for accumulators that float32 cannot
            carry; its values must have at most 26 significant bits and magnitudes of 2^-250 to
            2^250, so that products are exact.
        b: tensor of the same dtype and device, (K), (K, N) or (..., K, N).
        accumulator: a floating-point or fixed-point format, saturating or wrapping, of at most 50
            significant bits (20 for floats rounded stochastically) that the dtype can carry.
        product: the format that products are rounded to; None keeps them exact.
        chunk: terms in a partial sum, at least 1; None for one sum over all of them.
        kahan: whether to compensate; only with the sequential adder.
        rounding: the rounding of every Q and P, one of the six.
        seed: for ``stochastic``, 0 to 2^64 - 1. Each rounding takes the random word of the
            element's row-major index in the result, of the kind of the operation and of k (see
            ``reference``): neither threads nor blocking nor backend change a bit.
        adder: ``sequential`` (also None), ``tree`` or ``aligned:N:G``.
        out: where to write; shape, dtype and device of the result. May be ``a`` or ``b`` itself.
        backend: who computes; all give the same bits.

    Returns:
        ``out``, or a new tensor of the dtype of ``a``. An empty sum is 0. NaN and infinities
        propagate as in IEEE arithmetic and are then rounded as the format's docstring says: under
        ``kahan`` an overflow to infinity becomes NaN, as infinity minus infinity does. An exact sum
        of 0 is +0, unless both terms are -0. No gradient flows.

    Raises:
        FormatError: for an unknown format, or one that the dtype of ``a`` cannot carry.
        KernelError: for mismatched shapes, dtypes, devices or ``out``, ``chunk`` under 1, an
            unknown adder, a sum too wide to be simulated exactly, ``stochastic`` without a seed,
            operands whose products float64 cannot hold, or a backend that is not there.
    """
    mode = parse_rounding(rounding)
    fmt, into = _format("accumulator", accumulator, mode), None
    if product is not None:
        into = _format("product", product, mode)
    kind = parse_adder(adder)
    check_sum(fmt, mode, kind, kahan)
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise KernelError("matmul", f"chunk is {chunk!r}", "give at least 1 term, or None for all")
    if mode is Rounding.STOCHASTIC:
        if seed is None:
            raise KernelError("matmul", "stochastic rounding without a seed", "pass seed=0, say")
        Key(seed)
    shape = _check_operands(a, b)
    check_carrier(fmt, a.dtype, "matmul")
    if out is not None and (out.shape, out.dtype, out.device) != (shape, a.dtype, a.device):
        raise KernelError(
            "matmul",
            f"out is {out.dtype} {tuple(out.shape)} on {out.device},"
            f" the result {a.dtype} {tuple(shape)} on {a.device}",
            "give an out that matches",
        )
    who = _backend(backend, a)
    if seed is not None and seed >= 2**63:
        seed -= 2**64  # operators take signed integers
    # The operator is for compilers and the meta device; it costs more than a small product.
    real = type(a) in _PLAIN and type(b) in _PLAIN and a.device.type != "meta"
    run = _compute if real and not torch.compiler.is_compiling() else _accumulate
    with torch.no_grad():
        y: Tensor = run(
            a.detach(),
            b.detach(),
            _name(fmt),
            None if into is None else _name(into),
            chunk,
            bool(kahan),
            str(mode),
            seed or 0,
            str(kind),
            who,
        )
        return y if out is None else out.copy_(y)


@lru_cache(maxsize=1024)
def _name(fmt: Format) -> str:
    return str(fmt)


def _format(what: str, fmt: str | Format, mode: Rounding) -> FloatingPoint | FixedPoint:
    parsed = fmt if isinstance(fmt, Format) else parse_format(fmt)
    check_format(what, parsed, mode)
    assert isinstance(parsed, FloatingPoint | FixedPoint)
    return parsed


def _check_operands(a: Tensor, b: Tensor) -> torch.Size:
    """Refuse what cannot be multiplied; return the shape of the result."""
    for x in (a, b):
        if not isinstance(x, Tensor):
            raise KernelError("matmul", f"{type(x).__name__} is no tensor", "give a torch.Tensor")
        if x.ndim == 0:
            raise KernelError("matmul", "a tensor without dimensions", "give vectors or matrices")
    if (a.dtype, a.device) != (b.dtype, b.device):
        raise KernelError(
            "matmul",
            f"a is {a.dtype} on {a.device}, b is {b.dtype} on {b.device}",
            "bring both to one dtype and device",
        )
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    try:
        batch = _broadcast(a, b)
    except RuntimeError:
        batch = None
    if a.shape[-1] != inner or batch is None:
        raise KernelError(
            "matmul",
            f"shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit",
            "give (..., M, K) and (..., K, N) with batches that broadcast",
        )
    if inner > MAX_TERMS:
        raise KernelError("matmul", f"{inner} terms", f"give at most {MAX_TERMS}")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    return torch.Size((*batch, *rows, *columns))


def _backend(backend: Backend, a: Tensor) -> str:
    name = str(backend)
    if name == "auto":
        return "native" if a.device.type == "cpu" and native.is_there() else "reference"
    if name == "native":
        if native.missing() is not None:
            raise KernelError("matmul", f"no native kernel ({native.missing()})", native.REMEDY)
        if a.device.type not in ("cpu", "meta"):
            raise KernelError("matmul", f"no native kernel on {a.device}", "use Backend.REFERENCE")
    elif name != "reference":
        raise KernelError("matmul", f"no {name} kernel", "use Backend.AUTO")
    return name


def _compute(
    a: Tensor,
    b: Tensor,
    accumulator: str,
    product: str | None,
    chunk: int | None,
    kahan: bool,
    rounding: str,
    seed: int,
    adder: str,
    backend: str,
) -> Tensor:
    fmt = parse_format(accumulator)
    into = None if product is None else parse_format(product)
    assert isinstance(fmt, FloatingPoint | FixedPoint)
    assert into is None or isinstance(into, FloatingPoint | FixedPoint)
    mode = Rounding(rounding)
    request = Request(fmt, into, chunk, kahan, mode, seed % 2**64, parse_adder(adder))
    if a.dtype == torch.float64:
        _check_products(a)
        _check_products(b)
    shape = _check_operands(a, b)
    x, y = _as_batches(a, b)
    if backend == "native":
        z = native.matmul(x, y, request)
    else:
        z = reference.matmul(x.double(), y.double(), request)
    return z.to(a.dtype).reshape(shape)


_accumulate = torch.library.custom_op(
    "limprec::accumulating_matmul",
    _compute,
    mutates_args=(),
)


@_accumulate.register_fake
def _(a: Tensor, b: Tensor, *rest: object) -> Tensor:
    return a.new_empty(_check_operands(a, b))


def _as_batches(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Bring any operands to (B, M, K) and (B, K, N), in the same row-major order of the result."""
    a = a if a.ndim > 1 else a[None]
    b = b if b.ndim > 1 else b[:, None]
    if b.ndim == 2:  # rows of all batches, one after the other
        return a.reshape(1, math.prod(a.shape[:-1]), a.shape[-1]), b[None]
    batch = _broadcast(a, b)
    count = math.prod(batch)
    a = a.expand(*batch, *a.shape[-2:]).reshape(count, *a.shape[-2:])
    return a, b.expand(*batch, *b.shape[-2:]).reshape(count, *b.shape[-2:])


def _broadcast(a: Tensor, b: Tensor) -> torch.Size:
    if a.ndim <= 2 and b.ndim <= 2:
        return torch.Size()
    shapes = a.shape[:-2], b.shape[:-2]
    return torch.broadcast_shapes(*shapes)  # type: ignore[no-any-return,no-untyped-call]


def _check_products(x: Tensor) -> None:
    """Refuse float64 operands whose products a float64 might not hold exactly."""
    used = x[x.isfinite() & (x != 0)]
    fraction = torch.frexp(used).mantissa * 2.0**OPERAND_BITS
    bad = (fraction != fraction.trunc()) | (used.abs() > OPERAND_RANGE)
    bad |= used.abs() < 1 / OPERAND_RANGE
    if bad.any():
        value = float(used[bad][0])
        raise KernelError(
            "matmul",
            f"float64 operand {value!r} has over {OPERAND_BITS} significant bits or range",
            "quantize operands first, e.g. lp.quantize(x, 'fp32')",
        )
