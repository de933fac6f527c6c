"""The same batch in float32, beside the training: how far its gradients are from that.

The shadow runs the model's own forward and backward pass once more, in float32 and without any
rounding, from the parameters as they are stored, on the arguments of the model's last forward pass
and with the gradient that arrived at its output. So it judges the model's passes, not the loss; a
model that returns its loss is judged with it. Per parameter, over the sampled steps, with g the
gradient of the training and h that of the shadow:

- cosine: <g, h> / (|g| |h|);
- gradient error: |g - h| / |h|;
- flushed against fp32: share of the sum of |h| in elements where g is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import DiagnosisError
from ..nn import without_rounding


class Shadow:
    """Keeps what a forward pass got, and runs it again in float32.

    Args:
        model: the model that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sums: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._random: tuple[Tensor, list[Tensor]] | None = None
        self._errors: list[Tensor | None] = []

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the arguments of a forward pass, and the random state it starts from."""
        self._call = args, kwargs
        self._gradients.clear()
        self._random = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self._devices()]

    def returned(self, output: Any) -> None:
        """Take its output, and wait for the gradients that arrive there."""
        tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        self._errors = [None] * len(tensors)
        for place, tensor in enumerate(tensors):
            tensor.register_hook(self._keep(place, self._errors))  # type: ignore[no-untyped-call]

    def gradient(self, name: str, grad: Tensor) -> None:
        """Take a parameter's gradient, as the backward pass gives it."""
        self._gradients[name] = grad.detach().to_dense().clone()

    def compare(self) -> None:
        """Run the shadow and compare; nothing where no gradient arrived, or one is not finite.

        Raises:
            DiagnosisError: if the model does not run in float32.
        """
        errors = [error for error in self._errors if error is not None]
        if self._call is None or not errors or not all(e.isfinite().all() for e in errors):
            return
        try:
            found = self._run()
        except RuntimeError as error:
            raise DiagnosisError(
                "diagnose",
                f"the model does not run in float32: {str(error).splitlines()[0]}",
                "leave out shadow",
            ) from error
        finally:
            self._call, self._errors = None, []
        for name, h in found.items():
            g = self._gradients.get(name)
            if g is None or not g.isfinite().all():
                continue
            g, h = g.double(), h.to_dense().double()
            gone = torch.where(g == 0, h.abs(), 0.0)
            terms = (g * h, g * g, h * h, (g - h).square(), gone, h.abs())
            parts = torch.stack([term.sum() for term in terms])
            self._sums[name] = self._sums.get(name, torch.zeros_like(parts)) + parts
        self._gradients.clear()

    def measures(self, name: str) -> dict[str, float]:
        """Return the measures of one parameter by name; none where nothing was compared."""
        if name not in self._sums:
            return {}
        gh, gg, hh, error, gone, mass = self._sums[name].tolist()
        if not hh:
            return {}
        found = {"gradient_error": math.sqrt(error / hh), "flushed_against_fp32": gone / mass}
        return found | ({"cosine": gh / math.sqrt(gg * hh)} if gg else {})

    def _run(self) -> Mapping[str, Tensor]:
        """Return the float32 gradients by the parameters' names."""
        assert self._call is not None
        assert self._random is not None
        model = self._model
        params = {
            name: p.detach().float().requires_grad_(p.requires_grad)
            for name, p in model.named_parameters()
        }
        buffers = {name: _float(b.detach().clone()) for name, b in model.named_buffers()}
        args, kwargs = tree_map(_float, self._call)
        kind = next(iter(params.values())).device.type
        devices = self._devices()
        with (
            torch.random.fork_rng(devices=devices),
            torch.autocast(kind, enabled=False),
            without_rounding(model),
            torch.enable_grad(),
        ):
            torch.set_rng_state(self._random[0])
            for device, state in zip(devices, self._random[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            output = torch.func.functional_call(model, {**params, **buffers}, args, kwargs)
            tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
            pairs = [
                (t, e.to(t.dtype))
                for t, e in zip(tensors, self._errors, strict=True)
                if e is not None
            ]
            wanted = {name: p for name, p in params.items() if p.requires_grad}
            grads = torch.autograd.grad(
                [t for t, _ in pairs],
                list(wanted.values()),
                [e for _, e in pairs],
                allow_unused=True,
            )
        return {n: g for n, g in zip(wanted, grads, strict=True) if g is not None}

    def _devices(self) -> list[int]:
        found = {p.device for p in self._model.parameters() if p.device.type == "cuda"}
        return sorted(device.index or 0 for device in found)

    def _keep(self, place: int, errors: list[Tensor | None]) -> Callable[[Tensor], None]:
        def keep(grad: Tensor) -> None:
            errors[place] = grad.detach().clone()

        return keep


def _float(value: Any) -> Any:
    """Return a floating-point tensor in float32, without a history, anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().float()
    return value
