"""Headers of safetensors files: read, checked against the file, and written. Numbers are read by packages with numpy.

Layout: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import shlex
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes of one number.
SIZES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
_METADATA = "__metadata__"
_POINTER = b"version https://git-lfs"  # what Git leaves in place of a large file that it did not fetch


class TensorFileBroken(Exception):
    """A file that is no whole safetensors file; the readers of folders say which folder that was."""

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


def refuse_pointer(path: Path) -> None:
    """Raise TensorFileBroken for a Git LFS pointer, which is a few lines of text in place of the weights."""
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        fix = f"Fetch the weights: git -C {shlex.quote(str(path.parent))} lfs pull"
        raise TensorFileBroken("this is a Git LFS pointer, not the weights", fix)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` is in bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of a file, whose tensors fill the file to its end without gaps. Raises TensorFileBroken."""
    try:
        refuse_pointer(path)
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            available = path.stat().st_size - 8 - length
            if available < 0:
                raise ValueError("the header is longer than the file")
            entries = json.loads(file.read(length), object_pairs_hook=_without_doubles)
        metadata = entries.pop(_METADATA, {})
        return Header(dict(_tensors(entries, 8 + length, available)), metadata)
    except FileNotFoundError as error:
        raise TensorFileBroken("a file of the weights is missing") from error
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TensorFileBroken(f"the weights are truncated or broken ({error})") from error


def header_bytes(tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with whose tensors (name, dtype, shape) follow in this order."""
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        start = end
        end += math.prod(shape) * SIZES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name is there twice")
    return entries


def _tensors(entries: Mapping[str, Any], start: int, available: int) -> Iterator[tuple[str, StoredTensor]]:
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = entry["dtype"]
        shape = tuple(map(int, entry["shape"]))
        if dtype not in SIZES:
            raise ValueError(f"{name} holds {dtype}, which is not read here")
        begin = end
        end += math.prod(shape) * SIZES[dtype]
        if entry["data_offsets"] != [begin, end] or min(shape, default=0) < 0:
            raise ValueError(f"{name} does not lie where it should")
        yield name, StoredTensor(dtype, shape, start + begin)
    if end != available:
        raise ValueError(f"there are {available} bytes of weights, not {end}")
