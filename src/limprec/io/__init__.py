"""Packing to real bits, checkpoints and export."""

from .packing import Packed, pack, unpack

__all__ = ["Packed", "pack", "unpack"]
