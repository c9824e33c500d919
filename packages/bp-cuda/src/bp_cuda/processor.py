"""What the processor under the CPU rail computes with, as torch uses it: not all that it may be able to."""

from __future__ import annotations

import time

import torch
from torch.nn.functional import linear

_TOKENS, _WIDTH = 64, 512  # of the product that is timed
_ROUNDS = 3


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 are computed by instructions made for them.

    The processor must have them, and oneDNN must be willing: ONEDNN_MAX_CPU_ISA may keep it from them, and without it
    torch multiplies number by number.
    """
    found = torch.cpu.get_capabilities()
    has_instructions = bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return has_instructions and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def slowdown(dtype: torch.dtype) -> float:
    """How many times longer a layer takes in `dtype` than in float32, forward and backward. About a tenth of a second.

    On one core: where others work on the machine too, cores that wait for each other would be measured instead.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # In turns, so that other work on the processor meets both; the shortest, since it only makes rounds longer.
        rounds = [(_seconds(dtype), _seconds(torch.float32)) for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return min(measured for measured, _ in rounds) / min(of_float32 for _, of_float32 in rounds)


def _seconds(dtype: torch.dtype) -> float:
    """The time of one layer, forward and backward."""
    inputs = torch.ones(_TOKENS, _WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    began = time.perf_counter()
    linear(inputs, weight).square().sum().backward()  # a given gradient would make torch load sympy
    return time.perf_counter() - began
