"""The house: imports run downward only, and the library needs nothing but torch and numpy.

Triton is imported by its own room alone, on first use.
"""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "limprec"

FLOORS = [
    "errors",
    "files",
    "formats",
    "kernels",
    "accumulation",
    "bounds",
    "plan",
    "nn",
    "optim",
    "schedule",
    "diagnosis",
    "costs",
    "io",
    "integrations",
    "lab",
    "cli",
    "__main__",
]
"""From the ground up: a room imports only from those before it, and from itself."""

LIBRARY = FLOORS[: FLOORS.index("integrations")]
ALLOWED = {"torch", "numpy", "limprec"}


def room_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def imported_rooms(path: Path, root: Path) -> list[tuple[int, str]]:
    """Return (line, room) for every import inside the package, also those inside functions."""
    package = ["limprec", *path.relative_to(root).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = [*base, *(node.module or "").split(".")]
            else:
                module = (node.module or "").split(".")
            names = [[*[m for m in module if m], alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found += [(node.lineno, n[1]) for n in names if n[0] == "limprec" and len(n) > 1]
    return found


def upward_imports(root: Path) -> list[str]:
    faults = []
    for path in sorted(root.rglob("*.py")):
        room = room_of(path, root)
        if room == "__init__":
            continue
        if room not in FLOORS:
            faults.append(f"{path}: {room} stands on no floor")
            continue
        for line, other in imported_rooms(path, root):
            if other in FLOORS and FLOORS.index(other) > FLOORS.index(room):
                faults.append(f"{path}:{line}: {room} imports {other}, which is above it")
    return faults


def test_imports_run_downward() -> None:
    assert upward_imports(SOURCE) == []


@pytest.mark.parametrize(
    ("place", "code", "fault"),
    [
        ("kernels/api.py", "from ..lab import trainer", "kernels imports lab"),
        ("formats/base.py", "from limprec.kernels import quantize", "formats imports kernels"),
        ("plan.py", "def f():\n    from .nn.layers import x", "plan imports nn"),
        ("optim/sgd.py", "import limprec.cli", "optim imports cli"),
        ("attic/old.py", "", "attic stands on no floor"),
    ],
)
def test_the_test_can_fail(tmp_path: Path, place: str, code: str, fault: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    assert any(fault in line for line in upward_imports(tmp_path))


def test_the_library_depends_on_torch_alone() -> None:
    faults = []
    for path in SOURCE.rglob("*.py"):
        if room_of(path, SOURCE) not in LIBRARY:
            continue
        allowed = ALLOWED | ({"triton"} if "triton" in path.parts else set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top not in allowed and top not in sys.stdlib_module_names:
                    faults.append(f"{path}: {name}")
    assert faults == []


def test_formats_and_bounds_do_not_import_torch() -> None:
    rooms = "limprec.accumulation, limprec.bounds, limprec.formats.oracle"
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_every_public_name_is_there() -> None:
    import limprec

    assert sorted(set(limprec.__all__)) == sorted(limprec.__all__)
    for name in limprec.__all__:
        assert getattr(limprec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        limprec.quantise  # noqa: B018  # the access is the test
