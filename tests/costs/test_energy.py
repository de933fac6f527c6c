from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limprec.costs import (
    ENERGY_TABLES,
    HOROWITZ_45NM,
    JOUPPI_7NM,
    EnergyTable,
    add_energy,
    energy_table,
    mac_energy,
    multiply_energy,
)
from limprec.errors import CostError
from limprec.formats import DynamicFixedPoint, FixedPoint, FloatingPoint, Format, parse_format

TABLES = list(ENERGY_TABLES.values())
FP32, FP16, BF16 = (parse_format(name) for name in ("fp32", "fp16", "bf16"))


def integer(bits: int) -> FixedPoint:
    return FixedPoint(bits, 0)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_printed_entries_are_used_as_they_are(table):
    for kind, energy in (("add", add_energy), ("multiply", lambda f, t: multiply_energy(f, f, t))):
        for name, value in getattr(table, kind).items():
            if name.startswith("int"):
                bits = int(name.removeprefix("int"))
                formats: list[Format] = [integer(bits), DynamicFixedPoint(bits)]
                formats.append(FixedPoint(bits, 3, signed=False, overflow="wrap"))
            else:
                fmt = parse_format(name)
                assert isinstance(fmt, FloatingPoint)
                formats = [fmt, FloatingPoint(fmt.exponent_bits, fmt.mantissa_bits, bias=5)]
            assert [energy(fmt, table) for fmt in formats] == [value] * len(formats)


def test_the_two_tables():
    assert dict(HOROWITZ_45NM.add) == {"int8": 0.03, "int32": 0.1, "fp16": 0.4, "fp32": 0.9}
    assert dict(HOROWITZ_45NM.multiply) == {"int8": 0.2, "int32": 3.1, "fp16": 1.1, "fp32": 3.7}
    assert dict(HOROWITZ_45NM.sram) == {8192: 10.0, 32768: 20.0, 1048576: 100.0}
    assert HOROWITZ_45NM.dram == (1300.0, 2600.0)
    assert not HOROWITZ_45NM.approximate
    assert JOUPPI_7NM.add["bf16"] == 0.11
    assert JOUPPI_7NM.multiply["bf16"] == 0.21
    assert {"add fp32", "multiply int8", "multiply int32", "dram"} <= JOUPPI_7NM.approximate
    assert all("Horowitz" in t.source or "Jouppi" in t.source for t in TABLES)


def test_estimates_by_hand():
    # 45 nm integer adders: k = (8*0.03 + 32*0.1)/(8^2 + 32^2) = 3.44/1088 pJ a bit.
    assert add_energy(integer(16), HOROWITZ_45NM) == pytest.approx(16 * 3.44 / 1088)
    # 45 nm integer multipliers: k = (64*0.2 + 1024*3.1)/(64^2 + 1024^2).
    k = (64 * 0.2 + 1024 * 3.1) / (64**2 + 1024**2)
    assert multiply_energy(integer(16), integer(16), HOROWITZ_45NM) == pytest.approx(256 * k)
    assert multiply_energy(integer(12), integer(16), HOROWITZ_45NM) == pytest.approx(192 * k)
    # 45 nm float multipliers, 11 and 24 significant bits; bf16 has 8, e5m2 3, e4m3 4.
    k = (121 * 1.1 + 576 * 3.7) / (121**2 + 576**2)
    assert multiply_energy(BF16, BF16, HOROWITZ_45NM) == pytest.approx(64 * k)
    e5m2, e4m3 = parse_format("e5m2"), parse_format("e4m3")
    assert multiply_energy(e5m2, e4m3, HOROWITZ_45NM) == pytest.approx(12 * k)
    # 45 nm float adders: by the bits of the word.
    k = (16 * 0.4 + 32 * 0.9) / (16**2 + 32**2)
    assert add_energy(e5m2, HOROWITZ_45NM) == pytest.approx(8 * k)


def test_estimates_stay_between_the_printed_neighbours():
    # The fit alone gives 0.0285 for 9-bit adders, less than the printed 0.03 for 8 bits, and
    # 0.0708 for 7-bit multipliers, more than the printed 0.07.
    assert add_energy(integer(9), HOROWITZ_45NM) == 0.03
    assert multiply_energy(integer(7), integer(7), JOUPPI_7NM) == 0.07


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
@given(a=st.integers(2, 53), b=st.integers(2, 53))
def test_fewer_bits_never_cost_more(table, a, b):
    slim, wide = multiply_energy(integer(a), integer(b), table), integer(a + 1)
    assert 0 < slim == multiply_energy(integer(b), integer(a), table)
    if a == b:  # square units alone: 8 x 8 is printed, 4 x 16 of the same area is estimated
        assert slim <= multiply_energy(wide, wide, table)
    assert 0 < add_energy(integer(a), table) <= add_energy(wide, table)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
@given(m=st.integers(1, 51))
def test_shorter_significands_never_cost_more(table, m):
    slim, wide = FloatingPoint(9, m), FloatingPoint(9, m + 1)
    assert 0 < multiply_energy(slim, slim, table) <= multiply_energy(wide, wide, table)
    assert 0 < add_energy(slim, table) <= add_energy(wide, table)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_an_integer_times_a_float_takes_the_float_multiplier(table):
    bf16 = multiply_energy(BF16, BF16, table)
    assert multiply_energy(DynamicFixedPoint(8), BF16, table) == bf16
    assert multiply_energy(BF16, DynamicFixedPoint(8), table) == bf16
    assert multiply_energy(BF16, DynamicFixedPoint(9), table) == bf16  # 8 significant bits too
    e4m10 = FloatingPoint(4, 10)  # 11 significant bits, as a 12-bit integer has
    mixed = multiply_energy(integer(12), BF16, table)
    assert mixed == multiply_energy(e4m10, e4m10, table)


def test_multiply_add():
    int8, e5m2 = DynamicFixedPoint(8), parse_format("e5m2")
    assert mac_energy(int8, int8) == pytest.approx(0.2 + 0.1)
    assert mac_energy(FP32, FP32) == pytest.approx(3.7 + 0.9)
    assert mac_energy(FP16, FP16) == pytest.approx(1.1 + 0.9)
    assert mac_energy(FP16, FP16, FP16) == pytest.approx(1.1 + 0.4)
    assert mac_energy(int8, int8, integer(8)) == pytest.approx(0.2 + 0.03)
    assert mac_energy(BF16, BF16, table="7nm") == pytest.approx(0.21 + 0.38)
    assert mac_energy(int8, e5m2) == multiply_energy(int8, e5m2) + 0.9


def test_overriding_entries():
    mine = HOROWITZ_45NM.override(
        name="mine", multiply={"int8": 0.5, "e4m3": 0.25}, add={"int16": 0.06}, dram=(1.0, 2.0)
    )
    assert multiply_energy(integer(8), integer(8), mine) == 0.5
    assert multiply_energy(*[parse_format("e4m3")] * 2, mine) == 0.25
    assert add_energy(integer(16), mine) == 0.06
    assert mine.multiply["int32"] == 3.1
    assert (mine.name, mine.dram) == ("mine", (1.0, 2.0))
    assert HOROWITZ_45NM.multiply["int8"] == 0.2
    exact = JOUPPI_7NM.override(multiply={"int8": 0.08})
    assert "multiply int8" not in exact.approximate
    assert "multiply int32" in exact.approximate
    assert exact.name == "7nm-custom"


def test_tables_are_frozen_values():
    with pytest.raises(TypeError):
        HOROWITZ_45NM.add["int8"] = 1.0  # type: ignore[index]
    assert pickle.loads(pickle.dumps(JOUPPI_7NM)) == JOUPPI_7NM
    assert len({HOROWITZ_45NM, JOUPPI_7NM, energy_table("45nm")}) == 2
    assert energy_table(JOUPPI_7NM) is JOUPPI_7NM


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: energy_table("3nm"), "unknown table '3nm'; use '45nm' or '7nm'"),
        (lambda: HOROWITZ_45NM.override(add={"int0": 1.0}), "'int0' is no unit; write e.g. int8"),
        (lambda: HOROWITZ_45NM.override(add={"dfx8": 1.0}), "'dfx8' is no unit"),
        (lambda: HOROWITZ_45NM.override(add={"int8": -1.0}), "add int8 is -1.0; give a positive"),
        (lambda: HOROWITZ_45NM.override(multiply={"fp16": math.nan}), "multiply fp16 is nan"),
        (lambda: HOROWITZ_45NM.override(sram={8192: "x"}), "sram 8192 is 'x'"),
        (lambda: HOROWITZ_45NM.override(dram=(0.0, 1.0)), "dram is 0.0"),
        (lambda: multiply_energy("int8", integer(8)), "no rule for 'int8'"),
        (lambda: multiply_energy(integer(8), "int8"), "no rule for 'int8'"),
        (lambda: add_energy("fp32"), "no rule for 'fp32'"),
        (
            lambda: add_energy(FP32, EnergyTable("t", "s", {"int8": 1.0}, {})),
            "table 't' has no entry 'add float...'; add 'add fp32' to it",
        ),
        (
            lambda: mac_energy(FP32, FP32, table=EnergyTable("t", "s", {"fp32": 1.0}, {})),
            "table 't' has no entry 'multiply float...'",
        ),
    ],
)
def test_errors_name_the_value_and_the_remedy(make, message):
    with pytest.raises(CostError) as caught:
        make()
    assert message in str(caught.value)
    assert caught.value.remedy
