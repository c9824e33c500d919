"""What is uploaded to Ollama: a GGUF as it is, or with a remark in its chat template, made while it is read."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from functools import cached_property

from bp_core.events import Notify, Progress

from ..gguf.reader import GgufFile

TEMPLATE_FIELD = "tokenizer.chat_template"
_CHUNK = 4 << 20
# Ollama compares a GGUF's template with those it knows, and puts its own, which is not the same, in the place of one
# that differs in fewer than 100 letters. A remark of more letters prevents it, and renders to nothing.
_REMARK = (
    "This chat template is the one that the model was trained with. The remark keeps Ollama from taking another one "
    "that merely resembles it, with other blanks, or without the default system message. It writes nothing."
)
_SEEN_AS_ANOTHER = 100


class Blob:
    """The bytes of an upload and their name. `guarded`: with the remark in its template; the file stays as it is."""

    def __init__(self, gguf: GgufFile, *, guarded: bool, notify: Notify | None = None) -> None:
        self._notify = notify
        self._parts = [gguf.bytes()]
        template = gguf.fields.get(TEMPLATE_FIELD, "")
        if guarded and template:
            self._parts = _with_template(gguf, guard(template))
        self.size = sum(len(part) for part in self._parts)

    @cached_property
    def digest(self) -> str:
        """Ollama's name for these bytes."""
        made = hashlib.sha256()
        for chunk in self.chunks("compute the digest"):
            made.update(chunk)
        return f"sha256:{made.hexdigest()}"

    def chunks(self, purpose: str) -> Iterator[bytes]:
        """The bytes one after another, telling how far they are."""
        done = 0
        for part in self._parts:
            for start in range(0, len(part), _CHUNK):
                chunk = bytes(part[start : start + _CHUNK])
                yield chunk
                done += len(chunk)
                if self._notify:
                    self._notify(Progress(purpose, done, self.size))


def guard(template: str) -> str:
    """The template with the remark in front. Jinja drops one line break after a remark, so it gets one to drop."""
    assert len(_REMARK) > _SEEN_AS_ANOTHER
    return f"{{# {_REMARK} #}}\n{template}"


def _with_template(gguf: GgufFile, template: str) -> list[memoryview]:
    """The file in parts, with another chat template; the tensors' places count from their beginning and stay right."""
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
