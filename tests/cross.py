"""The native kernels on another processor: built by a cross compiler, run by an emulator.

Run ``python tests/cross.py``; on Debian, ``apt-get install g++-aarch64-linux-gnu qemu-user`` is all
it needs. The extension's own sources are compiled at their portable level with the flags of
``setup.py``, with ``cross.h`` in PyTorch's place. They are given the same calls as the extension
here, which the other tests hold against the reference, and must leave the same bits in every
tensor; any NaN equals any other.
"""

from __future__ import annotations

import argparse
import ast
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from cross_calls import Argument, Call, calls
from torch import Tensor

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src/limprec/kernels/native"
COMPILER = "aarch64-linux-gnu-g++ -static"
RUNNER = "qemu-aarch64"
STAND_IN = [
    "Python.h",
    *(f"torch/csrc/stable/{name}.h" for name in ("library", "ops", "tensor")),
    "torch/headeronly/util/Exception.h",
]
"""Headers that ``cross.h`` stands for."""
CODES = [
    *(torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.int16, torch.float64, torch.uint8),
]
"""Dtypes in the order of ``cross.h``."""


class Memories:
    """The memories that the tensors of a call share, each once."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self.whole: list[Tensor] = []
        self._places: dict[int, int] = {}
        for argument in arguments:
            self._collect(argument)

    def _collect(self, argument: Argument) -> None:
        if isinstance(argument, list):
            for one in argument:
                self._collect(one)
        elif isinstance(argument, Tensor) and self._key(argument) not in self._places:
            self._places[self._key(argument)] = len(self.whole)
            whole = torch.empty(0, dtype=argument.dtype).set_(argument.untyped_storage())
            self.whole.append(whole)

    @staticmethod
    def _key(x: Tensor) -> int:
        return x.untyped_storage()._cdata

    def place(self, x: Tensor) -> int:
        """Return the number of a tensor's memory."""
        return self._places[self._key(x)]

    def moved(self, argument: Argument, copies: list[Tensor]) -> Argument:
        """Return an argument with its tensors in copies of their memories."""
        if isinstance(argument, list):
            return [self.moved(one, copies) for one in argument]
        if not isinstance(argument, Tensor):
            return argument
        copy, x = copies[self.place(argument)], argument
        return copy.as_strided(x.shape, x.stride(), x.storage_offset())

    def packed(self, argument: Argument) -> bytes:
        """Return an argument as ``cross.h`` reads it."""
        if isinstance(argument, list):
            return struct.pack("<q", len(argument)) + b"".join(map(self.packed, argument))
        if isinstance(argument, Tensor):
            x = argument
            head = struct.pack("<qq", self.place(x), CODES.index(x.dtype))
            shape = self.packed(list(x.shape)) + self.packed(list(x.stride()))
            return head + shape + struct.pack("<q", x.storage_offset())
        return struct.pack("<d" if isinstance(argument, float) else "<q", argument)


def as_bytes(x: Tensor) -> bytes:
    """Return the bytes of a tensor in row-major order."""
    return x.contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def record(call: Call) -> tuple[bytes, list[Tensor]]:
    """Return a call as ``cross.h`` reads it, and all that it leaves behind here."""
    memories = Memories(call.arguments)
    name = call.operator.encode()
    text = struct.pack("<q", len(name)) + name + struct.pack("<q", len(memories.whole))
    for whole in memories.whole:
        text += struct.pack("<q", whole.numel() * whole.element_size()) + as_bytes(whole)
    text += b"".join(map(memories.packed, call.arguments))
    copies = [whole.clone() for whole in memories.whole]
    base, _, overload = call.operator.partition(".")
    operator = getattr(getattr(torch.ops.limprec, base), overload or "default")
    result: Any = operator(*(memories.moved(one, copies) for one in call.arguments))
    return text, copies if result is None else [*copies, result]


def differences(got: bytes, want: Tensor) -> tuple[int, str]:
    """Return how many elements differ, and the first of them in words."""
    if want.numel() == 0:
        return 0, ""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[want.element_size()]
    mine = want.contiguous().view(integer).flatten()
    theirs = torch.frombuffer(bytearray(got), dtype=integer)
    wrong = mine != theirs
    if want.is_floating_point():
        a, b = (x.view(want.dtype).float() for x in (mine, theirs))  # 8 bits have no isnan
        wrong &= ~(a.isnan() & b.isnan())
    if not wrong.any():
        return 0, ""
    i = int(wrong.nonzero()[0])
    a, b = (x.view(want.dtype)[i].item() for x in (theirs, mine))
    return int(wrong.sum()), f"{a!r}, not {b!r}, at {i} of {want.dtype}"


def build(folder: Path, compiler: str = COMPILER) -> Path:
    """Compile the extension's sources and the driver; return the program.

    Raises:
        subprocess.CalledProcessError: if the compiler refuses.
    """
    values = {
        node.targets[0].id: node.value
        for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    flags = ast.literal_eval(values["FLAGS"]) + ast.literal_eval(values["LEVELS"])["PORTABLE"]
    stand_ins = folder / "include"
    for name in STAND_IN:
        (stand_ins / name).parent.mkdir(parents=True, exist_ok=True)
        (stand_ins / name).write_text(f'#include "{Path(__file__).with_suffix(".h")}"\n')
    names = ["-DLIMPREC_LEVEL=portable", "-DLIMPREC_TABLE=PORTABLE", "-DLIMPREC_STAMP=0"]
    flags += [*names, "-I", str(stand_ins)]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        command = [*shlex.split(compiler), *flags, "-c", str(source), "-o", target]
        subprocess.run(command, check=True)
        return target

    sources = [*sorted(NATIVE.glob("*.cpp")), Path(__file__).with_suffix(".cpp")]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "cross"
    subprocess.run([*shlex.split(compiler), *objects, "-o", str(program)], check=True)
    return program


def compare(
    program: Path, folder: Path, all_calls: Iterable[Call], runner: str = RUNNER
) -> tuple[int, int, list[str]]:
    """Make calls here and there.

    Returns:
        how many calls and elements there were, and a line for each call that left other bits.

    Raises:
        subprocess.CalledProcessError: if the program fails.
    """
    expected = []
    with (folder / "calls").open("wb") as file:
        for call in all_calls:
            text, left = record(call)
            file.write(text)
            expected.append((call.what, left))
    command = [*shlex.split(runner), str(program), str(folder / "calls"), str(folder / "results")]
    subprocess.run(command, check=True)
    elements, faults = 0, []
    with (folder / "results").open("rb") as file:
        for what, left in expected:
            for want in left:
                wrong, first = differences(file.read(want.numel() * want.element_size()), want)
                elements += want.numel()
                if wrong:
                    faults.append(f"{what}: {wrong} of {want.numel()}: {first}")
        if file.read(1):
            faults.append("more results than calls")
    return len(expected), elements, faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all bits are the same, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compiler", default=COMPILER, help="and flags for a static program")
    parser.add_argument("--runner", default=RUNNER, help="the emulator; empty for this machine")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder, asked.compiler)
        count, elements, faults = compare(program, folder, calls(), asked.runner)
    for fault in faults[:50]:
        print(fault)
    print(f"{count} calls, {elements} elements, {len(faults)} tensors with other bits")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
