"""A bar for work that turns out to be slow."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

PATIENCE = 2.0
"""Seconds before a bar appears."""


@contextmanager
def slow_bar(label: str, progress: Progress | None = None) -> Iterator[Progress]:
    """Give a function to report progress to.

    Args:
        label: what the bar says is going on.
        progress: a function to use instead of a bar.

    Yields:
        ``progress`` if there is one; else, where standard error is a terminal, a function that
        moves a bar, shown after two seconds; else a function that does nothing.
    """
    if progress is not None or not sys.stderr.isatty():
        yield progress or _silence
        return
    import rich.console
    import rich.progress

    bar = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True)
    task = bar.add_task(label, total=None)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def _silence(done: int, total: int) -> None:
    """Say nothing."""
