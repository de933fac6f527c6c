"""Products that happen where conversion does not look: named, never passed over in silence."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .state import ModelState

_NAMES = """
mm addmm bmm baddbmm addbmm mv addmv dot vdot matmul linear einsum _int_mm _scaled_mm _grouped_mm
convolution _convolution cudnn_convolution mkldnn_convolution _trilinear _cdist_forward
_euclidean_dist _sparse_mm _sparse_addmm lstm gru mkldnn_rnn_layer _cudnn_rnn
_thnn_fused_lstm_cell _thnn_fused_gru_cell _efficient_attention_forward
_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu
_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
_native_multi_head_attention _transformer_encoder_layer_fwd
"""
PRODUCTS = frozenset(_NAMES.split())
"""Operators of ATen that multiply and add up."""


class Leftovers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Within it, a product outside the functions that conversion knows is noted."""

    def __init__(self, model: ModelState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, and note it."""
        name = func._schema.name.rpartition("::")[2]
        if name in PRODUCTS and not self._model.inside:
            self._model.leave(name, "a product inside a function that conversion does not know")
        return func(*args, **(kwargs or {}))
