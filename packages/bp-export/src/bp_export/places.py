"""Is there a free name, and room, for what will be written?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bp_core.errors import DiskFull, OutputUnusable


def require_free(target: Path) -> None:
    """Raise OutputUnusable if something is at `target`: nothing of the user's is ever replaced by a folder."""
    if os.path.lexists(target):
        raise OutputUnusable("something is here already.", where=str(target), fix="Remove it, or choose another place.")


def require_space(target: Path, needed: int) -> None:
    """Raise DiskFull unless `needed` bytes are free where `target` will lie."""
    place = next(folder for folder in target.resolve().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFull(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free.", where=str(place))
