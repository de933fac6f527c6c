"""Fetching a data set with torchvision, whole or not at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from ...integrations.torchvision import import_torchvision

PATIENCE = 20.0
"""Seconds after which a silent server counts as unreachable."""


def download(kind: str, root: Path) -> str | None:
    """Fetch a data set into ``root`` in torchvision's layout.

    Args:
        kind: a class of ``torchvision.datasets``, e.g. ``CIFAR10``.
        root: the folder for it; it is made. Files appear in it only when complete.

    Returns:
        None, or in one line why it failed.
    """
    datasets = import_torchvision().datasets
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".download-") as stage, _timeout(PATIENCE):
            getattr(datasets, kind)(stage, train=True, download=True)
            for folder in Path(stage).iterdir():
                if folder.is_dir():  # the archive beside it has been unpacked
                    folder.rename(root / folder.name)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
