"""Which of torch's errors mean that memory ran out."""

import pytest

from bp_core.errors import OutOfMemory
from bp_cuda._errors import translated


@pytest.mark.parametrize(
    "message",
    [
        "could not create a primitive",
        "could not execute a primitive",
        "could not create a memory object",
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: 9 bytes were wanted",
        "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`",
    ],
)
def test_memory_that_ran_out_is_called_so(message):
    with pytest.raises(OutOfMemory), translated():
        raise RuntimeError(message)


@pytest.mark.parametrize(
    "message",
    ["could not create a primitive descriptor for a matmul primitive", "mat1 and mat2 shapes cannot be multiplied"],
)
def test_other_errors_stay_what_they_are(message):
    with pytest.raises(RuntimeError, match=message), translated():
        raise RuntimeError(message)
