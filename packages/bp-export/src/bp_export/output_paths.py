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
    with folders.writing(target):
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield place / "new"
        with folders.writing(target):
            _exchange(target, place / "new", place / "old")
    finally:
        if os.path.lexists(target):
            shutil.rmtree(place, ignore_errors=True)


def _exchange(target: Path, new: Path, old: Path) -> None:
    """Put `new` where `target` is, which steps aside to `old`; both stay where they can be found if neither fits."""
    try:
        rename(target, old)
        rename(new, target)
    except BaseException as error:
        if os.path.lexists(target):
            raise
        try:
            rename(old, target)
        except OSError:
            message = f"this could not be replaced ({error}). The old one lies in {old}, the new one in {new}."
            raise OutputUnusable(message, where=str(target), fix=f"Rename one of them to {target}.") from error
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
