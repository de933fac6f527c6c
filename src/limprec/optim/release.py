"""Stepping each parameter as soon as its gradient is there, and letting the gradient go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import OptimizerError

if TYPE_CHECKING:
    from .base import WriteBackOptimizer


class GradientRelease:
    """Hooks on an optimizer's parameters that step them inside the backward pass.

    Only one gradient is alive at a time: memory falls by nearly the gradients' size. Whatever needs
    all gradients at once, or several backward passes before a step, is refused.

    Args:
        optimizer: the optimizer; its ``step`` then only ends the iteration.
    """

    def __init__(self, optimizer: WriteBackOptimizer) -> None:
        self._optimizer = optimizer
        self._done: set[Tensor] = set()
        self._begun: set[int] = set()
        self._hooks: list[Any] = []
        for number, group in enumerate(optimizer.param_groups):
            for place, p in enumerate(group["params"]):
                if p.requires_grad:
                    leaf: Any = p
                    self._hooks += (
                        leaf.register_hook(self._refuse_second(p)),
                        leaf.register_post_accumulate_grad_hook(self._step_one(number, place)),
                    )

    def end_iteration(self) -> None:
        """Forget what was stepped, and take the markers off."""
        for p in self._done:
            p.grad = None
        self._done.clear()
        self._begun.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self.end_iteration()

    def _refuse_second(self, p: Tensor) -> Callable[[Tensor], None]:
        def check(grad: Tensor) -> None:
            if p in self._done:
                raise OptimizerError(
                    "gradient release",
                    "a second backward pass before step()",
                    "call step() after each one; gradients cannot be accumulated here",
                )

        return check

    def _step_one(self, number: int, place: int) -> Callable[[Tensor], None]:
        def step(p: Tensor) -> None:
            group = self._optimizer.param_groups[number]
            if number not in self._begun:
                self._begun.add(number)
                group["steps"] += 1
            assert p.grad is not None
            row = self._optimizer._rows_of(number, group)[place]
            with torch.no_grad():
                self._optimizer._step_rows(group, [row], [p.grad])
            self._done.add(p)
            p.grad = Released.like(p)

        return step


class Released(Tensor):
    """Stands where a gradient was, without memory, and says so to whoever wants to use it."""

    @staticmethod
    def like(p: Tensor) -> Tensor:
        """Return one for a parameter."""
        return p.detach().new_zeros(()).expand(p.shape).as_subclass(Released)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch passes contents
        """Say what it stands for."""
        return f"Released({tuple(self.shape)})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let it be looked at; refuse every use of its values."""
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__", "untyped_storage"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise OptimizerError(
            "gradient release",
            f"{name} of a gradient that is gone",
            "clip, scale or read gradients without release_gradients()",
        )
