"""Packing to real bits, checkpoints and export."""
