"""Numbers in words, and the rows of tables."""

import pytest
from torch import nn

import limprec as lp
from limprec.costs import cost, words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.474524e-3, "3.47 mJ"),
        (0.9999, "1.00 J"),
        (0.9996e-3, "1.00 mJ"),
        (25.25e-12, "25.2 pJ"),
        (1e-15, "0.00 pJ"),
        (123456.0, "123 kJ"),
        (4e18, "4000 PJ"),
        (0.0, "0 J"),
        (None, ""),
    ],
)
def test_joules(value, text):
    assert words.joules(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (94, "94.0 B"),
        (1023, "1.00 KiB"),
        (2**20, "1.00 MiB"),
        (131.4 * 2**30, "131 GiB"),
    ],
)
def test_size(value, text):
    assert words.size(value) == text


def test_layers_beyond_the_costliest_are_summed_up():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
    answer = cost(model, lp.Plan.load("dfx8"), (8,), 4)
    header, rows = words.by_layer(answer, 2)
    assert header[:3] == ("layer", "energy", "share")
    assert [row[0] for row in rows][-1] == "3 others"
    assert len(rows) == 3
    shares = [float(row[2].split()[0]) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert len(words.by_layer(answer, None)[1]) == 5
    assert words.by_layer(cost(nn.Linear(2, 2), None, (2,)))[1][0][0] == "(model)"


def test_layers_of_one_kind_share_a_row_in_a_deep_model():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(60)))
    answer = cost(model, None, (8,), 4)
    _, rows = words.by_layer(answer)
    # The first layer of all has no error product, and shares the row.
    assert [row[0] for row in rows] == ["*.* (120)"]
    assert rows[0][2] == "100.0 %"
    assert len(words.by_layer(answer, None)[1]) == 120


def test_without_baselines_nothing_is_compared():
    answer = cost(nn.Linear(8, 8), None, (8,), against=())
    header, rows = words.comparison(answer)
    assert header == ("a step", "no plan")
    assert [row[0] for row in rows] == ["energy", "of multiply-adds alone", "memory / device"]


def test_memories_stand_from_the_smallest_to_dram():
    model = nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 1000))
    header, _ = words.by_role(cost(model, None, (4,), 1))
    assert header == ("role", "multiply", "add", "SRAM 8 KB", "SRAM 32 KB", "DRAM")
