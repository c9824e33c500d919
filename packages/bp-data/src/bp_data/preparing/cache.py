"""Prepared data kept on disk, under the hash of all that it was made from. What it was made from is never asked again:
other contents, another tokenizer, template or setting, or other code of ours, has another name."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bp_core.errors import DiskFull, OutputUnusable
from bp_core.folders import damage, digest, new_folder

from ..reading.files import Data
from ..reading.text import STDIN
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .prepared import Prepared, read, write

LIMIT = 4 * 2**30  # bytes of all entries; beyond, those go that were not used for the longest time
WORTH = 200_000  # tokens; fewer are prepared about as quickly as found again
_LIBRARIES = ("tokenizers", "jinja2", "bp-data")
_PACKAGE = Path(__file__).parents[1]
_HEX = "[0-9a-f]" * 64


def place(root: Path, data: Data, tokenizer: ChatTokenizer, settings: Mapping[str, Any]) -> Path | None:
    """The folder that holds, or would hold, what is prepared from this; None for what has no lasting contents.

    Those are rows given in Python, standard input, and templates that write the date.
    """
    if not isinstance(data, str | Path) or str(data) == STDIN or tokenizer.reads_clock:
        return None
    contents = _contents(Path(data))
    if not contents:
        return None
    parts = [contents, tokenizer.fingerprint, settings, _code(), [version(name) for name in _LIBRARIES]]
    return root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load(entry: Path) -> Prepared | None:
    """What is kept there, mapped from disk; None if there is nothing, or it is damaged."""
    try:
        if damage(entry) is not None:
            return None
        os.utime(entry)
        return read(entry)
    except OSError:
        return None


def keep(entry: Path, prepared: Prepared) -> None:
    """Keep it, if it is worth that. Where nothing can be written the work goes on without."""
    if prepared.report.tokens < WORTH:
        return
    with suppress(OutputUnusable, DiskFull):  # OutputUnusable also when another process was quicker
        shutil.rmtree(entry, ignore_errors=True)
        with new_folder(entry) as draft:
            write(prepared, draft)
        _evict(entry.parent)


def _contents(path: Path) -> list[tuple[str, str]]:
    """Names and hashes of the file, or of all files in the folder; names tell how to read, and stand in the report."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), digest(file)) for file in files]


@functools.cache
def _code() -> str:
    return code_digest(_PACKAGE)


def code_digest(package: Path) -> str:
    """SHA-256 of a package's sources in every folder, in hex: what they do is part of what a result was made from."""
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _evict(root: Path) -> None:
    """Remove entries, and drafts of killed processes, until the rest is within the limit; the oldest first."""
    entries = [folder for pattern in (_HEX, f".{_HEX}.*") for folder in root.glob(pattern)]
    size = sum(map(_size, entries))
    for folder in sorted(entries, key=lambda folder: folder.stat().st_mtime):
        if size <= LIMIT:
            break
        size -= _size(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
