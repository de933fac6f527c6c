"""What a narrow accumulator would do to a layer's sums, judged on sampled dot products.

Layers without an accumulator in their plan add in float32; the one to judge is simulated by
``lp.matmul``, bit for bit, on operands of the training (rounded ones, where the layer is converted;
stochastic sums take seed 0, not the training's). Three products:
``forward`` (over the inputs), ``error`` (dL/dx, over the outputs; linear layers alone) and
``gradient`` (dL/dw, over batch and positions). Per product, over ``DOTS`` times ``DOTS`` of them:

- sum error: sqrt(sum((s - exact)^2) / sum(exact^2)), s the sums in the accumulator, exact in
  float64;
- terms lost: share of the non-zero terms, ``TERMS`` places along the sum, that leave the running
  sum as it was: in its chunk, or with its chunk's sum in the total. Told of sums one after the
  other, not stochastic ones: under Kahan summation a term can live on in the compensation.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..formats import Rounding
from ..plan import Accumulator

DOTS = 6
"""Rows and columns of the sampled dot products."""
TERMS = 12
"""Places along a sum where terms are looked at."""
SEED = 0
"""Of stochastic sums."""
_AT_ONCE = 4
"""Places in one product: more need more memory, fewer more time."""


class SumTally:
    """Sampled sums of one product of one layer."""

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator
        self._noise = self._power = 0.0
        self._lost: list[float] = []
        self._terms = 0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add the dot products of (M, K) and (K, N) matrices; non-finite ones add nothing."""
        a, b = a.float().cpu(), b.float().cpu()
        if not (a.isfinite().all() and b.isfinite().all()) or not a.shape[1]:
            return
        exact = a.double() @ b.double()
        got = self._accumulator.multiply(a, b, SEED).double()
        self._noise += float((torch.nan_to_num(got) - exact).square().sum())
        self._power += float(exact.square().sum())
        self._terms = a.shape[1]
        if _is_running(self._accumulator):
            self._lost.append(_terms_lost(a, b, self._accumulator))

    def measures(self) -> dict[str, float]:
        """Return the measures by name; none where no sum was seen."""
        if not self._power:
            return {}
        found = {"terms": float(self._terms), "sum_error": math.sqrt(self._noise / self._power)}
        if self._lost:
            found["terms_lost"] = sum(self._lost) / len(self._lost)
        return found


def can_sum(layer: nn.Module) -> bool:
    """Whether the sums of a layer can be judged."""
    return isinstance(layer, nn.Linear | nn.Conv2d)


class LayerSums:
    """The three products of a linear or convolution layer, from its operands as they come by."""

    def __init__(self, layer: nn.Module, accumulator: Accumulator) -> None:
        self._layer, self.accumulator = layer, accumulator
        self.tallies = {name: SumTally(accumulator) for name in ("forward", "error", "gradient")}
        self._x: Tensor | None = None
        self._w: Tensor | None = None

    @torch.no_grad()
    def forward(self, x: Tensor, w: Tensor) -> None:
        """Take the operands of the forward product: one with x (input) and w (weight)."""
        self._x, self._w = x.detach(), w.detach()
        if isinstance(self._layer, nn.Conv2d):
            a, b = self._conv_forward(self._layer, self._x[:1], self._w)
        else:
            a, b = _some(self._x.flatten(0, -2), 0), _some(self._w, 0).T
        self.tallies["forward"].add(a, b)

    @torch.no_grad()
    def backward(self, error: Tensor) -> None:
        """Take the error, the other operand of both products of the backward pass."""
        x, w, self._x, self._w = self._x, self._w, None, None
        if x is None or w is None:
            return
        if isinstance(self._layer, nn.Conv2d):
            self.tallies["gradient"].add(*_conv_gradient(self._layer, x, error))
            return
        x, error = x.flatten(0, -2), error.flatten(0, -2)
        self.tallies["error"].add(_some(error, 0), _some(w, 1))
        self.tallies["gradient"].add(_some(error, 1).T, _some(x, 1))

    def _conv_forward(self, layer: nn.Conv2d, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        inside, outside = w.shape[1], w.shape[0] // layer.groups
        x = _padded(layer, x)[:, :inside].float()
        size = (int(w.shape[2]), int(w.shape[3]))
        patches = F.unfold(x, size, dilation=layer.dilation, stride=layer.stride)
        return _some(patches[0].T, 0), _some(w[:outside].flatten(1), 0).T


def _conv_gradient(layer: nn.Conv2d, x: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors of some outputs and the inputs of some taps, over batch and positions."""
    inside = layer.in_channels // layer.groups
    high, wide = layer.kernel_size
    x = _padded(layer, x)
    rows, columns = error.shape[2:]
    taps = []
    for index in _places(inside * high * wide, DOTS):
        channel, tap = divmod(index, high * wide)
        top, left = (t * d for t, d in zip(divmod(tap, wide), layer.dilation, strict=True))
        window = x[:, channel, top :: layer.stride[0], left :: layer.stride[1]]
        taps.append(window[:, :rows, :columns].flatten())
    errors = error[:, : layer.out_channels // layer.groups].transpose(0, 1).flatten(1)
    return _some(errors, 0), torch.stack(taps, 1)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def _is_running(accumulator: Accumulator) -> bool:
    """Whether a sum over the first terms is a step of the whole sum, and the same each time."""
    plain = accumulator.adder == "sequential" and not accumulator.kahan
    return plain and accumulator.precision.rounding is not Rounding.STOCHASTIC


def _terms_lost(a: Tensor, b: Tensor, accumulator: Accumulator) -> float:
    """Return the share of terms that leave the running sum as it was; 0 where all are zero."""
    length = a.shape[1]
    plain = replace(accumulator, chunk=None)
    chunk = min(accumulator.chunk or length, length)
    groups: list[list[int]] = []
    for k in _places(length, TERMS):  # places of one chunk go together, a few at once
        if groups and k // chunk == groups[-1][0] // chunk and len(groups[-1]) < _AT_ONCE:
            groups[-1].append(k)
        else:
            groups.append([k])
    counts = [_lost_at(a, b, group, group[0] // chunk * chunk, plain) for group in groups]
    present = sum(count[1] for count in counts)
    share = sum(count[0] for count in counts) / present if present else 0.0
    if chunk == length:
        return share
    number = -(-length // chunk)
    rest = number * chunk - length  # zeros behind the last chunk change nothing
    left = F.pad(a, (0, rest)).view(-1, number, chunk).transpose(0, 1)
    right = F.pad(b, (0, 0, 0, rest)).view(number, chunk, -1)
    sums = plain.multiply(left, right, SEED).permute(1, 2, 0).flatten(0, 1)
    later = _terms_lost(sums, torch.ones(number, 1), replace(plain, product=None))
    return 1 - (1 - share) * (1 - later)


def _lost_at(
    a: Tensor, b: Tensor, places: list[int], start: int, plain: Accumulator
) -> tuple[int, int]:
    """Return how many terms at some places leave the sum from ``start`` as it was, and all of them.

    One product for all: a sum up to a place is the whole one with zeros behind it, since adding 0
    changes no sum.
    """
    end = places[-1] + 1
    index = torch.arange(start, end)[:, None]
    ends = [k + more for k in places for more in (0, 1)]
    columns = [torch.where(index < e, b[start:end], 0.0) for e in ends]
    sums = plain.multiply(a[:, start:end], torch.cat(columns, 1), SEED).chunk(len(ends), 1)
    lost = present = 0
    for k, before, after in zip(places, sums[::2], sums[1::2], strict=True):
        term = a[:, k, None] * b[k] != 0
        present += int(term.sum())
        lost += int((term & (before == after)).sum())
    return lost, present


def _some(x: Tensor, axis: int) -> Tensor:
    """Return up to ``DOTS`` evenly spaced slices along an axis."""
    return x.index_select(axis, torch.tensor(_places(x.shape[axis], DOTS), device=x.device))


def _places(length: int, most: int) -> list[int]:
    """Return up to ``most`` evenly spaced indices below ``length``."""
    count = min(length, most)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]
