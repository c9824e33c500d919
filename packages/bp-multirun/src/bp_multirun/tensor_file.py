"""Safetensors of 16- and 32-bit floats: read as views of a memory map, written one tensor at a time.

Layout: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class TensorFileBroken(Exception):
    """A file is not a valid safetensors file of floats; callers add its path."""


@dataclass(frozen=True)
class TensorFile:
    """By name: tensors as float32, and the types in which they are stored; and the file's metadata."""

    arrays: Mapping[str, np.ndarray]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]


def read(path: Path) -> TensorFile:
    """Read a file; float32 tensors are read-only views into it, 16-bit ones are converted. Raises TensorFileBroken."""
    try:
        header, start = _header(path)
        metadata = header.pop("__metadata__", {})
        places = dict(_places(header, path.stat().st_size - start))
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TensorFileBroken(f"the weights are truncated or broken ({error})") from error
    whole = np.memmap(path, np.uint8, "r")
    arrays = {name: _array(whole, start + begin, dtype, shape) for name, (dtype, shape, begin) in places.items()}
    return TensorFile(arrays, {name: place[0] for name, place in places.items()}, metadata)


def write(path: Path, arrays: Mapping[str, np.ndarray], dtype: str, metadata: Mapping[str, str]) -> None:
    """Write all tensors as one dtype, sorted by name: equal tensors give equal bytes. Raises OverflowError."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end, names = 0, sorted(arrays)
    for name in names:
        begin, end = end, end + arrays[name].size * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(narrowed(arrays[name], dtype).reshape(-1).view(np.uint8).data)


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 converted to `dtype`, rounded to nearest, ties to even; bfloat16 as its bits, uint16."""
    array = np.ascontiguousarray(array, "<f4")
    if dtype == "F32":
        return array
    with np.errstate(over="ignore"):
        stored = _bfloat16(array) if dtype == "BF16" else array.astype("<f2")
    if np.isinf(_widened(stored, dtype)).sum() > np.isinf(array).sum():
        raise OverflowError(f"a value is too large for {dtype}")
    return stored


def _bfloat16(array: np.ndarray) -> np.ndarray:
    bits = array.view("<u4")
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded).astype("<u2")


def _widened(stored: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (stored.astype("<u4") << 16).view(np.float32)
    return stored.astype(np.float32)


def _array(whole: np.ndarray, start: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    part = whole[start : start + math.prod(shape) * SIZES[dtype]]
    stored: np.ndarray = np.asarray(part).view(_STORED[dtype]).reshape(shape)
    return stored if dtype == "F32" else _widened(stored, dtype)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size - 8:
            raise ValueError("the header is longer than the file")
        header: dict[str, Any] = json.loads(file.read(length), object_pairs_hook=_once)
        return header, 8 + length


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _places(header: Mapping[str, Any], available: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int]]]:
    end = 0
    for name, value in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = value["dtype"], tuple(map(int, value["shape"]))
        if dtype not in SIZES:
            raise ValueError(f"{name} holds {dtype}; only F32, F16 and BF16 are read")
        begin, expected = end, end + math.prod(shape) * SIZES[dtype]
        if [begin, expected] != value["data_offsets"] or min(shape, default=1) < 0:
            raise ValueError(f"{name} does not lie where it should")
        end = expected
        yield name, (dtype, shape, begin)
    if end != available:
        raise ValueError(f"there are {available} bytes of weights, not {end}")
