"""Renaming on Windows, where a file that another program has open (a virus scanner, an indexer) cannot be renamed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

# Of a file in use. Windows also says ACCESS_DENIED for a folder that holds one.
_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION = 5, 32, 33
_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between the attempts; scanners let go within one or two


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder to a name that is free."""
    _when_released(lambda: source.rename(target))


def replace(source: Path, target: Path) -> None:
    """Rename a file, in place of the one that is there."""
    _when_released(lambda: source.replace(target))


def _when_released(action: Callable[[], object], wait: Callable[[float], None] = time.sleep) -> None:
    """Do `action`, again after each of `_WAITS` while Windows says that a file is in use; then the error is raised."""
    for seconds in _WAITS:
        try:
            action()
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in (_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION):
                raise
            wait(seconds)
    action()
