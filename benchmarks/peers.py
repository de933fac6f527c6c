"""What other packages do of the same work, on the CPU: roundings and products, behind one door.

Each peer is imported when it is asked for; one that is not there is a line for the report.
QPyTorch and mptorch compile C++ as they are imported: they need ninja and a compiler.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]
Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A package and what it can do of our work.

    Args:
        name: with its version.
        roundings: short name of a precision of ours -> the peer's rounding of a float32 tensor,
            which makes its output. No peer lets the number of random bits be chosen.
        products: name of a case of ``benchmarks.accumulate`` -> the peer's product.
    """

    name: str
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)


def peers() -> tuple[list[Peer], list[str]]:
    """Return the peers that are there, and a line for each that is not."""
    found, missing = [], []
    for make in (_qpytorch, _mptorch, _ml_dtypes, _casts, _eager, _compiled, _half):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs
                found.append(make())
        except Exception as error:  # an import that compiles can fail in any way
            why = (str(error).splitlines() or [""])[0][:100]
            missing.append(f"{str(make.__doc__)[:-1]} is left out ({type(error).__name__}: {why}).")
    return found, missing


def _named(name: str, package: str) -> str:
    try:
        return f"{name} {version(package)}"
    except PackageNotFoundError:
        return name


def _qpytorch() -> Peer:
    """QPyTorch."""
    from qtorch.quant import block_quantize, fixed_point_quantize, float_quantize

    roundings: dict[str, Rounding] = {}
    for ours in ("nearest", "stochastic", "stochastic16"):
        mode = ours.removesuffix("16")
        roundings |= {
            f"e5m2:{ours}": lambda x, m=mode: float_quantize(x, 5, 2, rounding=m),
            f"fx8.4:{ours}": lambda x, m=mode: fixed_point_quantize(x, 8, 4, rounding=m),
            f"dfx8:{ours}": lambda x, m=mode: block_quantize(x, 8, dim=-1, rounding=m),
        }
    return Peer(_named("QPyTorch", "qtorch"), roundings)


def _mptorch() -> Peer:
    """mptorch."""
    from mptorch.quant import float_mm, float_quantize

    def product(a: Tensor, b: Tensor, fma: bool = True, compensated: bool = False) -> Tensor:
        return float_mm(  # type: ignore[no-any-return]
            a, b, man_add=10, exp_add=5, man_mul=10, exp_mul=5, rounding="nearest", fma=fma,
            subnormals=True, saturate=False, compensated=compensated,
        )  # fmt: skip

    return Peer(
        _named("mptorch", "mptorch"),
        {
            "e5m2": lambda x: float_quantize(x, exp=5, man=2, rounding="nearest"),
            "e5m2:stochastic": lambda x: float_quantize(x, exp=5, man=2, rounding="stochastic"),
        },
        {
            "e5m10, every multiply-add rounded": product,
            "e5m10, product rounded, then the sum": lambda a, b: product(a, b, fma=False),
            "e5m10, Kahan": lambda a, b: product(a, b, fma=False, compensated=True),
        },
    )


def _ml_dtypes() -> Peer:
    """ml_dtypes."""
    import ml_dtypes
    import numpy as np

    def cast(x: Tensor, dtype: type) -> Tensor:
        return torch.from_numpy(x.numpy().astype(dtype).astype(np.float32))

    return Peer(
        _named("ml_dtypes", "ml_dtypes"),
        {
            "e5m2": lambda x: cast(x, ml_dtypes.float8_e5m2),
            "e4m3": lambda x: cast(x, ml_dtypes.float8_e4m3fn),
            "bf16": lambda x: cast(x, ml_dtypes.bfloat16),
        },
    )


def _casts() -> Peer:
    """PyTorch's own casts, there and back."""
    dtypes = {
        "e5m2": torch.float8_e5m2,
        "e4m3": torch.float8_e4m3fn,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }
    return Peer(
        "PyTorch, casts",
        {name: lambda x, d=dtype: x.to(d).to(torch.float32) for name, dtype in dtypes.items()},  # type: ignore[misc]
    )


def _half() -> Peer:
    """PyTorch's float16."""
    products = {"e5m10, product rounded, then the sum": sum_outer_products}
    return Peer("PyTorch, outer products in float16", products=products)


def sum_outer_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum the outer products of columns and rows in float16, each operation rounded."""
    a, b = a.half(), b.half()
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float16)
    for k in range(a.shape[1]):
        total += a[:, k, None] * b[k]
    return total.float()


def plain_e5m2(x: Tensor) -> Tensor:
    """Round to e5m2 in plain PyTorch, as most people's code does: scale, round, clamp, scale."""
    exponent = torch.frexp(x).exponent.clamp(min=-13)
    step = torch.ldexp(torch.ones_like(x), exponent - 3)
    return (torch.round(x / step) * step).clamp(-57344.0, 57344.0)


def _eager() -> Peer:
    """Plain PyTorch, eager."""
    return Peer("PyTorch, plain", {"e5m2": plain_e5m2})


def _compiled() -> Peer:
    """Plain PyTorch, torch.compile."""
    compiled = torch.compile(plain_e5m2, dynamic=False)
    compiled(torch.randn(2**24))  # here a missing compiler shows
    return Peer("PyTorch, plain, torch.compile", {"e5m2": compiled})
