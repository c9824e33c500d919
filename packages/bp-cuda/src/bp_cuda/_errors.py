"""The one place that reads torch's messages and turns them into our errors."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bp_core.errors import OutOfMemory

# torch raises a plain RuntimeError for these; the words are stable since torch 1.x.
_MEMORY_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# oneDNN, which computes products on processors, says so where its work space does not fit. Its "primitive descriptor"
# is another matter: a product that it does not have.
_ONEDNN = re.compile(r"could not (create|execute) a (primitive|memory)(?! descriptor)")


@contextmanager
def translated() -> Iterator[None]:
    """Raise OutOfMemory for every way in which memory runs out, and free the tensors of the failed call."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the failed call hold its activations; a replay needs that memory.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(str(error).split("\n")[0] or "the host's memory is exhausted.") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception from torch means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(word in str(error) for word in _MEMORY_WORDS) or _ONEDNN.search(str(error)) is not None
