"""How much each role of each layer suffers from fewer bits: the order in which to narrow them.

A short training under the reference is watched. Each tensor that a layer rounds there is rounded
in every choice as well, and the noise that this adds is measured as the diagnosis measures it:
noise to signal, sum((x - q)^2) / sum(x^2). So the tensors are those of a healthy training.

Noise of stochastic rounding has mean 0, and momentum averages it over steps: in errors and
gradients it counts (1 - m) / (1 + m), the variance that the moving mean of momentum m leaves of
independent noise. That all roles else count alike is a heuristic; the search corrects it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import torch.nn.functional as F

from ...diagnosis.tensors import TensorTally
from ...formats import Rounding
from ...kernels import quantize
from ...nn.watch import RoundingEvent, watch_roundings
from ..data import DataSet
from ..run import RunConfig
from ..trainer import Training
from .space import Levels, Space, Variable

STEPS, EVERY = 48, 8
"""Steps of the watched training, and how many of them one is looked at."""

Noise = Mapping[str, list[float]]
"""Variable name -> noise to signal of each choice; 0 where nothing was lost or seen."""


def measure_noise(config: RunConfig, data: DataSet, space: Space) -> dict[str, list[float]]:
    """Train for some steps under the reference and return the noise of each choice.

    Args:
        config: a trial's training.
        data: its data set.
        space: the choices.
    """
    variables = {(v.layer, v.role): v for v in space.variables}
    tallies = {
        v.name: [TensorTally(p.format, rounded=True) for p in v.choices] for v in space.variables
    }

    def rounded(event: RoundingEvent) -> None:
        variable = variables.get((event.layer, event.role))
        if variable is None:
            return
        for precision, tally in zip(variable.choices, tallies[variable.name], strict=True):
            seed = 0 if precision.rounding is Rounding.STOCHASTIC else None
            after = quantize(event.before, precision, seed=seed)
            tally.add(event.before, after)

    training = Training(config, data)
    optimizer = training.configure_optimizers()["optimizer"]
    for step, (x, y) in enumerate(data.train_batches(config.batch_size, seed=config.seed)):
        if step == STEPS:
            break
        look = step % EVERY == 0
        stop: Callable[[], None] = watch_roundings(training.model, rounded) if look else _nothing
        optimizer.zero_grad()
        F.cross_entropy(training(x).flatten(0, -2), y.flatten()).backward()  # type: ignore[no-untyped-call]
        stop()
        optimizer.step()
    return {name: [_noise(tally) for tally in found] for name, found in tallies.items()}


def order(
    space: Space, noise: Noise, price: Callable[[Levels], float], momentum: float
) -> list[Levels]:
    """Return plans from the reference to the narrowest, each one narrowing one variable further.

    The next to be narrowed is the one that saves most for the noise it adds; its saving is taken
    from the reference with this variable alone narrowed.

    Args:
        space: the choices.
        noise: of each choice, as ``measure_noise`` returns it.
        price: of a plan.
        momentum: of the training.
    """
    levels = list(space.start)

    def alone(place: int, level: int) -> float:
        return price((*space.start[:place], level, *space.start[place + 1 :]))

    def worth(place: int, level: int) -> float:
        """Return the negative worth of going one below a level: the heap's least comes first."""
        variable = space.variables[place]
        saved = alone(place, level) - alone(place, level - 1)
        costs = noise[variable.name]
        added = (costs[level - 1] - costs[level]) * _weight(variable, momentum)
        return -saved / max(added, 1e-12)

    moves = [(worth(i, level), i) for i, level in enumerate(levels) if level > 0]
    heapq.heapify(moves)
    steps = [tuple(levels)]
    while moves:
        _, place = heapq.heappop(moves)
        levels[place] -= 1
        steps.append(tuple(levels))
        if levels[place] > 0:
            heapq.heappush(moves, (worth(place, levels[place]), place))
    return steps


def _weight(variable: Variable, momentum: float) -> float:
    stochastic = variable.choices[0].rounding is Rounding.STOCHASTIC
    if stochastic and variable.role in ("error", "gradient"):
        return (1 - momentum) / (1 + momentum)
    return 1.0


def _noise(tally: TensorTally) -> float:
    measures = tally.measures()
    decibels = measures.get("sqnr_db")
    return 0.0 if decibels is None else 10.0 ** (-decibels / 10)


def _nothing() -> None:
    """Stop nothing."""
