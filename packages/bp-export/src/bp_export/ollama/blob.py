"""The bytes to upload to Ollama: a GGUF unchanged, or with a comment added to its chat template."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from functools import cached_property

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


class Blob:
    """The bytes of an upload and their digest. `guarded`: with the comment in its template; the file is unchanged."""

    def __init__(self, gguf: GgufFile, *, guarded: bool, notify: Notify | None = None) -> None:
        self._notify = notify
        self._parts = [gguf.bytes()]
        template = gguf.fields.get(TEMPLATE_FIELD, "")
        if guarded and template:
            self._parts = _with_template(gguf, guard(template))
        self.size = sum(len(part) for part in self._parts)

    @cached_property
    def digest(self) -> str:
        """The digest by which Ollama names these bytes."""
        made = hashlib.sha256()
        for chunk in self.chunks("compute the digest"):
            made.update(chunk)
        return f"sha256:{made.hexdigest()}"

    def chunks(self, purpose: str) -> Iterator[bytes]:
        """The bytes in chunks, with progress."""
        done = 0
        for part in self._parts:
            for start in range(0, len(part), _CHUNK):
                chunk = bytes(part[start : start + _CHUNK])
                yield chunk
                done += len(chunk)
                if self._notify:
                    self._notify(Progress(purpose, done, self.size))


def guard(template: str) -> str:
    """The template with the comment in front. Jinja drops a line break after a comment, so there is one to drop."""
    assert len(_COMMENT) > _REPLACED_BELOW
    return f"{{# {_COMMENT} #}}\n{template}"


def _with_template(gguf: GgufFile, template: str) -> list[memoryview]:
    """The file in parts, with another chat template. Tensor offsets are relative, so they stay correct."""
    start, end = gguf.spans[TEMPLATE_FIELD]
    header, data = gguf.header
    text = template.encode()
    value = struct.pack("<Q", len(text)) + text
    padding = -(header - (end - start) + len(value)) % gguf.alignment
    return [
        gguf.bytes(0, start),
        memoryview(value),
        gguf.bytes(end, header),
        memoryview(bytes(padding)),
        gguf.bytes(data),
    ]
