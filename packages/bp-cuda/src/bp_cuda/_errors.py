"""The one place that reads torch's messages and turns them into our errors."""

from __future__ import annotations

import re
from functools import partial

import torch

from bp_core import out_of_memory

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception from torch means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(word in str(error) for word in _MEMORY_WORDS) or _ONEDNN.search(str(error)) is not None


translated = partial(out_of_memory.translated, is_out_of_memory)
