"""A cache of prepared data on disk. The key is a hash of everything that it depends on: file contents, tokenizer,
template, settings, and our own code."""

from __future__ import annotations

import functools
import glob
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

from ..reading.files import Data, paths_of
from ..reading.paths import is_pattern
from ..reading.text import STDIN
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .prepared import Prepared, read, write

LIMIT = 4 * 2**30  # bytes of all entries; beyond it the least recently used are deleted
WORTH = 200_000  # tokens; fewer are prepared about as quickly as read from the cache
_LIBRARIES = ("tokenizers", "jinja2", "bp-data")
_PACKAGE = Path(__file__).parents[1]
_HEX = "[0-9a-f]" * 64


def place(root: Path, data: Data, tokenizer: ChatTokenizer, settings: Mapping[str, Any]) -> Path | None:
    """The cache entry for this data and these settings; None for what cannot be cached.

    That is rows given in Python, standard input, and templates that write the date.
    """
    paths = paths_of(data)
    if paths is None or any(str(path) == STDIN for path in paths) or tokenizer.reads_clock:
        return None
    contents = [_contents(Path(path)) for path in paths]
    if not all(contents):
        return None
    parts = [contents, tokenizer.fingerprint, settings, _code(), [version(name) for name in _LIBRARIES]]
    return root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load(entry: Path) -> Prepared | None:
    """Read a cache entry, with its arrays memory-mapped; None if it is missing or damaged."""
    try:
        if damage(entry) is not None:
            return None
        os.utime(entry)
        return read(entry)
    except OSError:
        return None


def keep(entry: Path, prepared: Prepared) -> None:
    """Write a cache entry if it is large enough to be worth it; failing to write is ignored."""
    if prepared.report.tokens < WORTH:
        return
    with suppress(OutputUnusable, DiskFull):  # OutputUnusable also when another process was faster
        shutil.rmtree(entry, ignore_errors=True)
        with new_folder(entry) as draft:
            write(prepared, draft)
        _evict(entry.parent)


def _contents(path: Path) -> list[tuple[str, str]]:
    """Names and hashes of the file, or of all files in the folder or of the pattern; names decide how they are read."""
    if is_pattern(path):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = sorted(file for file in found if file.is_file())
    else:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), digest(file)) for file in files]


@functools.cache
def _code() -> str:
    return code_digest(_PACKAGE)


def code_digest(package: Path) -> str:
    """SHA-256, in hex, of all source files and templates of a package, because results depend on them."""
    digest = hashlib.sha256()
    for source in sorted([*package.rglob("*.py"), *package.rglob("*.jinja")]):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _evict(root: Path) -> None:
    """Delete entries, and drafts of killed processes, oldest first, until the rest is within the limit."""
    entries = [folder for pattern in (_HEX, f".{_HEX}.*") for folder in root.glob(pattern)]
    size = sum(map(_size, entries))
    for folder in sorted(entries, key=lambda folder: folder.stat().st_mtime):
        if size <= LIMIT:
            break
        size -= _size(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
