"""What all optimizers share: one mechanism from gradients to stored parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from ..errors import LimprecError, OptimizerError
from ..formats import Format
from ..kernels import dtype_format
from ..kernels.steps import (
    Flag,
    Rule,
    StepKey,
    StepSpec,
    Storage,
    WriteBack,
    carry_key,
    carry_name,
    computing_dtype,
    exact,
    first_rounding,
    first_stream,
    states,
    step,
    wide,
)
from ..kernels.steps.reference import step as reference_step
from ..nn.tags import plan_of
from . import full_precision
from .checkpoints import read_checkpoint
from .kept import Kept, keep, make_states
from .lines import Lot, Row, line_up
from .release import GradientRelease
from .shards import shard_of
from .storage import (
    DEFAULTS,
    StorageOptions,
    element_bits,
    option_text,
    state_storage,
)
from .writeback import Observer, UpdateEvent, parse_write_back


class WriteBackOptimizer(Optimizer):
    """Base of the optimizers: a subclass says the rule and its numbers, the steps do the rest.

    Every group may have its own options; see ``StorageOptions`` for those that all optimizers
    take. The random state is the group's ``seed`` and ``steps``, both in ``state_dict``.

    A subclass sets ``rule`` and implements ``_flags`` and ``_scalars``; one whose update is no
    element-wise formula takes ``Rule.ADD`` and implements ``_direction`` too.
    """

    rule: ClassVar[Rule]
    directs: ClassVar[bool] = False
    """Whether ``_direction`` stands for the gradient."""

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], storage: StorageOptions | None = None
    ) -> None:
        """Round the parameters into their formats and make what the write-back keeps."""
        unknown = set(storage or {}) - set(DEFAULTS)
        if unknown:
            raise OptimizerError(
                type(self).__name__,
                f"unknown option {', '.join(sorted(unknown))}",
                "use " + ", ".join(DEFAULTS),
            )
        self._observers: list[Observer] = []
        self._release: GradientRelease | None = None
        self._kept: dict[Tensor, Kept] = {}
        self._rows: list[list[Row]] = []
        self._lots: dict[int, Lot] = {}
        super().__init__(params, {**defaults, **DEFAULTS, **(storage or {}), "steps": 0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its parameters are rounded into their formats here."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
            kept = {p: self._keep(p, group) for p in group["params"]}
        except LimprecError:
            self.param_groups.pop()  # no state half-changed
            raise
        self._kept.update(kept)
        self.refresh(group["params"])

    # What the parameters are

    @torch.no_grad()
    def refresh(self, params: Iterable[Tensor] | None = None) -> None:
        """Take the parameters as they are now: round them, and make anew what lies beside them.

        For parameters that were changed after the optimizer was made, e.g. by loading a model.
        """
        chosen = None if params is None else set(params)
        for index, p, group in self._enumerate():
            if chosen is None or p in chosen:
                self._store(p, shard_of(p).local.to(computing_dtype(p)), group, index)

    def full_precision_state_dict(self, model: nn.Module | None = None) -> dict[str, Tensor]:
        """Return what is known of every parameter, in float32 (float64 for float64 parameters).

        A compensation is added to its parameter, a full-precision copy or joined halves stand for
        it. The tensors are copies.

        Args:
            model: gives the names; the rest of its state dict is copied as it is. Without it, the
                optimizer must have been made from ``model.named_parameters()``.

        Raises:
            OptimizerError: if there are no names.
        """
        return full_precision.save(self, model)

    def load_full_precision_state_dict(
        self, state: Mapping[str, Tensor], model: nn.Module | None = None
    ) -> None:
        """Take parameters from a full-precision checkpoint; what rounding takes is kept beside.

        Args:
            state: names and tensors, as ``full_precision_state_dict`` gives or any fp32 checkpoint
                of the model; names of no parameter are left to ``model``.
            model: gives the names, and takes its other entries (buffers) from ``state`` too.

        Raises:
            OptimizerError: for a parameter that is missing or of another shape; nothing is changed.
        """
        full_precision.load(self, state, model)

    @torch.no_grad()
    def exact(self, p: Tensor) -> Tensor:
        """Return a copy of all that is known of one parameter, in the computing dtype.

        Raises:
            OptimizerError: if ``p`` is no parameter of this optimizer.
        """
        spec = self._spec(p, self._group_of(p))
        carry = self._carry(p, spec.strategy)
        here = p if carry is None or carry.device == p.device else p.to(carry.device)
        return exact(here.detach(), carry, spec, computing_dtype(p)).to(p.device, copy=True)

    def formats_of(self, p: Tensor) -> dict[str, Format]:
        """Return the format of everything that training keeps for one parameter.

        Returns:
            ``parameter``, ``gradient`` (the plan's where the layer was converted, else that of
            the dtype), what the write-back keeps (``compensation``, ``pending``, ``master``), and
            the states by their names. A compensation in ulps and the low bits of a split
            parameter are counted, not formatted: see ``bits_of``.

        Raises:
            OptimizerError: if ``p`` is no parameter of this optimizer.
        """
        self._group_of(p)
        kept, named, plan = self._kept[p], self._kept[p].beside(), plan_of(p)
        gradient = plan.gradient.format if plan else dtype_format(p.dtype, "formats_of")
        formats: dict[str, Format] = {"parameter": kept.parameter.format, "gradient": gradient}
        counted = kept.carry is not None and (kept.carry.ulp_bits or _is_half(kept.carry))
        for name, storage in named.items():
            if not (counted and storage is kept.carry):
                formats[name] = storage.format
        return formats

    def bits_of(self, p: Tensor) -> dict[str, float]:
        """Return the bits an element of everything that training keeps for one parameter.

        Keys are those of ``formats_of``, and ``compensation`` or ``low_bits`` where those have no
        format; scales of blocks are counted in.
        """
        bits = {role: float(fmt.bits) for role, fmt in self.formats_of(p).items()}
        return bits | {n: element_bits(s) for n, s in self._kept[p].beside().items()}

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call ``observer(parameter, event)`` after each write-back; return what stops it."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def release_gradients(self) -> Callable[[], None]:
        """Step each parameter inside the backward pass, as soon as its gradient is there.

        The gradient is freed at once, so that only one is alive at a time. ``step`` then only ends
        the iteration; the bits are those of plain stepping. Gradient clipping, accumulation and a
        gradient scaler need all gradients together and raise ``OptimizerError``.

        Returns:
            What ends it.

        Raises:
            OptimizerError: if gradients are released already.
        """
        if self._release is not None:
            raise OptimizerError(
                "release_gradients", "gradients are released already", "call it once"
            )
        self._release = release = GradientRelease(self)

        def stop() -> None:
            release.remove()
            self._release = None

        return stop

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What a gradient scaler asks before it steps: whether it may leave unscaling to us."""
        if self._release is not None:
            raise OptimizerError(
                "gradient release",
                "a gradient scaler",
                "scale without release_gradients(): gradients are gone before they are unscaled",
            )
        return False

    # Stepping

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step; parameters without a gradient are left alone.

        A NaN or infinite gradient propagates into the parameter: nothing is silently eaten.

        Raises:
            OptimizerError: for a sparse or complex gradient, before anything is changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._release is not None:
            self._release.end_iteration()
        else:
            self._step_all()
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _step_all(self) -> None:
        """Step every parameter that has a gradient; one kernel call, opaque to the compiler."""
        found = []
        for number, group in enumerate(self.param_groups):
            rows, grads = [], []
            for row in self._rows_of(number, group):
                grad = row.p.grad
                if grad is not None:
                    if grad.layout is not torch.strided or grad.is_complex():
                        raise OptimizerError(
                            type(self).__name__,
                            f"a gradient that is {grad.layout}, {grad.dtype}",
                            "give dense gradients of real numbers",
                        )
                    rows.append(row)
                    grads.append(grad)
            found.append((group, rows, grads))
        for group, rows, grads in found:
            group["steps"] += 1
            self._step_rows(group, rows, grads)

    def _rows_of(self, number: int, group: dict[str, Any]) -> list[Row]:
        """Return the rows of a group: from last time, if its parameters are the same."""
        params = group["params"]
        if number < len(self._rows):
            rows = self._rows[number]
            if len(rows) == len(params) and all(map(is_, (row.p for row in rows), params)):
                return rows
        self._forget_rows()
        start = 0
        for one in self.param_groups:
            places = enumerate(one["params"], start)
            self._rows.append([Row(p, index) for index, p in places])
            start += len(one["params"])
        return self._rows[number]

    def _forget_rows(self) -> None:
        """Line everything up anew at the next step."""
        self._rows, self._lots = [], {}

    def _step_rows(self, group: dict[str, Any], rows: list[Row], grads: list[Tensor]) -> None:
        """Step some parameters of a group; the group's steps are counted already."""
        flags, strict, same = self._flags(group), group["strict"], True
        for row in rows:
            if row.line is None or not row.line.holds(flags, strict, row.state):
                same = False
                spec, state = self._spec(row.p, group, flags), self.state[row.p]
                make_states(row.p, state, self._kept[row.p].states, self._state_shape)
                shard, stream = shard_of(row.p), first_stream(row.index)
                row.state, row.line = state, line_up(spec, shard, state, stream)
            elif row.line.shard.local is not row.p:  # a DTensor may have moved
                same = False
                row.line = row.line._replace(shard=shard_of(row.p))
            row.state["step"] = row.state.get("step", 0) + 1
        if self._observers or group["offload"]:
            for row in rows:
                self._step_one(group, row)
            return
        seed, steps = group["seed"], group["steps"]
        lot = self._lots.get(id(group))
        if self.directs or not same:
            keys = [row.key(seed, steps) for row in rows]
            grads = [self._direction(r.p, group, k) for r, k in zip(rows, keys, strict=True)]
        if not (same and lot is not None and lot.is_of(rows)):
            lot = self._lots[id(group)] = Lot(rows)
        for batch, places in lot.batches:
            mine = grads if len(places) == len(rows) else [grads[i] for i in places]
            count = rows[places[0]].state["step"]
            batch.run(mine, self._scalars(group, count), seed, steps)

    def _step_one(self, group: dict[str, Any], row: Row) -> None:
        """Step one parameter, its carry on a visit where it is offloaded, and tell observers."""
        line, p = row.lined, row.p
        key = row.key(group["seed"], group["steps"])
        carry, home = line.carry, None
        if carry is not None and carry.device != line.shard.local.device:
            home, carry = carry, carry.to(line.shard.local.device)
        slots = line.slots(self._direction(p, group, key), carry)
        scalars = self._scalars(group, row.state["step"])
        if self._observers:
            before = slots.p.clone(), None if carry is None else carry.clone()
            update = reference_step(line.spec, slots, scalars, key)
            event = UpdateEvent(update, before[0], slots.p.detach(), before[1], carry)
            for observer in self._observers:
                observer(p, event)
        else:
            step(line.spec, [slots], scalars, [key])
        if home is not None and carry is not None:
            home.copy_(carry)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer, or of its namesake in torch.optim.

        Tensors are copied, and keep the bits and the dtype that they were saved in; states of
        torch.optim are rounded to nearest into the storages of this optimizer, which keeps its own
        options and what lies beside its parameters. Load the model first.

        Args:
            state_dict: as ``state_dict`` gives.

        Raises:
            OptimizerError: for a checkpoint of other groups, of another optimizer, or with states
                of other shapes; nothing is changed.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        loaded = read_checkpoint(self, state_dict)
        for group, new in zip(self.param_groups, loaded.groups, strict=True):
            group.update(new)
        self._kept = loaded.kept
        for p, state in loaded.states.items():
            self.state[p] = state
        self._forget_rows()
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    # What a subclass says

    def _flags(self, group: dict[str, Any]) -> Flag:
        """Return what the rule includes under a group's options."""
        raise NotImplementedError

    def _scalars(self, group: dict[str, Any], count: int) -> Sequence[float]:
        """Return the rule's numbers (``SCALARS``) for a parameter's step number ``count``."""
        raise NotImplementedError

    def _direction(self, p: Tensor, group: dict[str, Any], key: StepKey) -> Tensor:
        """Return the gradient, or what stands for it where no formula takes it as it is."""
        assert p.grad is not None
        return shard_of(p.grad).local

    def _wide(self, p: Tensor) -> Tensor:
        """Return the parameter as precisely as a rule sees it, in the computing dtype."""
        spec = self._spec(p, self._group_of(p))
        return wide(p.detach(), self._carry(p, spec.strategy), spec, computing_dtype(p))

    def _check_group(self, group: dict[str, Any]) -> None:
        """Check and normalise a group's options; subclasses add theirs."""
        group["writeback"] = str(parse_write_back(group["writeback"]))
        for option in ("lr", "weight_decay"):
            value = float(group.get(option, 0.0))
            if not (math.isfinite(value) and value >= 0):
                raise OptimizerError(type(self).__name__, f"{option} is {value}", "give 0 or more")
        seed = group["seed"]
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise OptimizerError(
                type(self).__name__, f"seed is {seed!r}", "give an integer from 0 to 2^63 - 1"
            )
        for option in ("format", "compensation_format"):
            group[option] = option_text(group[option])
        given = group["state_format"]
        if isinstance(given, Mapping):
            group["state_format"] = {name: option_text(fmt) for name, fmt in given.items()}
        else:
            group["state_format"] = option_text(given)

    def _states(self, p: Tensor, group: dict[str, Any]) -> dict[str, Storage]:
        """Return the states of a parameter by their names, and how each is kept."""
        names = states(self.rule, self._flags(group))
        return {name: state_storage(p, group, name) for name in names}

    def _state_shape(self, p: Tensor, name: str) -> torch.Size:
        """Return the shape of a state."""
        return p.shape

    # How it is done

    def _enumerate(self) -> Iterable[tuple[int, Tensor, dict[str, Any]]]:
        index = 0
        for group in self.param_groups:
            for p in group["params"]:
                yield index, p, group
                index += 1

    def _group_of(self, p: Tensor) -> dict[str, Any]:
        for group in self.param_groups:
            if any(p is q for q in group["params"]):
                return group
        raise OptimizerError(type(self).__name__, "not a parameter of this optimizer", "give one")

    def _keep(self, p: Tensor, group: dict[str, Any]) -> Kept:
        return keep(type(self).__name__, p, group, self._states)

    def _spec(self, p: Tensor, group: dict[str, Any], flags: Flag | None = None) -> StepSpec:
        flags = self._flags(group) if flags is None else flags
        if not self._kept[p].fits(self.rule, flags):  # an option was changed on the way
            self._kept[p] = self._keep(p, group)
        return self._kept[p].spec(self.rule, flags, group["strict"])

    def _carry(self, p: Tensor, strategy: WriteBack) -> Tensor | None:
        name = carry_name(strategy)
        return None if name is None else shard_of(self.state[p][name]).local

    def _store(self, p: Tensor, value: Tensor, group: dict[str, Any], index: int) -> None:
        """Round a value into a parameter and keep what that takes."""
        spec, shard = self._spec(p, group), shard_of(p)
        key = StepKey(group["seed"], first_stream(index), group["steps"], shard.offset)
        carry = first_rounding(shard.local.detach(), value, spec, carry_key(spec, key))
        if carry is not None:
            name = carry_name(spec.strategy)
            assert name is not None
            self.state[p][name] = carry.cpu() if group["offload"] else shard.like(p, carry)


def _is_half(storage: Storage) -> bool:
    return storage.dtype == torch.int16 and not storage.ulp_bits
