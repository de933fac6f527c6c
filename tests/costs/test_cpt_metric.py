"""CPT's cost metric, against what the paper prints."""

import pytest

from limprec.costs import cpt_cost, schedule_cost
from limprec.errors import CostError
from limprec.schedule import Cyclic

T = 2_000
STEPS = 32 * T


def test_one_step():
    assert cpt_cost(32, 32) == 1
    assert cpt_cost(8, 8) == 3 * 64 / (3 * 1024)
    assert cpt_cost(3, 8) == (9 + 48) / 3072


@pytest.mark.parametrize(("low", "high", "printed"), [(3, 8, -36.67), (3, 6, -30.05)])
def test_the_savings_that_cpt_prints(low, high, printed):
    cost = schedule_cost(Cyclic(low, high, cycles=32), high, STEPS)
    assert round(-100 * cost.saving, 2) == printed
    assert cost.static == cpt_cost(high, high)
    assert sum(cost.steps_at.values()) == STEPS
    assert list(cost.steps_at) == list(range(low, high + 1))


def test_static_precision_saves_nothing():
    assert schedule_cost(Cyclic(8, 8), 8, 64).saving == 0


@pytest.mark.parametrize(("backward", "steps"), [(0, 64), (8, 0)])
def test_nothing_to_average(backward, steps):
    with pytest.raises(CostError, match="give 1 or more"):
        schedule_cost(Cyclic(3, 8), backward, steps)
