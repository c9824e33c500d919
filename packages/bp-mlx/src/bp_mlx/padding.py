"""Examples that lie end to end, as rows of a grid: each sees only itself, whatever kind of layers the model has.

Padding stands at the end of a row, after every token that counts, and no layer looks ahead. Rows of like length share a
grid, so that little is padded; attention costs the sum of the squares of the lengths, not the square of their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bp_core.examples import Batch

_SHORTEST = 0.75  # of the longest in its grid, in tokens


@dataclass(frozen=True)
class Grid:
    """`tokens` [rows, longest]; for each target the place before it (row, column), its token, and its example."""

    tokens: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    targets: np.ndarray
    owners: np.ndarray


def grids(batch: Batch) -> Iterator[Grid]:
    """A batch in as few grids as little padding allows, longest rows first; those without a target are left out."""
    lengths = np.asarray(batch.lengths)
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = lengths[order[begin]]
        end = begin + int(np.sum(lengths[order[begin:]] >= _SHORTEST * longest))
        grid = _grid(batch, order[begin:end], int(longest))
        if len(grid.targets):
            yield grid
        begin = end


def _grid(batch: Batch, examples: np.ndarray, width: int) -> Grid:
    starts = np.cumsum(batch.lengths) - batch.lengths
    tokens = np.zeros((len(examples), width), np.int32)
    trained = np.zeros_like(tokens, dtype=np.bool_)
    for row, example in enumerate(examples):
        length, start = batch.lengths[example], starts[example]
        tokens[row, :length] = batch.tokens[start : start + length]
        trained[row, :length] = batch.trained[start : start + length]
    rows, columns = np.nonzero(trained)
    return Grid(tokens, rows, columns - 1, tokens[rows, columns], examples[rows])
