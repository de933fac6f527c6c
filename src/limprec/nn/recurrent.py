"""Recurrent layers between rounded operands: LSTM, GRU and RNN, whole sequences and single cells.

One layer in one direction has a product for the inputs of the whole sequence,
``gates_x = Qa(x) Qw(W_ih)^T + Qb(b_ih)``, and at each step one for the state before it,
``gates_h = Qa(h) Qw(W_hh)^T + Qb(b_hh)``; with a projection a third, ``h = Qa(h') Qw(W_hr)^T``. The
error of each is rounded where it comes back: that of the inputs once, those of the state step by
step. Weights and biases are rounded once in a forward pass, so their gradients, summed over the
steps, are rounded once too. Gates and cell states are element-wise work, in the carrier.

Every product is a call of the layer: its random bits are its own, in the order inputs, steps as
they run (backwards in a reverse direction), projections; direction by direction, layer by layer.
After 2048 calls in one forward pass the streams begin anew: roundings that many products apart
share their random bits, each still unbiased.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import KINDS, Kind
from .operators import Args, Kwargs, Operator
from .products import SharedWeight
from .state import LayerState

State = tuple[Tensor, ...]
"""Hidden state (N, H), and the cell state (N, H) of an LSTM."""
Advance = Callable[[Tensor, Tensor, State], State]
"""Gates of the input, gates of the state, the state -> the next one."""


def _lstm(x: Tensor, h: Tensor, state: State) -> State:
    """Hochreiter and Schmidhuber 1997 with forget gates; gates in the order i, f, g, o."""
    i, f, g, o = (x + h).chunk(4, -1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru(x: Tensor, h: Tensor, state: State) -> State:
    """Cho et al. 2014, the reset gate behind the product, as cuDNN has it; gates r, z, n."""
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return (new + torch.sigmoid(xz + hz) * (state[0] - new),)


def _tanh(x: Tensor, h: Tensor, state: State) -> State:
    """Elman 1990."""
    return (torch.tanh(x + h),)


def _relu(x: Tensor, h: Tensor, state: State) -> State:
    return (torch.relu(x + h),)


@dataclass(frozen=True)
class Weights:
    """Parameters of one layer in one direction, G gates for H hidden numbers.

    Args:
        inputs: W_ih, (G H, I).
        state: W_hh, (G H, H), or (G H, P) with a projection.
        input_bias: b_ih, (G H).
        state_bias: b_hh, (G H).
        projection: W_hr, (P, H).
    """

    inputs: Tensor
    state: Tensor
    input_bias: Tensor | None = None
    state_bias: Tensor | None = None
    projection: Tensor | None = None

    def named(self, suffix: str) -> dict[str, Tensor]:
        """Return name -> parameter, those that are there."""
        every = {
            "weight_ih": self.inputs,
            "weight_hh": self.state,
            "bias_ih": self.input_bias,
            "bias_hh": self.state_bias,
            "weight_hr": self.projection,
        }
        return {name + suffix: t for name, t in every.items() if t is not None}


@dataclass(frozen=True)
class Recurrent:
    """One call of a recurrent function of PyTorch.

    Args:
        word: its name.
        kind: its layer is of this kind.
        advance: the element-wise work of a step.
        input: (T, N, I), (N, T, I), packed (sum of batch sizes, I), or (N, I) of a cell.
        weights: of each layer and direction, or of a cell.
        products: how many it has.
    """

    word: str
    kind: Kind
    advance: Advance
    input: Tensor
    weights: Sequence[Weights]
    products: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Name -> what it multiplies."""
        found = {"input": self.input}
        for number, weights in enumerate(self.weights):
            found |= weights.named(f"_{number}")
        return found

    @property
    def operator(self) -> Operator:
        """What conversion calls it by."""
        roles = {n: "activation" if n == "input" else n.partition("_")[0] for n in self.tensors}
        return Operator(self.word, self.kind, roles, tuple(roles))

    def compute(self, layer: LayerState, call: int) -> Any:
        """Return what the function returns, between rounded operands."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Cell(Recurrent):
    state: State

    def compute(self, layer: LayerState, call: int) -> Any:
        """Return the next state."""
        weights = self.weights[0]
        gates = _multiply(layer, call, self.input, weights.inputs, weights.input_bias)
        own = _multiply(layer, call + 1, self.state[0], weights.state, weights.state_bias)
        state = self.advance(gates, own, self.state)
        return state if len(state) > 1 else state[0]


@dataclass(frozen=True)
class _Layers(Recurrent):
    initial: State
    sizes: Sequence[int]
    is_packed: bool
    batch_first: bool
    directions: int
    dropout: float

    def compute(self, layer: LayerState, call: int) -> Any:
        """Return the outputs of the last layer, and the last state of every layer."""
        x = self.input.transpose(0, 1) if self.batch_first else self.input
        finals: list[State] = []
        each = self.products // len(self.weights)
        while len(finals) < len(self.weights):
            found = []
            for direction in range(self.directions):
                output, final = self._run(
                    layer, call + each * len(finals), x, len(finals), reverse=direction == 1
                )
                finals.append(final)
                found.append(output)
            x = torch.cat(found, -1) if len(found) > 1 else found[0]
            if self.dropout and len(finals) < len(self.weights):
                x = F.dropout(x, self.dropout)
        output = x.transpose(0, 1) if self.batch_first else x
        return output, *map(torch.stack, zip(*finals, strict=True))

    def _run(
        self, layer: LayerState, call: int, x: Tensor, number: int, reverse: bool
    ) -> tuple[Tensor, State]:
        """Run one layer in one direction; packed sequences leave it, or join it, as they end."""
        weights, steps = self.weights[number], len(self.sizes)
        gates = _multiply(layer, call, x, weights.inputs, weights.input_bias)
        at_step = torch.split(gates, list(self.sizes)) if self.is_packed else gates.unbind(0)
        call += 1
        own, projection = SharedWeight(layer, call, weights.state, weights.state_bias), None
        if weights.projection is not None:
            projection = SharedWeight(layer, call + steps, weights.projection)
        initial = tuple(s[number] for s in self.initial)
        order = range(steps)[::-1] if reverse else range(steps)
        state = tuple(s[: self.sizes[order[0]]] for s in initial)
        ended: list[State] = []
        outputs: dict[int, Tensor] = {}
        for t in order:
            running, size = len(state[0]), self.sizes[t]
            if size < running:
                ended.append(tuple(s[size:] for s in state))
                state = tuple(s[:size] for s in state)
            elif size > running:
                pairs = zip(state, initial, strict=True)
                state = tuple(torch.cat((s, first[running:size])) for s, first in pairs)
            state = self.advance(at_step[t], own.multiply(call, state[0]), state)
            if projection is not None:
                state = (projection.multiply(call + steps, state[0]), *state[1:])
            outputs[t] = state[0]
            call += 1
        together = [outputs[t] for t in range(steps)]
        output = torch.cat(together) if self.is_packed else torch.stack(together)
        if ended:
            state = tuple(map(torch.cat, zip(state, *reversed(ended), strict=True)))
        return output, state


def _multiply(
    layer: LayerState, call: int, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    return SharedWeight(layer, call, weight, bias).multiply(call, x)


Read = Callable[[Args, Kwargs], Recurrent]


def _sequence(word: str, kind: Kind, advance: Advance) -> Read:
    def read(args: Args, kwargs: Kwargs) -> Recurrent:
        is_packed = "batch_sizes" in kwargs or isinstance((*args, *[None] * 4)[3], list | tuple)
        given = dict(zip(_PACKED if is_packed else _WHOLE, args, strict=False)) | kwargs
        hx, x = given["hx"], given["data" if is_packed else "input"]
        directions = 2 if given["bidirectional"] else 1
        batch_first = not is_packed and given["batch_first"]
        if is_packed:
            sizes = given["batch_sizes"].tolist()
        else:
            length, batch = x.shape[:2][::-1] if batch_first else x.shape[:2]
            sizes = [batch] * length
        weights = _weights(given["params"], given["has_biases"], directions * given["num_layers"])
        a_step = 1 if weights[0].projection is None else 2
        return _Layers(
            word,
            kind,
            advance,
            x,
            weights,
            len(weights) * (1 + a_step * len(sizes)),
            (hx,) if isinstance(hx, Tensor) else tuple(hx),
            sizes,
            is_packed,
            batch_first,
            directions,
            given["dropout"] if given["train"] else 0.0,
        )

    return read


_OPTIONS = ("hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
_WHOLE = ("input", *_OPTIONS, "batch_first")
_PACKED = ("data", "batch_sizes", *_OPTIONS)


def _weights(parameters: Sequence[Tensor], has_biases: bool, runs: int) -> list[Weights]:
    each = len(parameters) // runs
    found = []
    for first in range(0, len(parameters), each):
        own = parameters[first : first + each]
        biases = tuple(own[2:4]) if has_biases else (None, None)
        rest = own[2 + 2 * has_biases :]
        found.append(Weights(own[0], own[1], *biases, *rest))
    return found


def _cell(word: str, kind: Kind, advance: Advance) -> Read:
    def read(args: Args, kwargs: Kwargs) -> Recurrent:
        given = dict(zip(_CELL, args, strict=False)) | kwargs
        hx = given["hx"]
        weights = Weights(given["w_ih"], given["w_hh"], given.get("b_ih"), given.get("b_hh"))
        state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        return _Cell(word, kind, advance, given["input"], [weights], 2, state)

    return read


_CELL = ("input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")

_LSTM, _GRU, _RNN = (KINDS[name] for name in ("LSTM", "GRU", "RNN"))

RECURRENT: Mapping[Any, Read] = {
    torch.lstm: _sequence("lstm", _LSTM, _lstm),
    torch.gru: _sequence("gru", _GRU, _gru),
    torch.rnn_tanh: _sequence("rnn", _RNN, _tanh),
    torch.rnn_relu: _sequence("rnn", _RNN, _relu),
    torch.lstm_cell: _cell("lstm", _LSTM, _lstm),
    torch.gru_cell: _cell("gru", _GRU, _gru),
    torch.rnn_tanh_cell: _cell("rnn", _RNN, _tanh),
    torch.rnn_relu_cell: _cell("rnn", _RNN, _relu),
}
"""Function of PyTorch -> what reads its arguments."""
