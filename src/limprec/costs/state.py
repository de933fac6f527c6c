"""Memory of the training state: what is kept per parameter from step to step."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

from ..optim.base import WriteBackOptimizer


def training_state_bits(optimizer: WriteBackOptimizer) -> dict[str, float]:
    """Return role -> bits per parameter, averaged over all parameters of an optimizer.

    The roles are ``parameter``, ``gradient``, what the write-back keeps, ``compensation`` say, and
    the optimizer's states. Formats count, not the carrier that simulates them; the one scale that a
    tensor in dynamic fixed point shares is not counted. Empty for an optimizer without parameters.
    """
    total: dict[str, float] = defaultdict(float)
    count = 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            count += p.numel()
            for role, bits in optimizer.bits_of(p).items():
                kept = optimizer.state[p].get(role)  # Adafactor's are sums of rows and columns
                total[role] += bits * (kept.numel() if isinstance(kept, Tensor) else p.numel())
    return {role: bits / count for role, bits in total.items()} if count else {}
