"""CPT's schedule and the savings that its paper prints."""

import pytest

from limprec.errors import LimprecError, PlanError
from limprec.schedule import Cyclic


def test_a_cycle_rises_once() -> None:
    schedule = Cyclic(3, 8, cycles=4)
    bits = [schedule.bits(t, 400) for t in range(100)]
    assert bits == sorted(bits)
    assert (bits[0], bits[-1]) == (3, 8)
    assert bits == [schedule.bits(t, 400) for t in range(300, 400)]


@pytest.mark.parametrize(("low", "high", "saving"), [(3, 8, -36.67), (3, 6, -30.05)])
def test_the_savings_of_the_paper(low: int, high: int, saving: float) -> None:
    """Cost (f*f + 2*f*b) / (3 * 32 * 32) over 64,000 steps against static ``high`` bits."""
    schedule = Cyclic(low, high, cycles=32)
    costs = [f * f + 2 * f * high for f in (schedule.bits(t, 64_000) for t in range(2_000))]
    static = 3 * high * high
    assert round(100 * (sum(costs) / len(costs) / static - 1), 2) == saving


def test_a_text_and_back() -> None:
    assert Cyclic.parse("3-8") == Cyclic(3, 8)
    assert Cyclic.parse("3-8x16") == Cyclic(3, 8, cycles=16)
    assert str(Cyclic(3, 8)) == "3-8x32"
    assert Cyclic.parse(str(Cyclic(4, 6, 5))) == Cyclic(4, 6, 5)
    for text in ("8", "3-", "3-8x", "3:8", " 3-8"):
        with pytest.raises(PlanError, match=r"write e\.g\. 3-8, or 3-8x16 for 16 cycles"):
            Cyclic.parse(text)


def test_errors() -> None:
    with pytest.raises(PlanError, match="8 to 3 bits; give 2 <= low <= high"):
        Cyclic(8, 3)
    with pytest.raises(PlanError, match="0 cycles"):
        Cyclic(3, 8, cycles=0)
    with pytest.raises(LimprecError, match="32 cycles in 10 steps"):
        Cyclic(3, 8).bits(0, 10)
