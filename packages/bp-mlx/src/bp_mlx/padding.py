"""A batch as padded grids, one example a row, so that no layer of any kind mixes examples.

Padding is at the end of rows, and no layer looks ahead, so it changes nothing. Rows of similar length share a grid to
keep padding small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bp_core.examples import Batch

_SHORTEST = 0.75  # shortest row of a grid, as a share of its longest


@dataclass(frozen=True)
class Grid:
    """`tokens` int32 [rows, longest]. The others are [targets], one entry for each trained token: row and column of the
    position that predicts it, the token itself, and its example's number in the batch."""

    tokens: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    targets: np.ndarray
    owners: np.ndarray


def grids(batch: Batch) -> Iterator[Grid]:
    """Cut a batch of tokens [total] into grids, longest rows first; grids without a trained token are left out."""
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
