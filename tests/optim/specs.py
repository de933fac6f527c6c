"""What is particular to each optimizer: one entry each, and ``test_all`` judges them all alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import limprec as lp
from limprec.optim.base import WriteBackOptimizer

Options = dict[str, Any]


class PublishedLion(torch.optim.Optimizer):
    """Chen et al., arXiv 2302.06675, algorithm 2."""

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        self.formula = (lr, *betas, weight_decay, -1 if maximize else 1)
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        lr, beta1, beta2, decay, sign = self.formula
        for p in self.param_groups[0]["params"]:
            g, m = sign * p.grad, self.state[p].get("exp_avg", torch.zeros_like(p))
            update = torch.sign(beta1 * m + (1 - beta1) * g)
            p.sub_(lr * update + lr * decay * p)
            self.state[p]["exp_avg"] = beta2 * m + (1 - beta2) * g


def _always(options: Options) -> bool:
    return True


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer.

    Args:
        ours: its class.
        peer: what it equals in fp32 and fp64 with ``nearest``; takes the same arguments.
        grid: values to try for each of its arguments.
        lr: a rate that moves parameters of about 1 by a percent or so.
        states: the states that ``typical`` makes, by the names of torch.optim.
        typical: arguments of an ordinary run.
        ulps: of the largest parameter that a step may differ from the peer (which contracts
            multiply-adds and orders its operations otherwise).
        allowed: whether a combination of the grid is one.
        bad: arguments that are refused, and what the error says.
        matrices: whether it takes matrices alone.
        elementwise: whether an element's update depends on that element alone.
        vector_states: the states of vectors, where they are others.
        own_memory: whether its states are float32 whatever the options, and have their own shapes.
    """

    ours: type[WriteBackOptimizer]
    peer: Callable[..., torch.optim.Optimizer]
    grid: Mapping[str, Sequence[Any]]
    lr: float
    states: tuple[str, ...]
    typical: Options = field(default_factory=dict)
    ulps: float = 1
    allowed: Callable[[Options], bool] = _always
    bad: tuple[tuple[Options, str], ...] = ()
    matrices: bool = False
    elementwise: bool = True
    vector_states: tuple[str, ...] = ()
    own_memory: bool = False

    def __str__(self) -> str:
        """Name the test."""
        return self.ours.__name__

    def states_of(self, p: Tensor) -> tuple[str, ...]:
        """Return the states of one parameter."""
        return self.states if p.ndim > 1 or not self.vector_states else self.vector_states

    def keeping(self, options: Options) -> Options:
        """Return options of a ``Keeping`` without those that it refuses."""
        return {n: v for n, v in options.items() if n != "state_format" or not self.own_memory}

    def parameters(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
        """Return parameters that it takes, about 1 in size, the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(seed)
        values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in self.shapes]
        return [torch.nn.Parameter(v.bfloat16().to(dtype)) for v in values]

    def chosen(self, model: torch.nn.Module) -> list[Tensor]:
        """Return the parameters of a model that it takes."""
        return [p for p in model.parameters() if p.dim() == 2 or not self.matrices]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes to try."""
        return [(9, 5), (4, 6)] if self.matrices else [(9, 5), (7,), (2, 3, 4)]

    def make(self, params: Any, **options: Any) -> WriteBackOptimizer:
        """Make the optimizer of an ordinary run; ``options`` go first."""
        return self.ours(params, **{"lr": self.lr, **self.typical, **options})


BETAS = [(0.9, 0.999), (0.5, 0.9), (0.0, 0.0)]
BAD_BETAS = ({"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\); give two from 0 to less than 1")
BAD_EPS = ({"eps": -1.0}, "eps is -1.0; give 0 or more")

SGD = OptimizerSpec(
    lp.optim.SGD,
    torch.optim.SGD,
    {
        "momentum": [0.0, 0.5, 0.9],
        "dampening": [0.0, 0.1],
        "weight_decay": [0.0, 0.01],
        "nesterov": [False, True],
        "maximize": [False, True],
    },
    lr=0.05,
    states=("momentum_buffer",),
    typical={"momentum": 0.9, "weight_decay": 0.01},
    allowed=lambda o: not o["nesterov"] or (o["momentum"] > 0 and o["dampening"] == 0),
    bad=(
        ({"momentum": 1.0}, "momentum is 1.0; give 0 or more, less than 1"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov without momentum or with dampening"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "set momentum, dampening=0"),
    ),
)
ADAM = OptimizerSpec(
    lp.optim.Adam,
    torch.optim.Adam,
    {
        "betas": BETAS,
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.01],
        "amsgrad": [False, True],
        "maximize": [False, True],
        "decoupled_weight_decay": [False, True],
    },
    lr=0.02,
    states=("exp_avg", "exp_avg_sq"),
    typical={"weight_decay": 0.01},
    bad=(BAD_BETAS, BAD_EPS, ({"capturable": True}, "leave capturable out")),
)
ADAMW = OptimizerSpec(
    lp.optim.AdamW,
    torch.optim.AdamW,
    {
        "betas": BETAS,
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.01, 0.1],
        "amsgrad": [False, True],
        "maximize": [False, True],
    },
    lr=0.02,
    states=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    typical={"weight_decay": 0.1, "amsgrad": True},
    bad=(BAD_BETAS, BAD_EPS, ({"differentiable": True}, "leave differentiable out")),
)
LION = OptimizerSpec(
    lp.optim.Lion,
    PublishedLion,
    {"betas": BETAS, "weight_decay": [0.0, 0.1], "maximize": [False, True]},
    lr=0.01,
    states=("exp_avg",),
    typical={"weight_decay": 0.1},
    ulps=0,
    bad=(BAD_BETAS,),
)
RMSPROP = OptimizerSpec(
    lp.optim.RMSprop,
    torch.optim.RMSprop,
    {
        "alpha": [0.99, 0.5],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.01],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
        "maximize": [False, True],
    },
    lr=0.005,
    states=("square_avg", "grad_avg", "momentum_buffer"),
    typical={"momentum": 0.5, "centered": True},
    bad=(BAD_EPS, ({"alpha": 1.0}, "alpha is 1.0"), ({"momentum": -0.1}, "momentum is -0.1")),
)

ADAFACTOR = OptimizerSpec(
    lp.optim.Adafactor,
    torch.optim.Adafactor,
    {
        "beta2_decay": [-0.8, -0.5, 0.0],
        "eps": [(None, 1e-3), (1e-10, 0.1)],
        "d": [1.0, 2.0],
        "weight_decay": [0.0, 0.01],
        "maximize": [False, True],
    },
    lr=0.02,
    states=("row_var", "col_var"),
    typical={"weight_decay": 0.1},
    bad=(
        ({"beta2_decay": 0.1}, "beta2_decay is 0.1; give 0 or less"),
        ({"d": 0.5}, "d is 0.5; give 1 or more"),
        ({"eps": (None, -1.0)}, "eps is -1.0; give 0 or more"),
        ({"state_format": "bf16"}, "state_format bf16; leave it out"),
    ),
    elementwise=False,
    vector_states=("variance",),
    own_memory=True,
)
MUON = OptimizerSpec(
    lp.optim.Muon,
    torch.optim.Muon,
    {
        "weight_decay": [0.0, 0.1],
        "momentum": [0.0, 0.5, 0.95],
        "nesterov": [False, True],
        "ns_steps": [3, 5],
        "adjust_lr_fn": [None, "original", "match_rms_adamw"],
    },
    lr=0.02,
    states=("momentum_buffer",),
    bad=(
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"ns_steps": 0}, "ns_steps is 0; give 1 to 99"),
        ({"ns_coefficients": (1.0, 2.0)}, "give three numbers"),
        ({"adjust_lr_fn": "wild"}, "unknown adjust_lr_fn 'wild'; use one of original"),
    ),
    matrices=True,
    elementwise=False,
)

SPECS = [SGD, ADAM, ADAMW, LION, RMSPROP, ADAFACTOR, MUON]


@dataclass(frozen=True)
class Keeping:
    """One way to keep parameters and states: a dtype, options, and the memory that follows."""

    dtype: torch.dtype
    options: Options
    state: torch.dtype
    """Memory of a state that is no second moment."""
    second: torch.dtype
    """Memory of a second moment."""
    compensation: torch.dtype

    @property
    def format(self) -> str:
        """Return the format that the parameters are in."""
        return str(self.options.get("format") or OWN[self.dtype])


OWN = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e5m2: "e5m2",
}
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
STOCHASTIC = {"compensation_rounding": "stochastic"}

KEEPINGS = {
    "fp32": Keeping(FP32, {}, FP32, FP32, FP32),
    "bf16": Keeping(BF16, STOCHASTIC, BF16, BF16, BF16),
    "fp16": Keeping(FP16, {}, FP16, BF16, FP16),
    "e4m3": Keeping(E4M3, STOCHASTIC, BF16, BF16, torch.int8),
    "e5m2": Keeping(E5M2, {"compensation_format": "e5m2:stochastic"}, BF16, BF16, E5M2),
    "mxfp8": Keeping(BF16, {"state_format": "mxfp8"}, E4M3, E5M2, BF16),
    "ulp8": Keeping(BF16, {"compensation_format": "ulp8:stochastic"}, BF16, BF16, torch.int8),
    "ulp16": Keeping(E4M3, {"compensation_format": "ulp16"}, BF16, BF16, torch.int16),
    "dfx8": Keeping(
        FP32, {"format": "dfx8", "state_format": "dfx16:stochastic"} | STOCHASTIC, FP32, FP32, FP32
    ),
    "e4m3 simulated": Keeping(FP32, {"format": "e4m3", "state_format": "bf16"}, BF16, BF16, E4M3),
    "fx16.12": Keeping(
        FP32, {"format": "fx16.12", "state_format": "fp16"} | STOCHASTIC, FP16, FP16, FP32
    ),
}


def gradients(like: Sequence[Tensor], step: int, seed: int = 0) -> list[Tensor]:
    """Return gradients in float64 that lean one way and are noisy, some of them 0."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    drift = torch.Generator().manual_seed(seed)
    result = []
    for p in like:
        lean = torch.randn(p.shape, generator=drift, dtype=torch.float64)
        g = 0.5 * lean + torch.randn(p.shape, generator=generator, dtype=torch.float64)
        g = torch.where(torch.rand(p.shape, generator=generator) < 0.02, 0.0, g)
        result.append(g)
    return result


def run(
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    steps: range,
    seed: int = 0,
    rounded_to: torch.dtype | None = None,
) -> None:
    """Do the steps of these numbers, with gradients that are values of a dtype."""
    for step in steps:
        for p, g in zip(params, gradients(params, step, seed), strict=True):
            p.grad = g.to(rounded_to or p.dtype).to(p.dtype)
        optimizer.step()
