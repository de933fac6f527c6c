"""Scaled dot-product attention as two products with rounded operands."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import integers
from .integers import can_attend
from .products import multiply_pair
from .state import LayerState


def attend(
    layer: LayerState,
    calls: tuple[int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute ``F.scaled_dot_product_attention`` under a plan; arguments as there.

    scores = Qa(scale * query) Qa(key)^T, weights = softmax(scores + mask) in the carrier, result =
    Qa(weights) Qa(value); the errors of scores and result are rounded, as any product's. (Scaling
    the queries, not the scores, takes a fraction of the passes over memory.)

    Args:
        layer: whose plan it is.
        calls: numbers of the two products among the layer's.
        query: (..., heads, L, E).
        key: (..., heads, S, E).
        value: (..., heads, S, V).
        attn_mask: boolean, True where a key takes part, or added to the scores; (..., L, S).
        dropout_p: applied to the weights, with torch's generator; also in evaluation, as there.
        is_causal: whether query i sees keys up to i alone.
        scale: None for 1 / sqrt(E).
        enable_gqa: whether key and value have fewer heads, each for a group of queries.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if attn_mask is None and not dropout_p and can_attend(layer, query, key, value):
        return integers.attend(layer, calls, query, key, value, factor, is_causal)
    query = query * factor
    future = None
    if is_causal:
        seen = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        future = _hidden(seen, query.dtype)
    scores = multiply_pair(layer, calls[0], query, key.transpose(-2, -1))
    if future is not None:
        scores = scores + future
    if attn_mask is not None:
        scores = scores + (
            _hidden(attn_mask, scores.dtype) if attn_mask.dtype == torch.bool else attn_mask
        )
    if attn_mask is None:
        weights = torch.softmax(scores, -1)
    else:  # a query that sees no key gets zeros, and passes none on, as in the fused kernels
        blind = scores.amax(-1, keepdim=True) == -math.inf
        weights = torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)
    weights = F.dropout(weights, dropout_p)
    return multiply_pair(layer, calls[1], weights, value)


def _hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what to add to scores: 0 where a key takes part, minus infinity where it does not."""
    nothing = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, nothing, -math.inf)
