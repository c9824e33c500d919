"""Check that an output path is free and its disk has space."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bp_core import folders
from bp_core.errors import DiskFull, OutputUnusable
from bp_core.renaming import rename

_OVERWRITE = "Replace it with --overwrite, or choose another place with --output."


def require_replaceable(target: Path, *, overwrite: bool) -> None:
    """Raise OutputUnusable if `target` exists, unless an export wrote it and `overwrite` allows to replace it."""
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise OutputUnusable("something is here already.", where=str(target), fix=_OVERWRITE)
    if target.is_dir() and (damage := folders.damage(target)):
        raise OutputUnusable(f"this folder is not as an export wrote it: {damage}.", where=str(target))


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write a folder to; it replaces an existing `target` only when it is complete."""
    if not os.path.lexists(target):
        yield target
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
        new = Path(place, "new")
        yield new
        old = Path(place, "old")
        rename(target, old)
        try:
            rename(new, target)
        except OSError:
            rename(old, target)
            raise


def require_free(target: Path) -> None:
    """Raise OutputUnusable if `target` exists."""
    if os.path.lexists(target):
        raise OutputUnusable("something is here already.", where=str(target), fix="Remove it, or choose another place.")


def require_space(target: Path, needed: int) -> None:
    """Raise DiskFull unless `needed` bytes are free on the disk of `target`."""
    place = next(folder for folder in target.resolve().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFull(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free.", where=str(place))
