"""Float GGUF → smaller GGUF, a part of a tensor at a time in threads: the file that llama.cpp's quantiser writes.

The memory it needs is a few parts of `_PART` values a thread, however large the model is.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from bp_core.errors import GgufUnusable
from bp_core.events import Notify, Progress

from ..gguf.reader import GgufFile, Tensor
from ..llama_cpp.engine import threads
from . import ggml
from .mixture import mixture, types

Importance = Mapping[str, np.ndarray]  # by a tensor's name in GGUF: float32 [columns]

_PART = 1 << 20  # values packed at once
_ALIGNMENT = 32  # that of every file llama.cpp writes
_VERSION = 3
_UINT32 = 4  # the number by which a GGUF says that a field is one
_QUANTIZATION_VERSION = 2
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
# Written anew, behind the others, as llama.cpp does.
_REPLACED = ("general.quantization_version", "general.file_type")


@dataclass(frozen=True)
class _Part:
    """Some rows of a tensor: `stored` as the source has them, uint8 [rows, bytes per row]."""

    tensor: Tensor
    stored: np.ndarray
    type: GGMLQuantizationType
    importance: np.ndarray | None
    is_last: bool


def quantize(
    source: Path,
    target: Path,
    quantization: str,
    *,
    importance: Importance | None = None,
    notify: Notify | None = None,
) -> None:
    """Write `target` from the float GGUF `source`.

    `importance` says, by tensor and column, how much an error matters; tensors that it does not name are packed
    without. Raises UnknownQuantization, GgufUnusable, LlamaCppMissing, LlamaCppFailed.
    """
    ggml.require_ggml()
    gguf = GgufFile(source)
    wanted = types(gguf, quantization, importance=importance is not None)
    for name, type_ in wanted.items():
        if type_ != gguf.tensors[name].type and gguf.tensors[name].type not in _FLOATS:
            raise GgufUnusable(f"{name} is quantised already, and would lose more.", where=str(source))
    with target.open("wb") as out, source.open("rb") as file, ThreadPoolExecutor(threads()) as pool:
        out.write(_header(gguf, wanted, int(mixture(quantization).file_type)))
        _pad(out)
        parts = (
            part
            for name, type_ in wanted.items()
            for part in _parts(gguf.tensors[name], type_, file, (importance or {}).get(name))
        )
        done = 0
        for part, packed in _in_threads(pool, parts):
            out.write(packed.data)
            if not part.is_last:
                continue
            _pad(out)
            done += 1
            if notify:
                notify(Progress("quantize", done, len(wanted)))


def quantized_size(gguf: GgufFile, quantization: str, *, importance: bool) -> int:
    """Bytes of all tensors in that mixture."""
    wanted = types(gguf, quantization, importance=importance)
    return sum(_bytes(gguf.tensors[name], type_) for name, type_ in wanted.items())


def _parts(
    tensor: Tensor, type_: GGMLQuantizationType, file: BinaryIO, importance: np.ndarray | None
) -> Iterator[_Part]:
    """A tensor's rows, read a part at a time: a mapped file would stay in memory as a whole."""
    columns = tensor.shape[-1] if tensor.shape else 1
    rows = math.prod(tensor.shape[:-1])
    row_bytes = tensor.size // rows if rows else 0
    at_once = max(1, _PART // max(1, columns))
    for start in range(0, rows, at_once):
        count = min(at_once, rows - start)
        file.seek(tensor.offset + start * row_bytes)
        stored = np.frombuffer(file.read(count * row_bytes), np.uint8).reshape(count, row_bytes)
        yield _Part(tensor, stored, type_, importance, is_last=start + count == rows)


def _in_threads(pool: ThreadPoolExecutor, parts: Iterator[_Part]) -> Iterator[tuple[_Part, np.ndarray]]:
    """Each part with its packed rows, in their order; two for each thread are under way, maybe of several tensors."""
    waiting: deque[tuple[_Part, Future[np.ndarray]]] = deque()
    try:
        for part in parts:
            waiting.append((part, pool.submit(_packed, part)))
            if len(waiting) > 2 * threads():
                ready, packed = waiting.popleft()
                yield ready, packed.result()
        while waiting:
            ready, packed = waiting.popleft()
            yield ready, packed.result()
    finally:
        for _, packed in waiting:
            packed.cancel()


def _packed(part: _Part) -> np.ndarray:
    """The rows in their new format, uint8 [rows, bytes per row]."""
    if part.type == part.tensor.type:
        return part.stored
    values = _floats(part)
    if not np.isfinite(values).all():
        raise GgufUnusable(f"{part.tensor.name} has values that are not finite.")
    if part.type == GGMLQuantizationType.F16:
        return values.astype(np.float16).view(np.uint8)
    return ggml.pack(values, part.type, part.importance)


def _floats(part: _Part) -> np.ndarray:
    """The stored rows as float32 [rows, columns]."""
    if part.tensor.type == GGMLQuantizationType.F32:
        return part.stored.view(np.float32)
    if part.tensor.type == GGMLQuantizationType.F16:
        return part.stored.view(np.float16).astype(np.float32)
    bits = part.stored.view(np.uint16).astype(np.uint32) << 16  # bfloat16 is the upper half of a float32
    return bits.view(np.float32)


def _bytes(tensor: Tensor, type_: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[type_]
    return int(math.prod(tensor.shape) // block * size)


def _header(gguf: GgufFile, wanted: Mapping[str, GGMLQuantizationType], file_type: int) -> bytes:
    """Everything before the tensors' data: the source's fields as they are, and where each tensor lies.

    Layout: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    kept = [name for name in gguf.fields if name not in _REPLACED]
    parts = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(wanted), len(kept) + len(_REPLACED))]
    for name in kept:
        start, end = gguf.spans[name]
        parts += [_text(name), bytes(gguf.bytes(start - 4, end))]  # the four bytes before a value say its type
    for name, value in zip(_REPLACED, (_QUANTIZATION_VERSION, file_type), strict=True):
        parts += [_text(name), struct.pack("<II", _UINT32, value)]
    offset = 0
    for name, type_ in wanted.items():
        tensor = gguf.tensors[name]
        shape = tensor.shape[::-1]
        parts.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, int(type_), offset))
        offset += _aligned(_bytes(tensor, type_))
    return b"".join(parts)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(size: int) -> int:
    return math.ceil(size / _ALIGNMENT) * _ALIGNMENT


def _pad(out: BinaryIO) -> None:
    out.write(bytes(_aligned(out.tell()) - out.tell()))
