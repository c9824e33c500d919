"""The one place that reads MLX's messages and turns them into our errors."""

from __future__ import annotations

from functools import partial

from bp_core import out_of_memory

# MLX raises a plain RuntimeError for these: messages of its allocators, and Metal's for a command that did not fit.
_MEMORY_WORDS = (
    "[malloc",
    "[metal::malloc]",
    "Unable to allocate",
    "Attempting to allocate",
    "Insufficient Memory",
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception from MLX means that memory ran out."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _MEMORY_WORDS)


translated = partial(out_of_memory.translated, is_out_of_memory)
