"""Every float32 input, all 2^32 of them, rounded by limprec and by ml_dtypes (and numpy) alike.

Run ``python -m tests.conformance`` from the repository's root; it takes some minutes a format and,
stopped, goes on where it was. ``--quick`` takes one input in 4096 and all edge cases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

import limprec as lp
from limprec.files import write_text
from limprec.kernels.native import best_simd

JUDGES = {
    "e4m3-ovf": ml_dtypes.float8_e4m3fn,
    "e4m3ieee-ovf": ml_dtypes.float8_e4m3,
    "e4m3fnuz-ovf": ml_dtypes.float8_e4m3fnuz,
    "e4m3b11fnuz-ovf": ml_dtypes.float8_e4m3b11fnuz,
    "e5m2-ovf": ml_dtypes.float8_e5m2,
    "e5m2fnuz-ovf": ml_dtypes.float8_e5m2fnuz,
    "e3m4-ovf": ml_dtypes.float8_e3m4,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "e3m2-ovf": ml_dtypes.float6_e3m2fn,
    "e2m3-ovf": ml_dtypes.float6_e2m3fn,
    "e2m1-ovf": ml_dtypes.float4_e2m1fn,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}
"""Short names, and the dtypes that judge them; these overflow as IEEE 754 says."""

BITS = {"e3m2-ovf": 6, "e2m3-ovf": 6, "e2m1-ovf": 4, "bf16": 16, "fp16": 16}
CHUNK = 1 << 24
CHUNKS = (1 << 32) // CHUNK
PIECE = 1 << 17
"""Inputs at a time: they stay in the cache of a core."""
BETWEEN = (1 << 22) - 1
"""Inputs that are not compared for e8m0: see ``mismatches``."""
STATE = Path(".cache/conformance.json")


def edge_cases(name: str) -> np.ndarray:
    """Return bit patterns about every value of a format and every midpoint, and all of bf16's."""
    values = _table(name)
    finite = np.unique(values[np.isfinite(values)].astype(np.float64))
    between = (finite[1:] + finite[:-1]) / 2
    with np.errstate(over="ignore"):
        points = np.concatenate([finite, between, finite * 2, finite / 2]).astype(np.float32)
    bits = points.view(np.uint32)
    around = np.concatenate([bits, bits + np.uint32(1), bits - np.uint32(1)])
    return np.unique(np.concatenate([around, np.arange(1 << 16, dtype=np.uint32) << 16]))


def mismatches(bits: np.ndarray, name: str, backend: lp.Backend = lp.Backend.AUTO) -> np.ndarray:
    """Return those of the bit patterns that limprec and the judge round differently."""
    x = bits.view(np.float32)
    if name == "e8m0":  # ml_dtypes sends all of 2^-127 < x < 2^-126 up; see the format's docstring
        x = x[~((x > 2.0**-127) & (x < 2.0**-126))]
    with np.errstate(all="ignore"):
        codes = x.astype(JUDGES[name]).view(np.uint16 if BITS.get(name) == 16 else np.uint8)
    expected = _table(name)[codes]
    expected[np.isnan(x)] = np.nan  # NaN stays NaN in a carrier, also where the format has none
    ours = lp.quantize(torch.from_numpy(x), name, backend=backend).numpy()
    differ = ours.view(np.uint32) != expected.view(np.uint32)
    differ &= ~(np.isnan(ours) & np.isnan(expected))
    return x[differ].view(np.uint32)


def _table(name: str) -> np.ndarray:
    """Return the value of every code, in float32."""
    bits = BITS.get(name, 8)
    codes = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):
        return codes.view(JUDGES[name]).astype(np.float32)


def check(name: str, chunks: list[int], passed: Callable[[int], None]) -> int:
    """Compare chunk after chunk; return the number of mismatches, the first of them printed."""
    wrong, began = 0, time.monotonic()
    for count, chunk in enumerate(chunks, 1):
        bits = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint64).astype(np.uint32)
        pieces = (bits[start : start + PIECE] for start in range(0, CHUNK, PIECE))
        bad = np.concatenate([mismatches(piece, name) for piece in pieces])
        wrong += len(bad)
        if len(bad):
            report(name, bad)
        else:
            passed(chunk)
        left = (time.monotonic() - began) / count * (len(chunks) - count)
        progress = f"{name:>16}: {count}/{len(chunks)} chunks, {wrong} wrong, {left:.0f} s left"
        print(f"\r{progress:<70}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return wrong


def report(name: str, bad: np.ndarray) -> None:
    """Print the first inputs that the two round differently."""
    for bits in bad[:4]:
        x = np.array([bits], dtype=np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            judge = x.astype(JUDGES[name]).astype(np.float32)[0]
        ours = lp.quantize(torch.from_numpy(x), name)[0]
        print(f"{name}: 0x{bits:08x} = {x[0]!r}: limprec {float(ours)!r}, judge {float(judge)!r}")


def table(done: dict[str, list[int]]) -> str:
    """Return a page that says how many inputs of each format were equal."""
    from benchmarks.report import cpu_name, today

    simd, found = best_simd().name, ", ".join(f"{n} {v}" for n, v in versions().items())
    lines = [
        f"# Every float32 input, {today()}",
        "",
        f"`python -m tests.conformance --save` on {cpu_name()}, {simd}; {found}, numpy"
        f" {np.__version__}. Each of the 2^32 float32 patterns, NaN and subnormals included, was"
        " rounded to nearest by limprec (what AUTO takes) and by the judge. Equal means the same"
        " bits, or any NaN for a NaN.",
        "",
        "| format | judge | inputs | equal |",
        "|---|---|---:|---:|",
    ]
    for name, chunks in done.items():
        equal = len(chunks) * CHUNK - (BETWEEN if name == "e8m0" else 0)
        lines.append(f"| {name} | {JUDGES[name].__name__} | {1 << 32:,} | {equal:,} |")
    note = (
        f"e8m0: without the {BETWEEN:,} inputs between 2^-127 and 2^-126, all of which ml_dtypes"
        " sends up, while limprec rounds them like the rest."
    )
    return "\n".join([*lines, "", note, ""])


def versions() -> dict[str, str]:
    """Return what a kept result depends on."""
    modules = {"limprec": lp, "ml_dtypes": ml_dtypes, "torch": torch}
    found = {name: module.__version__ for name, module in modules.items()}
    room = Path(lp.__file__).parent
    code = [p for part in ("formats", "kernels") for p in sorted((room / part).rglob("*.*"))]
    digest = hashlib.sha256()
    for path in code:
        if path.suffix in (".py", ".so", ".pyd"):
            digest.update(path.read_bytes())
    return {**found, "kernels": digest.hexdigest()[:12]}


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; return 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FORMAT", help=f"of {', '.join(JUDGES)}")
    parser.add_argument("--save", action="store_true", help="write what was found to a file")
    parser.add_argument("--quick", action="store_true", help="one input in 4096 and edge cases")
    parser.add_argument(
        "--fresh", action="store_true", help="forget what earlier runs have checked"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in JUDGES]:
        parser.error(f"unknown format {unknown[0]}; use {', '.join(JUDGES)}")
    names = options.names or list(JUDGES)
    wrong = 0
    if options.quick:
        rng = np.random.default_rng(0)
        for name in names:
            sample = np.arange(0, 1 << 32, 4096, dtype=np.uint64) + rng.integers(0, 4096, 1 << 20)
            bits = np.concatenate([edge_cases(name), sample.astype(np.uint32)])
            bad = mismatches(bits, name)
            report(name, bad)
            wrong += len(bad)
            print(f"{name:>16}: {len(bits)} inputs, {len(bad)} wrong")
        return int(wrong > 0)
    state: dict[str, object] = {"versions": versions(), "done": {}}
    if STATE.exists() and not options.fresh:
        kept = json.loads(STATE.read_text(encoding="utf-8"))
        state = kept if kept.get("versions") == versions() else state
    kept_chunks: dict[str, list[int]] = state["done"]  # type: ignore[assignment]
    for name in names:
        done = kept_chunks.setdefault(name, [])

        def passed(chunk: int, done: list[int] = done) -> None:
            done.append(chunk)
            write_text(STATE, json.dumps(state))

        wrong += check(name, sorted(set(range(CHUNKS)) - set(done)), passed)
        print(f"{name:>16}: {len(done)} of {CHUNKS} chunks equal")
    if options.save:
        from benchmarks.report import save

        save("conformance", table(kept_chunks))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
