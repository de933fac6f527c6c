"""What happens to each function that conversion knows: operands rounded, the error rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.activation import relu, relu_
from ..plan import KINDS, Call, Group
from .attention import attend
from .operators import ADDEND, LEFT, OPERATORS, Args, Kwargs, Operator, is_parameter, role_of
from .products import multiply
from .recurrent import RECURRENT
from .saving import saving_shapes
from .state import LayerState, ModelState

if TYPE_CHECKING:
    from .intercept import Interceptor

Handler = Callable[["Interceptor", Any, Args, Kwargs], Any]


def _convert(operator: Operator) -> Handler:
    def handle(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
        model, tensors = mode.model, operator.tensors(args, kwargs)
        first = next(
            (t for n, t in tensors.items() if operator.roles[n] != ADDEND and is_float(t)), None
        )
        if first is None:
            return func(*args, **kwargs)
        layer = find_layer(model, operator, tensors)
        if layer is None:
            return func(*args, **kwargs)
        call = model.count(layer)
        if not model.rounds or layer.is_plain(first.dtype):
            return func(*args, **kwargs)
        return multiply(layer, call, operator, func, args, kwargs, tensors)

    return handle


def find_layer(
    model: ModelState, operator: Operator, tensors: dict[str, Tensor]
) -> LayerState | None:
    """Return the layer that a function belongs to: a running module's, or one of its own."""
    group = operator.kind.group
    if not model.frames or not model.speaks_of(group, operator.kind.name):
        return None
    frame = model.frames[-1]
    if (child := _child_of(model, operator, tensors)) is not None:
        return child
    if frame.layer is not None and frame.layer.group is group:
        return frame.layer
    number = frame.numbers.get(operator.word, 0)
    frame.numbers[operator.word] = number + 1
    prefix = f"{frame.name}/" if frame.name else ""
    name = f"{prefix}{operator.word}#{number}"
    return model.layers.get(name) or _take_in(model, name, operator, tensors)


def _take_in(
    model: ModelState, name: str, operator: Operator, tensors: dict[str, Tensor]
) -> LayerState:
    """Take a function in that is called for the first time, with the parameters it multiplies."""
    if torch.compiler.is_compiling():
        from .uncompiled import unseen

        taken: LayerState = unseen(partial(_take_in, model, name, operator, tensors))
        return taken
    roles = {n: role_of(operator.roles[n], t) for n, t in tensors.items()}
    weight = next((tensors[n] for n, role in roles.items() if role == "weight"), None)
    outputs = weight.shape[0 if operator.word == "linear" else -1] if weight is not None else 0
    layer = model.function(Call(name, operator.kind, outputs))
    model.outputs[name] = outputs
    for n, tensor in tensors.items():
        if roles[n] in ("weight", "bias") and is_parameter(tensor):
            parameter = tensor if tensor._base is None else tensor._base
            model.weights.setdefault(name, []).append(parameter)
            model.tag(layer, parameter)
    return layer


def _child_of(
    model: ModelState, operator: Operator, tensors: dict[str, Tensor]
) -> LayerState | None:
    """Return the layer of a child whose weight a module multiplies by itself (``out_proj``)."""
    frame, weight = model.frames[-1], tensors.get("weight")
    if weight is not None:
        for name, child in frame.module.named_children():
            if child._parameters.get("weight") is weight:
                layer = model.layers.get(f"{frame.name}.{name}" if frame.name else name)
                if layer is not None and layer.plan.kind is operator.kind:
                    return layer
    return None


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor can be rounded."""
    return tensor.is_floating_point() and tensor.numel() > 0


def _einsum(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Round the operands; with more than two, what lies between their products is not rounded."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or not all(map(is_float, operands)):
        mode.model.leave("einsum", "with lists of subscripts or whole numbers")
        return func(*args, **kwargs)
    if len(operands) > 2:
        mode.model.leave("einsum", "of more than two operands rounds them, not what is between")
    names = tuple(f"operand{i}" for i in range(len(operands)))
    operator = Operator("einsum", _MATMUL, dict.fromkeys(names, "operand"), names)

    def run(*tensors: Tensor) -> Tensor:
        return torch.einsum(equation, *tensors)

    return _convert(operator)(mode, run, tuple(operands), {})


def _embedding(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    operator = OPERATORS[func]
    given = dict(zip(_EMBEDDING[func], args, strict=False)) | kwargs
    if given.get("sparse") or given.get("max_norm") is not None:
        option = "sparse=True" if given.get("sparse") else "max_norm"
        mode.model.leave(operator.word, f"with {option}: it is looked up unrounded")
        return func(*args, **kwargs)
    return _convert(operator)(mode, func, args, kwargs)


_EMBEDDING: dict[Callable[..., Any], tuple[str, ...]] = {
    F.embedding: ("input", "weight", "padding_idx", "max_norm", "norm_type", "_", "sparse"),
    F.embedding_bag: (
        "input",
        "weight",
        "offsets",
        "max_norm",
        "norm_type",
        "_",
        "mode",
        "sparse",
    ),
}


def _cross_entropy(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Round the logits, and the error of the softmax going back: the gradient of its input."""
    model, logits = mode.model, args[0] if args else kwargs["input"]
    if not model.speaks_of(Group.ELEMENTWISE, _CROSS_ENTROPY.kind.name) or not is_float(logits):
        return func(*args, **kwargs)
    layer = find_layer(model, _CROSS_ENTROPY, {})
    if layer is None or not model.rounds:
        return func(*args, **kwargs)
    rounded = layer.round(logits.view_as(logits), model.count(layer), "activation", "error")
    args, kwargs = _CROSS_ENTROPY.replaced(args, kwargs, {"input": rounded})
    return func(*args, **kwargs)


_CROSS_ENTROPY = Operator(
    "cross_entropy", KINDS["CrossEntropy"], {"input": "activation"}, ("input",)
)


def _attention(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    operator, model = _ATTENTION, mode.model
    tensors = operator.tensors(args, kwargs)
    layer = find_layer(model, operator, {})
    query = tensors["query"]
    if layer is None:
        return func(*args, **kwargs)
    call = model.count(layer, 2)
    if not model.rounds or layer.is_plain(query.dtype):
        return func(*args, **kwargs)
    return attend(layer, (call, call + 1), *args, **kwargs)


def _recurrent(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    model, called = mode.model, RECURRENT[func](args, kwargs)
    layer = find_layer(model, called.operator, called.tensors) if is_float(called.input) else None
    if layer is None:
        return func(*args, **kwargs)
    call = model.count(layer, called.products)
    if not model.rounds or layer.is_plain(called.input.dtype):
        return func(*args, **kwargs)
    return called.compute(layer, call)


def _open(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Run a function written in Python so that the functions that it calls are seen too."""
    with mode:
        return _opened(func)(*args, **kwargs)


def _opened(func: FunctionType) -> FunctionType:
    """Return a function of the same code that does not ask whether somebody looks on.

    Functions of ``torch.nn.functional`` first offer themselves, whole, to the mode that is on.
    """
    if func not in _OPENED:
        unasked = {
            **func.__globals__,
            "has_torch_function": _nobody,
            "_check_key_padding_mask": _check_key_padding_mask,
        }
        _OPENED[func] = FunctionType(
            func.__code__, unasked, func.__name__, func.__defaults__, func.__closure__
        )
        _OPENED[func].__kwdefaults__ = func.__kwdefaults__
    return _OPENED[func]


def _nobody(*_: Any) -> bool:
    return False


def _check_key_padding_mask(*args: Any) -> None:
    """Check as PyTorch does, but in a compiler, which cannot follow the message."""
    if not torch.compiler.is_compiling():
        F._check_key_padding_mask(*args)  # type: ignore[attr-defined]


_OPENED: dict[FunctionType, FunctionType] = {}


def _leave(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    mode.model.leave(func.__name__, LEFT[func])
    mode.model.running = None
    return func(*args, **kwargs)


_MATMUL = OPERATORS[torch.matmul].kind
_ATTENTION = Operator(
    "attention",
    KINDS["Attention"],
    {"query": "activation", "key": "activation", "value": "activation"},
    ("query", "key", "value"),
)


def _relu(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Keep one bit an element for the backward pass, where PyTorch keeps the result."""
    x = args[0] if args else kwargs["input"]
    in_place = func in _IN_PLACE or (args[1:2] or (kwargs.get("inplace", False),))[0]
    ordinary = isinstance(x, Tensor) and is_float(x) and x.requires_grad and torch.is_grad_enabled()
    if not ordinary or not mode.model.rounds or torch.compiler.is_compiling():
        return func(*args, **kwargs)
    return relu_(x) if in_place else relu(x)


_IN_PLACE = frozenset({torch.relu_, Tensor.relu_})


def _pool(mode: Interceptor, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Keep no input for the backward pass, which asks how large it was."""
    x = args[0] if args else kwargs["input"]
    if not isinstance(x, Tensor) or not mode.model.rounds:
        return func(*args, **kwargs)
    with saving_shapes(x, _POOLS[func]):
        return func(*args, **kwargs)


_POOLS: dict[Callable[..., Any], int] = {
    getattr(place, name): axes
    for axes in (1, 2, 3)
    for word in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
    for place in (F, torch)
    if hasattr(place, name := f"{word}{axes}d")
}
"""Function -> how many axes it pools."""

HANDLERS: dict[Callable[..., Any], Handler] = {
    **{function: _convert(operator) for function, operator in OPERATORS.items()},
    **dict.fromkeys(LEFT, _leave),
    **dict.fromkeys(_EMBEDDING, _embedding),
    **dict.fromkeys(RECURRENT, _recurrent),
    torch.einsum: _einsum,
    F.cross_entropy: _cross_entropy,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _open,
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu, *_IN_PLACE), _relu),
    **dict.fromkeys(_POOLS, _pool),
}
"""Function -> what a converted model does instead of calling it."""
