"""Memory that runs out: how a rail tells it, and a way to need less of it that is the same in all rails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from .errors import OutOfMemory
from .examples import Batch

RECOMPUTE = "activation checkpointing"
PIECES = "a quarter of the trained tokens at a time"


@contextmanager
def translated(is_out_of_memory: Callable[[BaseException], bool]) -> Iterator[None]:
    """Raise OutOfMemory for each of a framework's errors that mean it, and free the arrays of the failed call."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the failed call hold its activations; a replay needs that memory.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(str(error).split("\n")[0] or "the host's memory is exhausted.") from None


def pieces(batch: Batch, ways: Collection[str]) -> Iterator[Batch]:
    """The batch, or with PIECES four: all its tokens [total], and a quarter of the trained ones; fewer logits each."""
    if PIECES not in ways:
        yield batch
        return
    positions = batch.trained.nonzero()[0]
    borders = [len(positions) * quarter // 4 for quarter in range(5)]
    for begin, end in pairwise(borders):
        if begin < end:
            trained = batch.trained.copy()
            trained[: positions[begin]] = False
            trained[positions[end - 1] + 1 :] = False
            yield replace(batch, trained=trained)
