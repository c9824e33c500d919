"""Packing float32 rows into ggml's number formats, by ggml's own C function (PyPI's libggml-python)."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape

from bp_core.errors import LlamaCppFailed, LlamaCppMissing

_LIBRARIES = ("lib64/libggml-base.so", "lib/libggml-base.so", "lib/libggml-base.dylib", "bin/ggml-base.dll")


def require_ggml() -> None:
    """Raise LlamaCppMissing unless ggml's library is installed."""
    _library_file()


def pack(values: np.ndarray, type_: GGMLQuantizationType, importance: np.ndarray | None = None) -> np.ndarray:
    """float32 [rows, columns] as uint8 [rows, bytes per row]. Releases the GIL, so threads can share the work.

    `importance` is float32 [columns]: how much an error in each column matters; None for all alike. Values must be
    finite: on others ggml ends the process. Raises LlamaCppMissing, LlamaCppFailed.
    """
    library = _library()
    values = np.ascontiguousarray(values, np.float32)
    rows, columns = values.shape
    packed = np.empty(quant_shape_to_byte_shape((rows, columns), type_), np.uint8)
    weights = None
    if importance is not None:
        weights = np.ascontiguousarray(importance, np.float32)
        assert weights.shape == (columns,), f"{weights.shape} weights for {columns} columns"
    written = library.ggml_quantize_chunk(
        int(type_), _pointer(values), _pointer(packed), 0, rows, columns, _pointer(weights)
    )
    if written != packed.nbytes or not library.ggml_validate_row_data(int(type_), _pointer(packed), packed.nbytes):
        raise LlamaCppFailed(f"ggml could not write {rows} × {columns} values as {type_.name}.")
    return packed


def _pointer(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


@functools.lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library_file()))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    return library


def _library_file() -> Path:
    spec = importlib.util.find_spec("libggml")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _LIBRARIES:
            file = Path(folder, name)
            if file.is_file():
                return file
    raise LlamaCppMissing("the package libggml-python is not installed.")
