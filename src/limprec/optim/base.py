"""What all optimizers share: formats of parameters and states, keys, write-back, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from ..errors import LimprecError, OptimizerError
from ..formats import Format, Precision, Rounding, parse_precision
from ..kernels import Key, check_carrier, round_to, storage_format
from ..kernels.random import OPTIMIZER_STREAM
from ..nn.tags import plan_of
from .writeback import (
    Observer,
    Storage,
    UpdateEvent,
    WriteBack,
    carry_name,
    first_rounding,
    parse_write_back,
    write_back,
)

FormatLike = str | Format | Precision | None
PLAN = "plan"
_PARAMETER, _CARRY, _FIRST_STATE = 0, 1, 2
_STREAMS_PER_PARAMETER = 8


class WriteBackOptimizer(Optimizer):
    """Base of the optimizers: a subclass computes the update, this class stores the result.

    Every group may have its own options; see ``SGD`` for their meaning. The random state is the
    group's ``seed`` and ``steps``, both in ``state_dict``.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        """Round the parameters into their formats and make the carries."""
        self._observers: list[Observer] = []
        super().__init__(params, {**defaults, "steps": 0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its parameters are rounded into their formats here."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
            storages = [self._storage(p, group) for p in group["params"]]
        except LimprecError:
            self.param_groups.pop()  # no state half-changed
            raise
        first = sum(len(g["params"]) for g in self.param_groups[:-1])
        for index, (p, storage) in enumerate(zip(group["params"], storages, strict=True), first):
            wide = p.detach().to(_computing_dtype(p))
            key = self._key(group, index, _CARRY, storage.compensation)
            carry = first_rounding(p.detach(), wide, storage, key)
            if carry is not None:
                name = carry_name(storage.strategy)
                assert name is not None
                self.state[p][name] = carry

    def formats_of(self, p: Tensor) -> dict[str, Format]:
        """Return the format of everything that training keeps for one parameter of a group.

        Returns:
            ``parameter``, ``gradient`` (the plan's where the layer was converted, else that of
            the dtype), ``compensation`` or ``master``, and the states by their names.

        Raises:
            OptimizerError: if ``p`` is no parameter of this optimizer.
        """
        for group in self.param_groups:
            if any(p is q for q in group["params"]):
                break
        else:
            raise OptimizerError("formats_of", "not a parameter of this optimizer", "give one")
        storage, plan = self._storage(p, group), plan_of(p)
        gradient = plan.gradient.format if plan else storage_format(p.dtype, "formats_of")
        formats: dict[str, Format] = {"parameter": storage.precision.format, "gradient": gradient}
        if storage.strategy is WriteBack.KAHAN:
            formats["compensation"] = storage.compensation.format
        if storage.strategy is WriteBack.MASTER:
            formats["master"] = storage_format(_computing_dtype(p), "formats_of")
        state_format = self._role(p, group, "state_format", "momentum").format
        return {**formats, **dict.fromkeys(self._states(group), state_format)}

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call ``observer(parameter, event)`` after each write-back; return what stops it."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step; parameters without a gradient are left alone.

        A NaN or infinite gradient propagates into the parameter: nothing is silently eaten.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        index = 0
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group, index)
                index += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint: copies of its tensors, in the dtype that they were saved in.

        ``Optimizer.load_state_dict`` alone would recast them to the parameter's dtype, or share
        them with the checkpoint.
        """
        super().load_state_dict(state_dict)
        saved = [i for g in state_dict["param_groups"] for i in g["params"]]
        params = [p for g in self.param_groups for p in g["params"]]
        for number, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Check and normalise a group's options; subclasses add theirs."""
        group["writeback"] = str(parse_write_back(group["writeback"]))
        for option in ("lr", "weight_decay"):
            value = float(group[option])
            if not (math.isfinite(value) and value >= 0):
                raise OptimizerError(type(self).__name__, f"{option} is {value}", "give 0 or more")
        seed = group["seed"]
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise OptimizerError(
                type(self).__name__, f"seed is {seed!r}", "give an integer from 0 to 2^63 - 1"
            )
        for option in ("format", "state_format", "compensation_format"):
            if group[option] is not None and group[option] != PLAN:
                group[option] = str(parse_precision(group[option]))

    def _step_one(self, p: Tensor, group: dict[str, Any], index: int) -> None:
        storage = self._storage(p, group)
        update = self._update(p, group, index)
        name = carry_name(storage.strategy)
        carry = self.state[p][name] if name else None
        before = (p.clone(), None if carry is None else carry.clone()) if self._observers else None
        stochastic = Precision(storage.precision.format, Rounding.STOCHASTIC)
        write_back(
            p,
            update,
            carry,
            storage,
            self._key(group, index, _PARAMETER, stochastic),
            self._key(group, index, _CARRY, storage.compensation),
        )
        if before is not None:
            event = UpdateEvent(update, before[0], p.detach(), before[1], carry)
            for observer in self._observers:
                observer(p, event)

    def _update(self, p: Tensor, group: dict[str, Any], index: int) -> Tensor:
        """Return what is to be added to ``p``, in the computing dtype; keep the states."""
        raise NotImplementedError

    def _states(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the states that ``_update`` keeps under a group's options."""
        raise NotImplementedError

    def _store_state(
        self, p: Tensor, group: dict[str, Any], index: int, name: str, value: Tensor
    ) -> Tensor:
        """Round a state into its format, keep it, and return it in the computing dtype."""
        precision = self._role(p, group, "state_format", "momentum")
        place = _FIRST_STATE + self._states(group).index(name)
        key = self._key(group, index, place, precision)
        rounded = round_to(value, precision, key)
        state = self.state[p]
        if name in state:
            state[name].copy_(rounded)
        else:
            state[name] = rounded.to(p.dtype, copy=True)
        return rounded

    def _storage(self, p: Tensor, group: dict[str, Any]) -> Storage:
        precision = self._role(p, group, "format", None)
        compensation = self._role(p, group, "compensation_format", "compensation")
        if group["compensation_rounding"] is not None:
            compensation = parse_precision(
                f"{compensation.format}:{group['compensation_rounding']}"
            )
        strategy = parse_write_back(group["writeback"])
        return Storage(precision, compensation, strategy, group["strict"])

    def _role(self, p: Tensor, group: dict[str, Any], option: str, role: str | None) -> Precision:
        """Return the precision of the parameter (role None) or of a tensor beside it.

        In order: the group's option, the plan's word on the role, the parameter's own format.
        """
        given = group[option]
        from_plan = group["format"] == PLAN
        plan = plan_of(p) if from_plan or given == PLAN else None
        if given is not None and given != PLAN:
            precision = parse_precision(given)
        elif plan is not None and role is None:
            precision = plan.parameter
        elif plan is not None and (named := getattr(plan, str(role))) is not None:
            precision = named
        elif role is not None:
            return Precision(self._role(p, group, "format", None).format)
        else:
            precision = Precision(storage_format(p.dtype, type(self).__name__))
        check_carrier(precision.format, p.dtype, f"{type(self).__name__}: {option}")
        return precision

    def _key(
        self, group: dict[str, Any], index: int, place: int, precision: Precision
    ) -> Key | None:
        if precision.rounding is not Rounding.STOCHASTIC:
            return None
        stream = OPTIMIZER_STREAM + index * _STREAMS_PER_PARAMETER + place
        return Key(group["seed"], stream, group["steps"])


def _computing_dtype(p: Tensor) -> torch.dtype:
    """Return the dtype of the arithmetic: float64 for float64 parameters, else float32."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32
