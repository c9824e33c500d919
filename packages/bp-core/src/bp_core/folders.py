"""What lies on disk: whole or not at all. Folders are written beside their place, fsynced, and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import BackpropagateError, DiskFull, FileMissing, FileUnreadable, OutputUnusable
from .renaming import rename, replace

MANIFEST = "manifest.json"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # what the system says where there is no room
# What the system says where a place cannot be written to, besides what Python has classes for.
_NOT_WRITABLE = (errno.EROFS, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EBUSY, errno.EIO, errno.ESTALE, errno.EXDEV)


def home() -> Path:
    """The user's Backpropagate folder: BACKPROPAGATE_HOME, or ~/.backpropagate."""
    return Path(os.environ.get("BACKPROPAGATE_HOME") or Path.home() / ".backpropagate")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it gets a manifest and that name, which must be free."""
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        made = draft.stat().st_ino
    try:
        with writing(target):
            yield draft
            if not draft.is_dir() or draft.stat().st_ino != made:  # made anew, it would lack what was written before
                raise OutputUnusable("this folder is gone; it was moved or removed.", where=str(target.parent))
            write_manifest(draft)
            _share(draft)
            sync(draft)
            rename(draft, target)
            _sync_entry(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is fsynced and takes that name, replacing a file there."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
    draft = Path(name)
    try:
        with writing(target):
            yield draft
            _sync_file(draft)
            draft.chmod(0o666 & ~_umask())
            replace(draft, target)
            _sync_entry(target.parent)
    finally:
        _remove(draft)


def sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left of unfinished writes to targets in `folder` whose names begin with `name`.

    Only where nobody else can be writing such a target now.
    """
    for draft in folder.glob(f".{name}*"):
        shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else _remove(draft)


def _remove(draft: Path) -> None:
    """Remove an unfinished file. Where that fails, what failed before it is to be told, and `sweep` comes again."""
    with suppress(OSError):
        draft.unlink()


def move(source: Path, target: Path) -> None:
    """Give a whole folder another place on its disk, durably. Raises OutputUnusable if something is there already."""
    if not move_if_free(source, target):
        raise OutputUnusable("something is here already.", where=str(target))


def move_if_free(source: Path, target: Path) -> bool:
    """Give a whole folder another place on its disk, durably; False, with nothing changed, if the place is taken."""
    with writing(target):
        try:
            rename(source, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        _sync_entry(target.parent)
        _sync_entry(source.parent)
    return True


def write_json(target: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    with new_file(target) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_manifest(folder: Path) -> None:
    """List every file of `folder` with its size and SHA-256."""
    files = {path.relative_to(folder).as_posix(): _entry(path) for path in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that should match its manifest; None if all is well."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in manifest.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if _entry(path) != entry:
                return f"{name} was altered"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, AttributeError):
        return f"{MANIFEST} is not valid JSON"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


def writable_folder(path: Path) -> Path:
    """The folder `path`, created if need be and tried by writing. Raises OutputUnusable."""
    if path.exists() and not path.is_dir():
        raise OutputUnusable("this is a file, not a folder.", where=str(path))
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate what the operating system says about writing under `path` into our errors."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise OutputUnusable(f"cannot write here ({error.strerror}).", where=str(path)) from error
    except FileNotFoundError as error:
        if path.parent.is_dir():  # what is missing is something that was to be read
            raise
        raise OutputUnusable("this folder is gone; it was moved or removed.", where=str(path.parent)) from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull("the disk is full.", where=str(path)) from error
        if error.errno in _NOT_WRITABLE:
            raise OutputUnusable(f"cannot write here ({error.strerror}).", where=str(path)) from error
        raise


def of_system(error: Exception) -> BackpropagateError | None:
    """What the operating system says of a file in the middle of the work, as an error with a code; None for others."""
    if not isinstance(error, OSError):
        return None
    named = isinstance(error.filename, str | bytes)
    if not named and error.errno not in (*DISK_FULL, *_NOT_WRITABLE):
        return None
    path = os.fsdecode(error.filename) if named else "a file that the system does not name"
    if isinstance(error, FileNotFoundError):
        fix = "Put it back where it was, then give the command again."
        return FileMissing("this is gone; it was moved or removed.", where=path, fix=fix)
    if error.errno in DISK_FULL:
        return DiskFull("the disk is full.", where=path)
    fix = "Check its permissions and its disk, then give the command again."
    return FileUnreadable(f"it cannot be used ({error.strerror}).", where=path, fix=fix)


def sync(folder: Path) -> None:
    """Flush a folder and every file in it to disk."""
    for path in [*_files(folder), folder / MANIFEST]:
        _sync_file(path)
    _sync_entry(folder)


def _sync_entry(folder: Path) -> None:
    if os.name != "nt":  # Windows cannot open a folder; its rename is durable by itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _share(folder: Path) -> None:
    """Give a folder and all in it the access that the umask allows. safetensors writes files for their owner alone."""
    mask = _umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
