"""Check that an output path is free and its disk has space."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bp_core import folders
from bp_core.errors import DiskFull, OutputUnusable
from bp_core.renaming import rename

BESIDE = "beside"  # in a proof: which files an export wrote beside the exported one
_ELSEWHERE = "Choose another place with --output, or move this away."
_OVERWRITE = "Replace it with --overwrite, or choose another place with --output."


def require_replaceable(target: Path, *, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Raise OutputUnusable if `target` exists, unless an export wrote it and `overwrite` allows to replace it.

    `sources` are the folders that are exported; they are never replaced.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise OutputUnusable("something is here already.", where=str(target), fix=_OVERWRITE)
    place = target.resolve()
    if any(place == source.resolve() or place in source.resolve().parents for source in sources):
        raise OutputUnusable("what is exported lies here.", where=str(target), fix=_ELSEWHERE)
    if target.is_dir() and (damage := folders.damage(target)):
        raise OutputUnusable(f"this folder is not as an export wrote it: {damage}.", where=str(target), fix=_ELSEWHERE)
    if not target.is_dir() and not is_export(target):
        message = (
            "no export wrote this file, or it was changed since: the proof beside it is missing or of another file."
        )
        raise OutputUnusable(message, where=str(target), fix=_ELSEWHERE)


def report_of(file: Path) -> Path:
    """Where the proof of an exported file lies."""
    return file.with_suffix(".parity.json")


def is_export(file: Path) -> bool:
    """Whether a file is as an export wrote it, by the proof beside it."""
    report = _report(file)
    if not file.is_file() or report.get("bytes") != file.stat().st_size:
        return False
    return bool(report.get("sha256") == folders.digest(file))


def free_beside(file: Path, suffix: str) -> Path:
    """The path of a file that an export writes beside `file`; another name if somebody else's has that one."""
    path = file.with_suffix(suffix)
    ours = path.name in _report(file).get(BESIDE, [])
    return path if not os.path.lexists(path) or ours else file.with_suffix(f".new{suffix}")


def _report(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(report_of(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write a folder to; it replaces an existing `target` only when it is complete.

    Files in `target` that its manifest does not name are somebody else's: they stay.
    """
    if not os.path.lexists(target):
        yield target
        return
    with folders.writing(target):
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield place / "new"
        with folders.writing(target):
            _keep_others_files(target, place / "new")
            _exchange(target, place / "new", place / "old")
    finally:
        if os.path.lexists(target):
            shutil.rmtree(place, ignore_errors=True)


def _keep_others_files(old: Path, new: Path) -> None:
    """Give the new folder what the manifest of the old one does not name: as further links to the same files."""
    ours = {folders.MANIFEST, *json.loads((old / folders.MANIFEST).read_text(encoding="utf-8"))}
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old).as_posix()
        if path.is_dir() and not path.is_symlink():
            (new / name).mkdir(parents=True, exist_ok=True)
        elif name not in ours:
            if os.path.lexists(new / name):
                message = f"{name} is no file of an earlier export, and this one writes a file of that name."
                raise OutputUnusable(message, where=str(path), fix=f"Rename {path}, or choose another --output.")
            _link(path, new / name)


def _link(source: Path, target: Path) -> None:
    if not source.is_symlink():
        with suppress(OSError):  # not every disk can
            os.link(source, target)
            return
    shutil.copy2(source, target, follow_symlinks=False)


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


def unproven_path(target: Path) -> Path:
    """A free path beside `target` for a file that is not proven.

    An earlier unproven file is replaced if the proof beside it shows that an export wrote it.
    """
    path = target.with_suffix(".unproven.gguf")
    number = 1
    while path.exists() and not (number == 1 and is_export(path)):
        number += 1
        path = target.with_suffix(f".unproven-{number}.gguf")
    return path
