"""Training on several devices: what each keeps, and what crosses between them in a step.

Data parallelism and its sharded forms after Rajbhandari et al., "ZeRO: memory optimizations toward
training trillion parameter models" (SC 2020), sections 5 and 7; volumes are those of ring
collectives, (N - 1) / N of a tensor for a reduce-scatter or an all-gather.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CostError

SHARDS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "zero1": ("state", "compensation"),
    "zero2": ("state", "compensation", "gradient"),
    "zero3": ("state", "compensation", "gradient", "parameter"),
}
"""Layout -> roles of which each device keeps its share alone; ``zero3`` is FSDP's full sharding."""


@dataclass(frozen=True)
class Layout:
    """Devices that train one model on batches of their own.

    Args:
        devices: how many.
        shard: ``none`` (each keeps everything), ``zero1``, ``zero2`` or ``zero3``.

    Raises:
        CostError: for less than one device, or an unknown layout.
    """

    devices: int = 1
    shard: str = "none"

    def __post_init__(self) -> None:
        """Refuse what does not exist."""
        if isinstance(self.devices, bool) or not isinstance(self.devices, int) or self.devices < 1:
            raise CostError("cost", f"devices is {self.devices!r}", "give 1 or more")
        if self.shard not in SHARDS:
            raise CostError("cost", f"unknown shard {self.shard!r}", "use " + ", ".join(SHARDS))

    def share(self, role: str) -> float:
        """Return which share of a role each device keeps."""
        return 1 / self.devices if role in SHARDS[self.shard] else 1.0

    def memory(self, whole: Mapping[str, float], largest_layer: float) -> dict[str, float]:
        """Return role -> bytes on each device.

        Args:
            whole: role -> bytes on a single device.
            largest_layer: bytes of the largest layer's parameters: under ``zero3`` one layer at a
                time is gathered, as ``gathered``.
        """
        each = {role: nbytes * self.share(role) for role, nbytes in whole.items()}
        if self.shard == "zero3" and self.devices > 1:
            each["gathered"] = largest_layer
        return each

    def communication(self, parameters: float, gradients: float) -> dict[str, float]:
        """Return collective -> bytes that each device sends in a step.

        Args:
            parameters: bytes of the parameters.
            gradients: bytes of their gradients.
        """
        part = (self.devices - 1) / self.devices
        if self.shard == "none":  # an all-reduce is a reduce-scatter and an all-gather
            return {"all-reduce of gradients": 2 * part * gradients}
        gathers = 2 if self.shard == "zero3" else 1
        return {
            "reduce-scatter of gradients": part * gradients,
            "all-gather of parameters": part * gathers * parameters,
        }
