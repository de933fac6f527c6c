"""The functions that conversion knows: one entry each, with the role of each tensor argument.

Whatever module calls one of these, a converted model rounds its operands and its error. What a
function does beside that is in ``handlers``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..plan import KINDS, Kind

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

OPERAND = "operand"
"""A weight if it is a parameter, an activation if it is not."""
ADDEND = "addend"
"""A bias if it is a parameter; otherwise it is added as it is."""


@dataclass(frozen=True)
class Operator:
    """One function.

    Args:
        word: what its calls are named by, ``path/word#number``.
        kind: kind of layer that it is.
        roles: role of each tensor argument, by the argument's name: one of the plan's, ``operand``
            or ``addend``.
        names: the first arguments in their order, as far as they are of interest.
    """

    word: str
    kind: Kind
    roles: dict[str, str]
    names: tuple[str, ...]

    def given(self, args: Args, kwargs: Kwargs) -> dict[str, Any]:
        """Return name -> argument."""
        return dict(zip(self.names, args, strict=False)) | kwargs

    def tensors(self, args: Args, kwargs: Kwargs) -> dict[str, Tensor]:
        """Return name -> tensor of the arguments that have a role."""
        found = {name: args[i] for i, name in enumerate(self.names[: len(args)])}
        found |= {name: kwargs[name] for name in self.names if name in kwargs}
        return {n: t for n, t in found.items() if n in self.roles and isinstance(t, Tensor)}

    @property
    def bias(self) -> str | None:
        """Name of the argument that is added to the product, if there is one."""
        return next((n for n, role in self.roles.items() if role in ("bias", ADDEND)), None)

    @property
    def is_convolution(self) -> bool:
        """Whether channels are the second axis of the result."""
        return self.word.startswith("conv")

    def replaced(
        self, args: Args, kwargs: Kwargs, new: Mapping[str, Tensor | None]
    ) -> tuple[Args, Kwargs]:
        """Return the arguments with other tensors in their places."""
        positional = list(args)
        named = dict(kwargs)
        for name, tensor in new.items():
            place = self.names.index(name)
            if place < len(args):
                positional[place] = tensor
            else:
                named[name] = tensor
        return tuple(positional), named


def role_of(role: str, tensor: Tensor) -> str | None:
    """Return the plan's role of a tensor, None for one that is left as it is."""
    if role == OPERAND:
        return "weight" if is_parameter(tensor) else "activation"
    if role == ADDEND:
        return "bias" if is_parameter(tensor) else None
    return role


def is_parameter(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter or looks at one in another way (transposed, say)."""
    base = tensor._base
    return isinstance(tensor if base is None else base, nn.Parameter)


def _operator(word: str, kind: str, names: str, **roles: str) -> Operator:
    return Operator(word, KINDS[kind], roles, tuple(names.split()))


_XWB = {"input": "activation", "weight": "weight", "bias": "bias"}
_NORM = "input running_mean running_var weight bias"
_LINEAR = _operator("linear", "Linear", "input weight bias", **_XWB)
_PAIR = _operator("matmul", "Matmul", "input other", input=OPERAND, other=OPERAND)
_MM = _operator("matmul", "Matmul", "input mat2", input=OPERAND, mat2=OPERAND)
_MV = _operator("matmul", "Matmul", "input vec", input=OPERAND, vec=OPERAND)
_ADDMM = _operator("addmm", "Matmul", "input mat1 mat2", input=ADDEND, mat1=OPERAND, mat2=OPERAND)
_BADDBMM = _operator(
    "baddbmm", "Matmul", "input batch1 batch2", input=ADDEND, batch1=OPERAND, batch2=OPERAND
)
_ADDMV = _operator("addmv", "Matmul", "input mat vec", input=ADDEND, mat=OPERAND, vec=OPERAND)
_LAYER_NORM = _operator("layer_norm", "LayerNorm", "input normalized_shape weight bias", **_XWB)
_SOFTMAX = _operator("softmax", "Softmax", "input", input="activation")
_LOG_SOFTMAX = _operator("log_softmax", "Softmax", "input", input="activation")
_ADD = _operator("add", "Add", "input other", input="activation", other="activation")
_ADD_IN_PLACE = _operator("add", "Add", "input other", other="activation")


def _convolution(word: str, kind: str) -> Operator:
    return _operator(word, kind, "input weight bias stride padding dilation groups", **_XWB)


def _transposed(word: str, kind: str) -> Operator:
    return _operator(word, kind, "input weight bias", **_XWB)


OPERATORS: dict[Callable[..., Any], Operator] = {
    F.linear: _LINEAR,
    F.bilinear: _operator(
        "bilinear",
        "Bilinear",
        "input1 input2 weight bias",
        input1="activation",
        input2="activation",
        weight="weight",
        bias="bias",
    ),
    torch.conv1d: _convolution("conv1d", "Conv1d"),
    torch.conv2d: _convolution("conv2d", "Conv2d"),
    torch.conv3d: _convolution("conv3d", "Conv3d"),
    torch.conv_transpose1d: _transposed("conv_transpose1d", "ConvTranspose1d"),
    torch.conv_transpose2d: _transposed("conv_transpose2d", "ConvTranspose2d"),
    torch.conv_transpose3d: _transposed("conv_transpose3d", "ConvTranspose3d"),
    F.embedding: _operator("embedding", "Embedding", "input weight", weight="weight"),
    F.embedding_bag: _operator("embedding_bag", "EmbeddingBag", "input weight", weight="weight"),
    torch.matmul: _PAIR,
    Tensor.matmul: _PAIR,
    Tensor.__matmul__: _PAIR,
    Tensor.__rmatmul__: _PAIR,
    torch.linalg.matmul: _PAIR,
    torch.inner: _PAIR,
    Tensor.inner: _PAIR,
    torch.vdot: _PAIR,
    Tensor.vdot: _PAIR,
    torch.dot: _operator("matmul", "Matmul", "input tensor", input=OPERAND, tensor=OPERAND),
    Tensor.dot: _operator("matmul", "Matmul", "input tensor", input=OPERAND, tensor=OPERAND),
    torch.tensordot: _operator("tensordot", "Matmul", "a b", a=OPERAND, b=OPERAND),
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
    torch.addbmm: _BADDBMM,
    Tensor.addbmm: _BADDBMM,
    F.batch_norm: _operator("batch_norm", "BatchNorm", _NORM, **_XWB),
    torch.batch_norm: _operator(
        "batch_norm", "BatchNorm", "input weight bias running_mean running_var", **_XWB
    ),
    F.instance_norm: _operator("instance_norm", "InstanceNorm", _NORM, **_XWB),
    F.layer_norm: _LAYER_NORM,
    torch.layer_norm: _LAYER_NORM,
    F.group_norm: _operator("group_norm", "GroupNorm", "input num_groups weight bias", **_XWB),
    torch.group_norm: _operator("group_norm", "GroupNorm", "input num_groups weight bias", **_XWB),
    F.rms_norm: _operator(
        "rms_norm", "RMSNorm", "input normalized_shape weight", input="activation", weight="weight"
    ),
    torch.rms_norm: _operator(
        "rms_norm", "RMSNorm", "input normalized_shape weight", input="activation", weight="weight"
    ),
    F.softmax: _SOFTMAX,
    torch.softmax: _SOFTMAX,
    Tensor.softmax: _SOFTMAX,
    F.log_softmax: _LOG_SOFTMAX,
    torch.log_softmax: _LOG_SOFTMAX,
    Tensor.log_softmax: _LOG_SOFTMAX,
    torch.add: _ADD,
    Tensor.add: _ADD,
    Tensor.__add__: _ADD,
    Tensor.__radd__: _ADD,
    Tensor.add_: _ADD_IN_PLACE,
    Tensor.__iadd__: _ADD_IN_PLACE,
}
"""Functions whose operands and error are rounded; ``handlers`` has those that want more."""

LEFT: dict[Callable[..., Any], str] = {
    function: why
    for functions, why in (
        (
            (torch.chain_matmul, torch.linalg.multi_dot),
            "a chain of products with results between them: write them as matmul",
        ),
        ((torch.cdist,), "distances by a product inside: write them as matmul"),
        ((torch.sparse.mm, torch.sparse.addmm, torch.hspmm, torch.smm), "a sparse product"),
        ((torch._scaled_mm,), "a scaled product with formats of its own"),
    )
    for function in functions
}
"""Products that cannot be converted -> why."""
