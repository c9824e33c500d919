"""The bytes to upload to Ollama: a GGUF unchanged, or with a comment added to its chat template.

Ollama wants the digest of an upload before its first byte, so the bytes are read twice: for the digest and to be sent.
An export computes the digest while it reads the file for its own, and it is remembered, so that they are read once.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from bp_core import folders
from bp_core.events import Notify, Progress

from ..gguf.reader import GgufFile

TEMPLATE_FIELD = "tokenizer.chat_template"
_CHUNK = 4 << 20
# Ollama replaces a GGUF's template by one of its own if they differ in fewer than 100 characters, although the two are
# not the same. A longer comment prevents that, and renders to nothing.
_COMMENT = (
    "This chat template is the one that the model was trained with. The comment keeps Ollama from replacing it by a "
    "similar one, with other white space, or without the default system message. It renders to nothing."
)
_REPLACED_BELOW = 100
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_FOLDER = "ollama-digests"  # in the user's Backpropagate folder
Span = tuple[int, int]  # bytes of the file, start and end


class Blob:
    """The bytes of an upload and their digest. `guarded`: with the comment in its template; the file is unchanged."""

    def __init__(self, gguf: GgufFile, *, guarded: bool, notify: Notify | None = None) -> None:
        self._notify = notify
        self._path, self._guarded = gguf.path, guarded
        self._parts: list[bytes | Span] = [(0, gguf.path.stat().st_size)]
        template = gguf.fields.get(TEMPLATE_FIELD, "")
        if guarded and template:
            self._parts = _with_template(gguf, guard(template))
        self.size = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in self._parts)

    @cached_property
    def digest(self) -> str:
        """The digest by which Ollama names these bytes."""
        record = _record(self._path, self._parts)
        with suppress(OSError):
            if _DIGEST.fullmatch(known := record.read_text(encoding="utf-8")):  # whole, not cut off as it was written
                return known
        made = hashlib.sha256()
        for chunk in self.chunks("compute the digest"):
            made.update(chunk)
        return _remembered(record, made)

    def chunks(self, purpose: str) -> Iterator[bytes]:
        """The bytes in chunks, with progress. They are read as they are wanted: none is kept."""
        done = 0
        with self._path.open("rb") as file:
            for part in self._parts:
                for chunk in [part] if isinstance(part, bytes) else _read(file, *part):
                    yield chunk
                    done += len(chunk)
                    if self._notify:
                        self._notify(Progress(purpose, done, self.size))


def digests(path: Path) -> str:
    """The SHA-256 of a GGUF, in hex; the digest that Ollama gives it with the comment is remembered for its upload.

    The file is read once.
    """
    gguf = GgufFile(path, alone=True)
    template = gguf.fields.get(TEMPLATE_FIELD, "")
    parts: list[bytes | Span] = [(0, path.stat().st_size)]
    if template:
        parts = _with_template(gguf, guard(template))
    plain, guarded = hashlib.sha256(), hashlib.sha256()
    at = 0
    with path.open("rb") as file:
        for part in parts:
            if isinstance(part, bytes):
                guarded.update(part)
                continue
            for chunk in _read(file, at, part[0]):  # what is replaced
                plain.update(chunk)
            for chunk in _read(file, *part):
                plain.update(chunk)
                guarded.update(chunk)
            at = part[1]
    _remembered(_record(path, parts), guarded)
    _remembered(_record(path, [(0, at)]), plain)
    return plain.hexdigest()


def guard(template: str) -> str:
    """The template with the comment in front. Jinja drops a line break after a comment, so there is one to drop."""
    assert len(_COMMENT) > _REPLACED_BELOW
    return f"{{# {_COMMENT} #}}\n{template}"


def _with_template(gguf: GgufFile, template: str) -> list[bytes | Span]:
    """The file in parts, with another chat template. Tensor offsets are relative, so they stay correct."""
    start, end = gguf.spans[TEMPLATE_FIELD]
    header, data = gguf.header
    text = template.encode()
    value = struct.pack("<Q", len(text)) + text
    padding = -(header - (end - start) + len(value)) % gguf.alignment
    return [(0, start), value, (end, header), bytes(padding), (data, gguf.path.stat().st_size)]


def _read(file: Any, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (chunk := file.read(min(_CHUNK, end - start))):
        start += len(chunk)
        yield chunk


def _record(path: Path, parts: list[bytes | Span]) -> Path:
    """Where the digest of these parts is remembered, while the file is as it is."""
    facts = path.stat()
    file = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return folders.home() / _FOLDER / hashlib.sha256(repr((file, parts)).encode()).hexdigest()[:32]


def _remembered(record: Path, made: Any) -> str:
    digest = f"sha256:{made.hexdigest()}"
    with suppress(OSError):  # it only saves time
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(digest, encoding="utf-8")
    return digest
