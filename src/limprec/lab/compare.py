"""Training the rows of a comparison one after another; nothing finished is run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..integrations.lightning import pl
from .data import DataSet
from .run import RunConfig, RunResult, environment
from .trainer import Training, train
from .variants import Variant


def compare(
    rows: Sequence[Variant],
    data: DataSet,
    out: Path,
    *,
    on_start: Callable[[Variant], Sequence[pl.Callback]] = lambda variant: (),
    on_done: Callable[[RunResult], None] = lambda result: None,
) -> list[RunResult]:
    """Train each variant in turn; one that ``out`` holds finished is read, not run again.

    Args:
        rows: the variants.
        data: their data set.
        out: folder of the comparison; each variant has a folder in it, named by its label and
            a digest of its config and versions, so that another config never reads its result.
        on_start: called before a variant trains; returns Lightning callbacks, a progress bar say.
        on_done: called with each result, also one that was read.

    Returns:
        The results in the order of the rows.
    """
    for row in rows:
        Training(row.config, data).configure_optimizers()  # what is wrong shows before any training
    results = []
    for row in rows:
        result = finished(row, out)
        if result is None:
            callbacks = tuple(on_start(row))
            result = train(
                row.config,
                data,
                _folder(row, out),
                label=row.label,
                resume=True,
                callbacks=callbacks,
            )
        on_done(result)
        results.append(result)
    return results


def finished(row: Variant, out: Path) -> RunResult | None:
    """Return the result of a variant that a comparison's folder holds finished, else None."""
    path = _folder(row, out) / "result.json"
    return RunResult.load(path) if path.exists() else None


def _folder(row: Variant, out: Path) -> Path:
    return out / f"{row.label.replace(' ', '-')}-{_digest(row.config)}"


def _digest(config: RunConfig) -> str:
    versions = {k: v for k, v in environment().items() if k in ("limprec", "torch")}
    text = json.dumps([config.as_dict(), versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
