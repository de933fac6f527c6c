"""Tables of one's own in TOML."""

from __future__ import annotations

import pytest

from limprec.costs import HOROWITZ_45NM, EnergyTable, add_energy, energy_table, multiply_energy
from limprec.costs.energy import access_energy, level_for
from limprec.errors import CostError
from limprec.formats import FixedPoint, parse_format

WHOLE = """
name = "mine"
source = "measured"
dram = 500
[add]
int8 = 0.01
fp32 = 0.5
[multiply]
int8 = 0.1
fp32 = 2
[sram]
"16 KB" = 8
"4 MB" = 40.0
"""


def load(tmp_path, text: str) -> EnergyTable:
    path = tmp_path / "table.toml"
    path.write_text(text, encoding="utf-8")
    return energy_table(str(path))


def test_a_whole_table(tmp_path):
    table = load(tmp_path, WHOLE)
    assert (table.name, table.source) == ("mine", "measured")
    assert multiply_energy(FixedPoint(8, 0), FixedPoint(8, 0), table) == 0.1
    assert table.sram == {2**14: 8, 2**22: 40.0}
    assert table.dram == (500, 500)
    assert energy_table(tmp_path / "table.toml") == table
    assert [level_for(n, table) for n in (2**14, 2**14 + 1, 2**22 + 1)] == [
        "SRAM 16 KB",
        "SRAM 4 MB",
        "DRAM",
    ]
    assert access_energy("SRAM 16 KB", table) == 1.0
    assert access_energy("DRAM", table) == 500 / 8


def test_a_table_on_a_base(tmp_path):
    table = load(tmp_path, 'base = "45nm"\n[multiply]\nint8 = 0.15\n')
    assert table.name == "table"
    assert table.multiply["int8"] == 0.15
    assert table.add == HOROWITZ_45NM.add
    assert "1 of the entries given by the user" in table.source


def test_without_fitting_a_missing_width_is_an_error(tmp_path):
    table = load(tmp_path, 'base = "45nm"\nfit = false\n')
    assert add_energy(FixedPoint(8, 0), table) == 0.03
    with pytest.raises(CostError, match="no entry 'multiply int6' and says fit = false; add the"):
        multiply_energy(FixedPoint(6, 0), FixedPoint(6, 0), table)
    with pytest.raises(CostError, match="no entry 'multiply int8 x int6'"):
        multiply_energy(FixedPoint(8, 0), FixedPoint(6, 0), table)
    with pytest.raises(CostError, match="no entry 'add bf16'"):
        add_energy(parse_format("bf16"), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ("[adds]\nint8 = 1", "unknown key 'adds'; use name, source, base"),
        ("add = 1", "add is no table; write [add]"),
        ("fit = 1", "fit is 1; write true or false"),
        ("dram = [1, 2, 3]", "dram is [1, 2, 3]; give one figure or two"),
        ("dram = 'much'", "dram is 'much'"),
        ('[sram]\n"8 kilo" = 1', "'8 kilo' is no size of a memory"),
        ("[add]\nint8 = -1", "add int8 is -1"),
        ("[add]\ndfx8 = 1", "'dfx8' is no unit"),
        ('base = "3nm"', "unknown table '3nm'"),
    ],
)
def test_errors_name_the_file_the_value_and_the_remedy(tmp_path, text, message):
    with pytest.raises(CostError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "table.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CostError, match=r"cannot read .*none\.toml: No such file"):
        energy_table(tmp_path / "none.toml")
