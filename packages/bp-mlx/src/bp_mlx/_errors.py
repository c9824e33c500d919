"""The one place that reads MLX's messages and turns them into our errors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from bp_core.errors import OutOfMemory

# MLX raises a plain RuntimeError for these: messages of its allocators, and Metal's for a command that did not fit.
_MEMORY_WORDS = (
    "[malloc",
    "[metal::malloc]",
    "Unable to allocate",
    "Attempting to allocate",
    "Insufficient Memory",
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise OutOfMemory for every way in which MLX runs out of memory, and free the arrays of the failed call."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(str(error).split("\n")[0] or "the machine's memory is exhausted.") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception from MLX means that memory ran out."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _MEMORY_WORDS)
