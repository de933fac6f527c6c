"""What autograd holds between the passes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from limprec.nn.saving import Again


def held(y: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that autograd keeps for the way back from ``y``."""
    seen, queue = set(), [y.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue += [following for following, _ in node.next_functions]
        for name in (n for n in dir(node) if n.startswith("_raw_saved")):
            raw = getattr(node, name)
            for one in raw if isinstance(raw, list | tuple) else [raw]:
                data = getattr(one, "data", None)
                codes = getattr(data, "codes", None)
                if codes is not None:
                    data = codes.x if isinstance(codes, Again) else codes.codes
                data = getattr(data, "like", data)
                if isinstance(data, Tensor):
                    yield data
