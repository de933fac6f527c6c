"""Functions of PyTorch in terms of one product of two tensors, for arithmetic of another kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.matmul.bilinear import Bilinear, Matrices
from ..kernels.matmul.unfold import Convolution

Contract = Callable[[Tensor, Tensor, Bilinear], Tensor]
"""Returns op(a, b)."""
_ROWS, _PLAIN = Matrices(transposed=True), Matrices()


class Form(NamedTuple):
    """A function written with ``Contract``, and the names of the arguments that are a and b."""

    run: Callable[..., Tensor]
    a: str
    b: str


def matmul(contract: Contract, input: Tensor, other: Tensor) -> Tensor:
    """``torch.matmul``; where one factor is a single matrix, sums of its gradient run over all."""
    a = input[None] if input.dim() == 1 else input
    b = other[:, None] if other.dim() == 1 else other
    if b.dim() == 2:
        y = contract(a.flatten(0, -2), b, _PLAIN).view(*a.shape[:-1], b.shape[1])
    elif a.dim() == 2:
        columns = b.movedim(-2, 0)
        y = contract(a, columns.flatten(1), _PLAIN)
        y = y.view(a.shape[0], *columns.shape[1:]).movedim(0, -2)
    else:
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
        a, b = a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:])
        y = contract(a, b, _PLAIN)
    y = y.squeeze(-1) if other.dim() == 1 else y
    return y.squeeze(-1 if other.dim() == 1 else -2) if input.dim() == 1 else y


def _linear(
    contract: Contract, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    rows = input[None] if input.dim() == 1 else input.flatten(0, -2)
    matrix = weight[None] if weight.dim() == 1 else weight
    y = contract(rows, matrix, _ROWS).view(*input.shape[:-1], *weight.shape[:-1])
    return y if bias is None else y + bias


def _reversed(contract: Contract, input: Tensor, other: Tensor) -> Tensor:
    return matmul(contract, other, input)


def _mm(contract: Contract, input: Tensor, mat2: Tensor) -> Tensor:
    return matmul(contract, input, mat2)


def _mv(contract: Contract, input: Tensor, vec: Tensor) -> Tensor:
    return matmul(contract, input, vec)


def _dot(contract: Contract, input: Tensor, tensor: Tensor) -> Tensor:
    return matmul(contract, input, tensor)


def _addmm(
    contract: Contract,
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    return _added(input, matmul(contract, mat1, mat2), beta, alpha)


def _addmv(
    contract: Contract,
    input: Tensor,
    mat: Tensor,
    vec: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    return _added(input, matmul(contract, mat, vec), beta, alpha)


def _baddbmm(
    contract: Contract,
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    return _added(input, matmul(contract, batch1, batch2), beta, alpha)


def _addbmm(
    contract: Contract,
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    wide, tall = batch1.movedim(0, 1).flatten(1), batch2.flatten(0, 1)
    return _added(input, contract(wide, tall, _PLAIN), beta, alpha)


def _added(input: Tensor, y: Tensor, beta: float, alpha: float) -> Tensor:
    y = y if alpha == 1 else alpha * y
    if beta == 0:  # torch looks at no addend then, NaN or not
        return y
    return y + (input if beta == 1 else beta * input)


def _convolution(
    contract: Contract,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    dimensions = weight.dim() - 2
    x = input if input.dim() == weight.dim() else input[None]
    dilations = each(dilation, dimensions)
    if padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        x = F.pad(x, [n for w in reversed(whole) for n in (w // 2, w - w // 2)])
    zeros = 0 if isinstance(padding, str) else padding
    operation = Convolution(each(stride, dimensions), each(zeros, dimensions), dilations, groups)
    y = contract(x, weight, operation)
    y = y if input.dim() == weight.dim() else y[0]
    return y if bias is None else y + bias.view(-1, *[1] * dimensions)


def each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """Return an option of a convolution, one number a dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


_CONVOLUTION = Form(_convolution, "input", "weight")
_MATMUL, _MM, _MV = (
    Form(matmul, "input", "other"),
    Form(_mm, "input", "mat2"),
    Form(_mv, "input", "vec"),
)
_ADDMM, _ADDMV = Form(_addmm, "mat1", "mat2"), Form(_addmv, "mat", "vec")
_BADDBMM, _ADDBMM = Form(_baddbmm, "batch1", "batch2"), Form(_addbmm, "batch1", "batch2")
_DOT = Form(_dot, "input", "tensor")

FORMS: dict[Any, Form] = {
    F.linear: Form(_linear, "input", "weight"),
    torch.conv1d: _CONVOLUTION,
    torch.conv2d: _CONVOLUTION,
    torch.conv3d: _CONVOLUTION,
    torch.matmul: _MATMUL,
    Tensor.matmul: _MATMUL,
    Tensor.__matmul__: _MATMUL,
    Tensor.__rmatmul__: Form(_reversed, "other", "input"),
    torch.linalg.matmul: _MATMUL,
    torch.dot: _DOT,
    Tensor.dot: _DOT,
    torch.mm: _MM,
    Tensor.mm: _MM,
    torch.bmm: _MM,
    Tensor.bmm: _MM,
    torch.mv: _MV,
    Tensor.mv: _MV,
    torch.addmm: _ADDMM,
    Tensor.addmm: _ADDMM,
    torch.addmv: _ADDMV,
    Tensor.addmv: _ADDMV,
    torch.baddbmm: _BADDBMM,
    Tensor.baddbmm: _BADDBMM,
    torch.addbmm: _ADDBMM,
    Tensor.addbmm: _ADDBMM,
}
"""Function -> its form; arguments are named as the function's."""
