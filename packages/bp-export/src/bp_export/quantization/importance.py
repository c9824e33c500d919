"""The importance matrix: how much an error in each column of a weight matters, by what the trained model puts there.

It is the mean square of a layer's input in each column, over rows of the training data; written in llama.cpp's format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from bp_core.adapter_keys import text_name

from ..gguf.convert import Converter, PlannedTensor

FEWEST_TOKENS = 256  # of fewer the mean says more about the rows than about the model
_SUMS, _COUNTS = ".in_sum2", ".counts"
_REORDERED = ".linear_attn.out_proj"  # the one layer whose columns llama.cpp has in another order
_HEAD = "output.weight"  # llama.cpp quantises the last matrix without


@dataclass(frozen=True)
class ImportanceMatrix:
    """Mean squares of inputs by the tensor's name in GGUF, float32 [columns]; `tokens` that they are a mean over."""

    columns: Mapping[str, np.ndarray]
    tokens: int


def importance_matrix(converter: Converter, sums: Mapping[str, Any], tokens: int) -> ImportanceMatrix:
    """From what `Rail.input_squares` gives: summed squares by the layer's name in the base, over so many tokens."""
    plain = {text_name(name): np.asarray(values, np.float64) for name, values in sums.items()}
    columns = {}
    for planned in converter.plan:
        layer = text_name(planned.source).removesuffix(".weight")
        if layer in plain and planned.name != _HEAD:
            columns[planned.name] = _arranged(planned, plain[layer] / tokens, converter)
    return ImportanceMatrix(columns, tokens)


def write_importance(path: Path, matrix: ImportanceMatrix, architecture: str, rows: Sequence[Sequence[int]]) -> None:
    """Write a matrix as llama-imatrix does, a row of the data being a chunk."""
    writer = GGUFWriter(path, architecture)
    try:
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["training rows"])
        writer.add_uint32("imatrix.chunk_count", len(rows))
        writer.add_uint32("imatrix.chunk_size", max(len(row) for row in rows))
        for name, values in matrix.columns.items():
            writer.add_tensor(f"{name}{_SUMS}", (values.astype(np.float64) * matrix.tokens).astype(np.float32)[None])
            writer.add_tensor(f"{name}{_COUNTS}", np.array([[matrix.tokens]], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _arranged(planned: PlannedTensor, values: np.ndarray, converter: Converter) -> np.ndarray:
    """The columns [columns] in llama.cpp's order, float32."""
    name = text_name(planned.source)
    if f"{_REORDERED}." in name:
        values = converter.family.arrange(name, values[None], converter.config)[0]
    return np.ascontiguousarray(values, np.float32)
