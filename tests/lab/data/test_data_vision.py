"""The door to torchvision, and that nothing heavy is imported before it is needed."""

import importlib
import subprocess
import sys

import pytest

from limprec.errors import IntegrationError
from limprec.integrations.torchvision import import_torchvision


def test_torchvision_is_there() -> None:
    module = import_torchvision()
    assert module is sys.modules["torchvision"]
    assert issubclass(module.datasets.CIFAR10, module.datasets.VisionDataset)
    assert import_torchvision() is module


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'torchvision'"), r"pip install 'limprec\[lab\]'"),
        (RuntimeError("some other operator"), "that fits your torch"),
    ],
)
def test_failure_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(IntegrationError, match=f"{error}; .*{remedy}"):
        import_torchvision()


def test_imports_are_light() -> None:
    heavy = ["torchvision", "sklearn", "PIL", "rich", "lightning", "scipy"]
    code = f"import limprec.lab.data, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
