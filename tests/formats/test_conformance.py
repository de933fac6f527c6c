"""A sample of ``tests/conformance.py``: every bf16 pattern, edge cases, random float32 patterns."""

from __future__ import annotations

import json

import conformance
import numpy as np
import pytest

from limprec.kernels import Backend


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.REFERENCE])
@pytest.mark.parametrize("name", conformance.JUDGES)
def test_a_sample_of_float32_against_the_judge(name, backend):
    bits = np.random.default_rng(7).integers(0, 1 << 32, 1 << 17, dtype=np.uint32)
    bits = np.concatenate([conformance.edge_cases(name), bits])
    assert len(bits) > (1 << 16) + (1 << 17)
    assert conformance.mismatches(bits, name, backend).tolist() == []


def test_the_comparison_sees_a_difference(monkeypatch, capsys):
    monkeypatch.setitem(conformance.JUDGES, "e5m2-ovf", conformance.JUDGES["e4m3-ovf"])
    bits = np.array([0x3F800000, 0x3F900000], dtype=np.uint32)  # 1 and 1.125
    assert conformance.mismatches(bits, "e5m2-ovf").tolist() == [0x3F900000]
    assert conformance.main(["--quick", "e5m2-ovf"]) == 1
    assert "limprec" in capsys.readouterr().out


def test_a_stopped_run_goes_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(conformance, "CHUNK", 1 << 12)
    monkeypatch.setattr(conformance, "CHUNKS", 3)
    monkeypatch.setattr(conformance, "STATE", tmp_path / "cache" / "state.json")
    assert conformance.main(["e4m3-ovf"]) == 0
    kept = json.loads(conformance.STATE.read_text())
    assert kept["done"] == {"e4m3-ovf": [0, 1, 2]}
    kept["done"]["e4m3-ovf"].remove(1)
    conformance.STATE.write_text(json.dumps(kept))
    seen = []
    real = conformance.mismatches
    monkeypatch.setattr(
        conformance, "mismatches", lambda bits, name: seen.append(bits[0]) or real(bits, name)
    )
    assert conformance.main(["e4m3-ovf"]) == 0
    assert seen == [1 << 12]
    assert "3 of 3 chunks equal" in capsys.readouterr().out


def test_what_other_code_found_is_forgotten(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(conformance, "CHUNK", 1 << 12)
    monkeypatch.setattr(conformance, "CHUNKS", 2)
    monkeypatch.setattr(conformance, "STATE", tmp_path / "state.json")
    old = {**conformance.versions(), "kernels": "of old"}
    conformance.STATE.write_text(json.dumps({"versions": old, "done": {"e5m2-ovf": [0, 1, 2, 3]}}))
    assert conformance.main(["e5m2-ovf"]) == 0
    assert "2 of 2 chunks equal" in capsys.readouterr().out
    assert json.loads(conformance.STATE.read_text())["versions"] == conformance.versions()
