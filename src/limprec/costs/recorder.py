"""Watches a model run on the meta device: products, element-wise work, what autograd saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import CostError
from ..nn import ModelState
from .operations import ELEMENTWISE, OTHERS, base_name, product_of
from .work import Elementwise, Operand, Product, Saved

_RECURRENT = nn.RNNBase | nn.RNNCellBase


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Sees every operator, knows the module that runs, and what autograd saves."""

    def __init__(self, model: nn.Module, recompute: Sequence[str], followed: ModelState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._followed = followed
        self.products: list[Product] = []
        self.elementwise: list[Elementwise] = []
        self.saved: dict[StorageWeakRef, Saved] = {}
        self.blocks: dict[str, dict[StorageWeakRef, Saved]] = {}
        self._varying: set[StorageWeakRef] = set()
        self._layers_of: dict[StorageWeakRef, list[str]] = {}
        self._path: list[str] = [""]
        self._numbers: list[Counter[str]] = [Counter()]
        self._is_layer = {
            name: isinstance(module, nn.Linear | _ConvNd | _RECURRENT)
            for name, module in model.named_modules()
        }
        self._is_recurrent = {
            name for name, module in model.named_modules() if isinstance(module, _RECURRENT)
        }
        self._block: str | None = None
        for pattern in recompute:
            if not any(fnmatchcase(name, pattern) for name in self._is_layer):
                raise CostError(
                    "cost", f"recompute {pattern!r} matches no module", "write e.g. layers.*"
                )
        for name, module in model.named_modules():
            starts = any(fnmatchcase(name, pattern) for pattern in recompute)
            module.register_forward_pre_hook(self._enter(name, starts), with_kwargs=True)
            module.register_forward_hook(self._leave(name))

    def running(self, fused_attention: bool) -> AbstractContextManager[Any]:
        """Return the context in which everything is recorded."""
        stack = ExitStack()
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._save, _no_backward))
        if fused_attention:
            stack.enter_context(_FusedAttention(self))
        stack.enter_context(self)
        return stack

    def inside(self, name: str) -> AbstractContextManager[Any]:
        """Return a context in which ``name`` is what runs."""
        stack = ExitStack()
        self._push(name)
        stack.callback(self._pop)
        return stack

    def depends_on_input(self, tensor: Tensor) -> None:
        """Note that a tensor's values are not the model's alone."""
        self._varying.add(_key(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and record it."""
        output = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        starts = not given and self._path[-1] in self._is_recurrent  # a state: no weight
        if starts or any(_key(t) in self._varying for t in given):
            self._varying.update(_key(t) for t in made)
        if found := product_of(func, args, output):
            macs, left, right = found
            self.multiply(_kind(func, self._operand(right)), macs, left, right, output)
        elif given and not _is_view(func, given, made):
            self._compute(base_name(func), given, made)
        return output

    def multiply(self, kind: str, macs: int, left: Tensor, right: Tensor, output: Tensor) -> None:
        """Record a product of two tensors."""
        layer = self.layer(kind)
        for tensor in (left, right):
            self._layers_of.setdefault(_key(tensor), []).append(layer)
        self.add_product(layer, macs, self._operand(left), self._operand(right), output.numel())

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Record an attention whose scores stay on the chip."""
        layer = self.layer("attention")
        rows = query.numel() // query.shape[-1]
        scores = rows * key.shape[-2]
        q, k, v = (self._operand(t) for t in (query, key, value))
        for tensor in (query, key, value):
            self._layers_of.setdefault(_key(tensor), []).append(layer)
        weights = Operand(0, is_weight=False, needs_gradient=q.needs_gradient or k.needs_gradient)
        self.add_product(layer, scores * query.shape[-1], q, k, 0, again=True)
        self.add_product(layer, scores * value.shape[-1], weights, v, rows * value.shape[-1])
        adds, multiplies = ELEMENTWISE["_softmax"]
        forwards = self._forwards + weights.needs_gradient
        self.elementwise.append(
            Elementwise(
                self._path[-1],
                adds * scores,
                (multiplies + 1) * scores,  # one for the scale
                (),
                weights.needs_gradient,
                forwards,
            )
        )

    def add_product(
        self,
        layer: str,
        macs: int,
        left: Operand,
        right: Operand,
        results: int,
        *,
        again: bool = False,
    ) -> None:
        """Record a product of known operands; ``again`` if the backward pass repeats it."""
        forwards = self._forwards + (again and (left.needs_gradient or right.needs_gradient))
        self.products.append(Product(layer, macs, left, right, results, forwards))

    def layer(self, kind: str) -> str:
        """Return the name of the layer that a product belongs to."""
        if self._followed.inside and self._followed.running is not None:
            return self._followed.running
        path = self._path[-1]
        if self._is_layer.get(path, False):
            return path
        number = self._numbers[-1][kind]
        self._numbers[-1][kind] += 1
        return f"{path}/{kind}#{number}" if path else f"{kind}#{number}"

    def kept(self, tensors: dict[StorageWeakRef, Saved]) -> tuple[Saved, ...]:
        """Return saved tensors with the layers that multiply them."""
        return tuple(
            Saved(tuple(self._layers_of.get(key, ())), s.elements, s.itemsize, s.is_floating)
            for key, s in tensors.items()
        )

    @property
    def _forwards(self) -> int:
        return 1 if self._block is None else 2

    def _operand(self, tensor: Tensor) -> Operand:
        sizes = zip(tensor.shape, tensor.stride(), strict=True)
        elements = torch.Size([size for size, stride in sizes if stride]).numel()
        needs_gradient = tensor.requires_grad and torch.is_grad_enabled()
        return Operand(elements, _key(tensor) not in self._varying, needs_gradient)

    def _compute(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        floats = [t for t in (*given, *made) if t.is_floating_point()]
        if not any(t.is_floating_point() for t in made):
            return
        adds, multiplies = ELEMENTWISE.get(name, OTHERS)
        if not adds and not multiplies:  # of what is picked from, only the picked is read
            floats = 2 * [t for t in made if t.is_floating_point()]
        largest = max(t.numel() for t in floats)
        needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        self.elementwise.append(
            Elementwise(
                self._path[-1],
                adds * largest,
                multiplies * largest,
                tuple(t.numel() for t in floats),
                needs_gradient,
                self._forwards,
            )
        )

    def _save(self, tensor: Tensor) -> None:
        """Note what autograd saves, unless it is the model's own."""
        place = self.saved if self._block is None else self.blocks.setdefault(self._block, {})
        self._keep(tensor, place)

    def _keep(self, tensor: Tensor, place: dict[StorageWeakRef, Saved]) -> None:
        key = _key(tensor)
        if key in self._varying and key not in self.saved and key not in place:
            elements = tensor.untyped_storage().nbytes() // tensor.element_size()
            floating = tensor.is_floating_point()
            place[key] = Saved((), elements, tensor.element_size(), floating)

    def _enter(self, name: str, starts_block: bool) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            if starts_block and self._block is None:
                for tensor in tree_leaves((args, kwargs)):
                    if isinstance(tensor, Tensor):
                        self._keep(tensor, self.saved)
                self._block = name
            self._push(name)

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(*_: Any) -> None:
            self._pop()
            if self._block == name:
                self._block = None

        return leave

    def _push(self, name: str) -> None:
        self._path.append(name)
        self._numbers.append(Counter())

    def _pop(self) -> None:
        self._path.pop()
        self._numbers.pop()


class _FusedAttention(TorchFunctionMode):
    """Within it, attention is one operator that keeps its operands and result, not the scores."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer for ``scaled_dot_product_attention``, pass everything else on."""
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = (given[name] for name in ("query", "key", "value"))
        if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
            shapes = ", ".join(str(tuple(t.shape)) for t in (query, key, value))
            raise ValueError(f"query, key and value of shapes {shapes} do not fit")
        self._recorder.attend(query, key, value)
        return _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    """The shape of an attention's result, and what a fused kernel saves."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return a tensor without values; save operands, result and the rows' log sums."""
        shape = (*query.shape[:-1], value.shape[-1])
        if query.dim() == 4:  # heads lie beside each other, as the next layer wants them
            batch, heads, length, size = shape
            output = query.new_empty(batch, length, heads, size).transpose(1, 2)
        else:
            output = query.new_empty(shape)
        log_sums = query.new_empty(query.shape[:-1])
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output


def _no_backward(_: None) -> Tensor:
    raise AssertionError("a trace runs forward only")


def _kind(func: Any, right: Operand) -> str:
    if "conv" in base_name(func):
        return "conv"
    return "linear" if right.is_weight else "matmul"


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether an operator only looks at its input in another way."""
    if func._schema.is_mutable:
        return False
    keys = {_key(t) for t in given}
    return func.is_view or all(_key(t) in keys for t in made)


def _key(tensor: Tensor) -> StorageWeakRef:
    """Return what views of one tensor share; it stays theirs after they are gone."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
