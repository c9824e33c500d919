"""Read a GGUF file: all fields at once, tensors on demand. Much faster than gguf.GGUFReader on large vocabularies.

Layout: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from bp_core.errors import FileMissing, GgufUnusable

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_PARTS = "split.count"
_PART_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.I)
_LENGTH = struct.Struct("<Q")
_STRING_TOO_LONG = "a string ends after the end of the file"


@dataclass(frozen=True)
class Tensor:
    """A stored tensor. `shape` is in numpy order (rows first); `offset` and `size` are in bytes of its file."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int
    file: mmap.mmap


class GgufFile:
    """The fields and tensors of a memory-mapped GGUF file. Raises FileMissing, GgufUnusable.

    The first file of a split model (NAME-00001-of-00003.gguf) stands for all: its fields, and the tensors of each.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """`alone`: without the other files of a split model."""
        if not path.is_file():
            raise FileMissing("there is no such file.", where=str(path))
        self.path = path
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.spans: dict[str, tuple[int, int]] = {}  # (start, end) of each field's value in the file, without its type
        self.header = (0, 0)  # where the header ends, and where the tensor data starts
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_header()
        except (struct.error, ValueError, KeyError, OverflowError) as error:
            raise GgufUnusable(f"this is not a complete GGUF file ({error}).", where=str(path)) from error
        self.parts = 1 if alone else int(self.fields.get(_PARTS, 1) or 1)
        if self.parts > 1:
            self._read_parts()

    def _read_parts(self) -> None:
        """Add the tensors of the other files of a split model."""
        match = _PART_NAME.fullmatch(self.path.name)
        if match is None:
            message = f"this is a part of a model in {self.parts} files, under another name."
            fix = f"Give all parts the names that they had: NAME-00001-of-{self.parts:05d}.gguf and so on."
            raise GgufUnusable(message, where=str(self.path), fix=fix)
        places = [self.path.with_name(f"{match[1]}-{n:05d}-of-{match[3]}.gguf") for n in range(1, self.parts + 1)]
        if int(match[2]) != 1:
            fix = f"Name its first file: {shlex.quote(str(places[0]))}"
            raise GgufUnusable(
                f"this is part {int(match[2])} of {self.parts} of a model.", where=str(self.path), fix=fix
            )
        missing = [place.name for place in places if not place.is_file()]
        if missing:
            fix = "Put all its files into one folder."
            raise GgufUnusable(f"parts of the model are missing: {', '.join(missing)}.", where=str(self.path), fix=fix)
        for place in places[1:]:
            self.tensors |= GgufFile(place, alone=True).tensors

    @property
    def alignment(self) -> int:
        """Tensor data starts at a multiple of this many bytes."""
        return int(self.fields.get("general.alignment", 32))

    def bytes(self, start: int = 0, end: int | None = None) -> memoryview:
        """Raw bytes of the file."""
        return memoryview(self._bytes)[start:end]

    def raw(self, name: str) -> np.ndarray:
        """The stored bytes of a tensor, as uint8 rows [..., bytes per row]."""
        tensor = self.tensors[name]
        data = np.frombuffer(tensor.file, np.uint8, tensor.size, tensor.offset)
        return data.reshape(*tensor.shape[:-1], -1)

    def array(self, name: str) -> np.ndarray:
        """A tensor dequantised to float32."""
        tensor = self.tensors[name]
        values: np.ndarray = dequantize(self.raw(name), tensor.type)
        return values.reshape(tensor.shape)

    def rows(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """Rows `numbers` of a matrix [rows, columns], dequantised to float32 [numbers, columns]."""
        tensor = self.tensors[name]
        values: np.ndarray = dequantize(self.raw(name)[numbers], tensor.type)
        return values.reshape(len(numbers), tensor.shape[-1])

    def field(self, name: str) -> Any:
        """A required field. Raises GgufUnusable if it is missing."""
        if name not in self.fields:
            raise GgufUnusable(f"the field {name} is missing.", where=str(self.path))
        return self.fields[name]

    def _read_header(self) -> None:
        if self._bytes[:4] != b"GGUF":
            raise ValueError("it does not start with the letters GGUF")
        version, tensors, fields = struct.unpack_from("<IQQ", self._bytes, 4)
        if version not in (2, 3):
            raise ValueError(f"version {version} is unknown")
        at = 24
        for _ in range(fields):
            key, at = self._string(at)
            (kind,) = struct.unpack_from("<I", self._bytes, at)
            start = at + 4
            self.fields[key], at = self._value(kind, start)
            self.spans[key] = start, at
        self._read_tensors(tensors, at)

    def _read_tensors(self, count: int, at: int) -> None:
        infos: list[tuple[str, GGMLQuantizationType, tuple[int, ...], int]] = []
        for _ in range(count):
            name, at = self._string(at)
            (dimensions,) = struct.unpack_from("<I", self._bytes, at)
            if dimensions > _MAX_DIMENSIONS:
                raise ValueError(f"{name} has {dimensions} dimensions")
            *reversed_shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", self._bytes, at + 4)
            at += 4 + 8 * dimensions + 12
            infos.append((name, GGMLQuantizationType(kind), tuple(reversed_shape[::-1]), offset))
        start = math.ceil(at / self.alignment) * self.alignment
        self.header = at, start
        for name, type_, shape, offset in infos:
            tensor = Tensor(name, type_, shape, start + offset, _size(type_, shape), self._bytes)
            if tensor.offset + tensor.size > len(self._bytes):
                raise ValueError(f"it ends before tensor {name} does")
            self.tensors[name] = tensor

    def _string(self, at: int) -> tuple[str, int]:
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(self._bytes, at)[0]
        if end > len(self._bytes):
            raise ValueError(_STRING_TOO_LONG)
        return self._bytes[start:end].decode(), end

    def _value(self, kind: int, at: int) -> tuple[Any, int]:
        if kind == _STRING:
            return self._string(at)
        if kind == _ARRAY:
            return self._list(at)
        code = f"<{_SCALARS[kind]}"
        return struct.unpack_from(code, self._bytes, at)[0], at + struct.calcsize(code)

    def _list(self, at: int) -> tuple[list[Any], int]:
        kind, count = struct.unpack_from("<IQ", self._bytes, at)
        at += 12
        if kind in _SCALARS:
            code = f"<{count}{_SCALARS[kind]}"
            return list(struct.unpack_from(code, self._bytes, at)), at + struct.calcsize(code)
        if kind == _STRING:
            return self._strings(count, at)
        values = []
        for _ in range(count):
            value, at = self._value(kind, at)
            values.append(value)
        return values, at

    def _strings(self, count: int, at: int) -> tuple[list[Any], int]:
        """The strings of a vocabulary, a hundred thousand and more: in one loop without calls of ours."""
        content, size_of_file, length_at = self._bytes, len(self._bytes), _LENGTH.unpack_from
        values = []
        for _ in range(count):
            start = at + _LENGTH.size
            at = start + length_at(content, at)[0]
            if at > size_of_file:
                raise ValueError(_STRING_TOO_LONG)
            values.append(content[start:at].decode())
        return values, at


def _size(type_: GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    block, size = GGML_QUANT_SIZES[type_]
    if shape and shape[-1] % block:
        raise ValueError(f"a row of {shape[-1]} values is not made of whole {type_.name} blocks")
    return int(math.prod(shape) // block * size)
