"""Checks of arguments that several optimizers share."""

from __future__ import annotations

import math

from ..errors import OptimizerError


def check_fraction(optimizer: str, option: str, value: float) -> None:
    """Refuse what is not at least 0 and less than 1."""
    if not 0 <= value < 1:
        raise OptimizerError(optimizer, f"{option} is {value}", "give 0 or more, less than 1")


def check_betas(optimizer: str, betas: tuple[float, float]) -> None:
    """Refuse decay rates that are not two numbers of at least 0 and less than 1."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise OptimizerError(optimizer, f"betas are {betas}", "give two from 0 to less than 1")


def check_not_negative(optimizer: str, option: str, value: float) -> None:
    """Refuse a negative or infinite number."""
    if not (math.isfinite(value) and value >= 0):
        raise OptimizerError(optimizer, f"{option} is {value}", "give 0 or more")


def check_implementation(
    optimizer: str, *, capturable: bool = False, differentiable: bool = False
) -> None:
    """Refuse the implementations of torch.optim that the steps here do not have."""
    for option, value in (("capturable", capturable), ("differentiable", differentiable)):
        if value:
            raise OptimizerError(optimizer, f"{option}=True", f"leave {option} out")
