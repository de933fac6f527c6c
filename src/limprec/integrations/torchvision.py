"""The door to torchvision, which is imported on first use only."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

from ..errors import IntegrationError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # torch forgets the schemas when it is collected


def import_torchvision() -> Any:
    """Return the torchvision module.

    The torchvision wheel of PyPI is built against CUDA. Beside a CPU-only torch its operators do
    not load, and the import fails with "operator torchvision::nms does not exist" when it describes
    them. Data sets and models need no such operator, so the two names are declared here and the
    import is tried again; calling them still fails, as it must. An installation that fits goes
    straight through.

    Raises:
        IntegrationError: if torchvision is not installed or cannot be imported.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise IntegrationError(
            "import torchvision", str(error), "install it: pip install 'limprec[lab]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _library is not None:
            raise IntegrationError(
                "import torchvision", str(error), "install the torchvision that fits your torch"
            ) from error
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        _library.define(schema)  # type: ignore[no-untyped-call]
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    return import_torchvision()
