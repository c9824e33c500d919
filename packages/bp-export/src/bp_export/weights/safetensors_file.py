"""Safetensors, memory-mapped: read any tensor without loading the rest, write one tensor at a time.

Layout: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from bp_core.errors import ModelUnusable

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Source(Protocol):
    """Named tensors that are read one at a time: a base model, or a base with an adapter merged in."""

    def names(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> np.dtype[Any]: ...
    def array(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class _Entry:
    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class Weights:
    """The tensors of one safetensors file, or of a model folder (one file, or shards with an index)."""

    def __init__(self, path: Path) -> None:
        self._entries: dict[str, _Entry] = {}
        for file in _files(path) if path.is_dir() else [path]:
            for name, entry in _header(file):
                if name in self._entries:
                    raise ModelUnusable(f"the tensor {name} is in two files.", where=str(path))
                self._entries[name] = entry

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._entries[name].dtype

    def array(self, name: str) -> np.ndarray:
        """A read-only view into the file."""
        entry = self._entries[name]
        if math.prod(entry.shape) == 0:
            return np.empty(entry.shape, entry.dtype)
        return np.memmap(entry.file, entry.dtype, "r", entry.offset, entry.shape)


def write(path: Path, source: Source, names: Iterable[str]) -> Iterator[str]:
    """Write the named tensors of `source` to a safetensors file, yielding each name once it is written."""
    names = list(names)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + size(source, name)
        header[name] = {
            "dtype": _NAMES[source.dtype(name)],
            "shape": list(source.shape(name)),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            array = np.ascontiguousarray(source.array(name), source.dtype(name))
            file.write(array.reshape(-1).view(np.uint8).data)
            yield name


def size(source: Source, name: str) -> int:
    """Bytes of one tensor in a safetensors file."""
    return math.prod(source.shape(name)) * source.dtype(name).itemsize


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise ModelUnusable(f"there is no {SINGLE} and no {INDEX}.", where=str(folder))
    try:
        places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable("the index of the weights cannot be read.", where=str(index)) from error
    if any(Path(name).name != name for name in names):
        raise ModelUnusable("the index of the weights points outside its folder.", where=str(index))
    return [folder / name for name in names]


def _header(file: Path) -> Iterator[tuple[str, _Entry]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            available = file.stat().st_size - 8 - length
            if available < 0:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        for name, value in header.items():
            if name != "__metadata__":
                yield name, _entry(file, value, 8 + length, available)
    except FileNotFoundError as error:
        raise ModelUnusable("a file of the weights is missing.", where=str(file)) from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"the weights are truncated or broken ({error}).", where=str(file)) from error


def _entry(file: Path, value: Mapping[str, Any], start: int, available: int) -> _Entry:
    dtype, shape = DTYPES[value["dtype"]], tuple(map(int, value["shape"]))
    begin, end = map(int, value["data_offsets"])
    if not 0 <= begin <= end <= available or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor lies outside the file")
    return _Entry(file, dtype, shape, start + begin)
