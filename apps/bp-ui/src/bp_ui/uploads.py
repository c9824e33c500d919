"""Files that are sent to the page: streamed to a part file, bounded, and of a kind that is data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import anyio

from bp_core.errors import DiskFull, UploadRefused
from bp_core.folders import DISK_FULL
from bp_core.renaming import rename
from bp_core.units import gigabytes

from .folders import is_data, is_plain

_IDLE_SECONDS = 30.0
_KEPT_FREE = 1 << 30  # bytes of the disk
_LOOKED_AT = 1 << 16  # bytes of the beginning
_LONGEST_NAME = 120
_SIGNS = {".parquet": b"PAR1", ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".arrow": b"ARROW1"}
_JSON = (".jsonl", ".ndjson", ".json")


def checked_name(name: str) -> str:
    """The name to keep an upload under. Raises UploadRefused."""
    if not is_plain(name) or len(name) > _LONGEST_NAME:
        raise UploadRefused("the file's name is none that can be kept.", where=name[:_LONGEST_NAME])
    if not is_data(name):
        raise UploadRefused("files of this kind are not data.", where=name)
    return name


async def receive(chunks: AsyncIterator[bytes], folder: Path, name: str, limit: int, declared: int | None) -> Path:
    """Write what arrives to `folder`/`name`; nothing is left of one that is refused.

    `declared`: the length that the browser says, in bytes. Raises UploadRefused, DiskFull.
    """
    target = folder / checked_name(name)
    if target.exists():
        raise UploadRefused("a file of this name was uploaded before.", where=name, fix="Rename yours, or use that.")
    room = shutil.disk_usage(folder).free - _KEPT_FREE
    if declared is not None and declared > limit:
        raise _too_large(name, limit)
    if (declared or 0) > room:
        raise DiskFull(f"there is no room for {gigabytes(declared or 0)}.", where=str(folder))
    with _part(folder) as (part, file):
        await _copy(chunks, file, min(limit, room), name)
        file.seek(0)
        refuse_other_content(name, file.read(_LOOKED_AT))
        file.flush()
        os.fsync(file.fileno())
        part.chmod(0o600)
        rename(part, target)
    return target


async def _copy(chunks: AsyncIterator[bytes], file: BinaryIO, limit: int, name: str) -> None:
    written = 0
    while True:
        chunk = None
        with anyio.move_on_after(_IDLE_SECONDS):
            chunk = await anext(chunks, b"")
        if chunk is None:
            raise UploadRefused(f"nothing arrived for {_IDLE_SECONDS:.0f} s.", where=name, fix="Send it again.")
        if not chunk:
            return
        written += len(chunk)
        if written > limit:
            raise _too_large(name, limit)
        try:
            await anyio.to_thread.run_sync(file.write, chunk)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise DiskFull("the disk is full.", where=name) from error
            raise


@contextmanager
def _part(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A hidden file beside the target, gone at the end if it was not renamed."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield Path(name), cast(BinaryIO, file)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def refuse_other_content(name: str, start: bytes) -> None:
    """Raise UploadRefused where the beginning of a file is not what its name says."""
    lower = name.lower()
    for ending, sign in _SIGNS.items():
        if lower.endswith(ending):
            if not start.startswith(sign):
                raise UploadRefused(f"this is no {ending} file.", where=name)
            return
    if lower.endswith(".feather"):
        return
    utf16 = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in start and not utf16:
        raise UploadRefused("this is no text.", where=name, fix="Save the data as UTF-8 text.")
    first = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if lower.endswith(_JSON) and not utf16 and first not in (b"{", b"[", b""):
        raise UploadRefused("this is no JSON: it begins otherwise.", where=name)


def _too_large(name: str, limit: int) -> UploadRefused:
    return UploadRefused(f"the file is larger than {gigabytes(limit)}.", where=name)
