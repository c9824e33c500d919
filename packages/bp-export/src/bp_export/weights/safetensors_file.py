"""Safetensors files, memory-mapped: read one tensor without loading the rest, write one tensor at a time.

Layout: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from bp_core.errors import ModelUnusable
from bp_core.model_files import python_command
from bp_core.tensor_file import Header, StoredTensor, TensorFileBroken, header_bytes, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_AT_ONCE = 4096  # rows that are looked at together
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_CONVERT = (
    "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; source, target = sys.argv[1:]; "
    'AutoModelForCausalLM.from_pretrained(source, dtype="auto").save_pretrained(target); '
    "AutoTokenizer.from_pretrained(source).save_pretrained(target)"
)
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
    """Named tensors that are read one at a time, such as a base model, or one with an adapter merged in."""

    def names(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> np.dtype[Any]: ...
    def array(self, name: str) -> np.ndarray: ...


class Weights:
    """The tensors of one safetensors file, or of a model folder (one file, or shards with an index)."""

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, StoredTensor] = {}
        self._files: dict[str, Path] = {}
        for file in _files(path) if path.is_dir() else [path]:
            for name, tensor in _header(file).tensors.items():
                if name in self._files:
                    raise ModelUnusable(f"the tensor {name} is in two files.", where=str(path))
                self._tensors[name] = tensor
                self._files[name] = file

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return DTYPES[self._tensors[name].dtype]

    def array(self, name: str) -> np.ndarray:
        """A read-only view into the file."""
        shape, dtype = self.shape(name), self.dtype(name)
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        return np.memmap(self._files[name], dtype, "r", self._tensors[name].offset, shape)


def write(path: Path, source: Source, names: Iterable[str]) -> Iterator[str]:
    """Write the named tensors of `source` to a safetensors file. Yields each name after it is written."""
    names = list(names)
    tensors = [(name, _NAMES[source.dtype(name)], source.shape(name)) for name in names]
    with path.open("wb") as file:
        file.write(header_bytes(tensors, {"format": "pt"}))
        for name in names:
            values = source.array(name)
            require_finite(name, values)
            array = np.ascontiguousarray(values, source.dtype(name))
            file.write(array.reshape(-1).view(np.uint8).data)
            yield name


def require_finite(name: str, values: np.ndarray) -> None:
    """Raise ModelUnusable for a weight with NaN or infinity in it, which no file of the model can be right with."""
    if values.dtype.kind in "iub":
        return
    for start in range(0, len(values), _AT_ONCE) if values.ndim else ():
        if not np.isfinite(values[start : start + _AT_ONCE].astype(np.float32)).all():
            fix = "Use weights without them: fetch the base again, or take another checkpoint."
            raise ModelUnusable(f"{name} has values that are not finite (NaN or infinity).", fix=fix)


def size(source: Source, name: str) -> int:
    """Bytes of one tensor in a safetensors file."""
    return math.prod(source.shape(name)) * source.dtype(name).itemsize


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise ModelUnusable(f"there is no {SINGLE} and no {INDEX}.", where=str(folder), fix=_converting(folder))
    try:
        places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable("the index of the weights cannot be read.", where=str(index)) from error
    if any(Path(name).name != name for name in names):
        raise ModelUnusable("the index of the weights points outside its folder.", where=str(index))
    return [folder / name for name in names]


def _converting(folder: Path) -> str | None:
    """The command that writes PyTorch's pickled weights as safetensors, in a folder of its own; None without any.

    A repository of the hub whose pickled weights were not fetched is read by its name.
    """
    source, target = str(folder), folder.with_name(f"{folder.name}-safetensors")
    if folder.parent.name == "snapshots":
        source = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        target = Path(f"{source.rpartition('/')[2]}-safetensors").absolute()
    elif not any((folder / name).is_file() for name in _PICKLED):
        return None
    return f"Convert pytorch_model.bin, then use {target}: {python_command(_CONVERT, source, target)}"


def _header(file: Path) -> Header:
    try:
        return read_header(file)
    except TensorFileBroken as error:
        raise ModelUnusable(f"{error}.", where=str(file), fix=error.fix) from error
