"""Safetensors of 16- and 32-bit floats: read as views of a memory map, written one tensor at a time.

Layout: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.tensor_file import SIZES, StoredTensor, TensorFileBroken, header_bytes, read_header

_STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class TensorFile:
    """By name: tensors as float32, and the types in which they are stored; and the file's metadata."""

    arrays: Mapping[str, np.ndarray]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]


def read(path: Path) -> TensorFile:
    """float32 tensors are read-only views into the file, 16-bit ones are widened. Raises TensorFileBroken."""
    header = read_header(path)
    for name, tensor in header.tensors.items():
        if tensor.dtype not in _STORED:
            raise TensorFileBroken(f"{name} holds {tensor.dtype}; only F32, F16 and BF16 are read")
    whole = np.memmap(path, np.uint8, "r")
    arrays = {name: _array(whole, tensor) for name, tensor in header.tensors.items()}
    return TensorFile(arrays, {name: tensor.dtype for name, tensor in header.tensors.items()}, header.metadata)


def write(path: Path, arrays: Mapping[str, np.ndarray], dtype: str, metadata: Mapping[str, str]) -> None:
    """All tensors as one dtype, sorted by name: the same tensors give the same bytes. Raises OverflowError."""
    names = sorted(arrays)
    with path.open("wb") as file:
        file.write(header_bytes(((name, dtype, arrays[name].shape) for name in names), metadata))
        for name in names:
            file.write(narrowed(arrays[name], dtype).reshape(-1).view(np.uint8).data)


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of any shape converted to `dtype`, rounded to nearest, ties to even; bfloat16 as its bits, uint16."""
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


def _array(whole: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    bytes_ = whole[tensor.offset :][: math.prod(tensor.shape) * SIZES[tensor.dtype]]
    stored: np.ndarray = np.asarray(bytes_).view(_STORED[tensor.dtype]).reshape(tensor.shape)
    return stored if tensor.dtype == "F32" else _widened(stored, tensor.dtype)
