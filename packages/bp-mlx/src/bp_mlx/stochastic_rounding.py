"""float32 to bfloat16, rounded up or down by chance.

A bfloat16 has 8 bits: an update of less than 1/512 of a weight, which most are, would round to nothing every time.
Rounded at random, in proportion to the distance, it arrives on average (stochastic rounding, arXiv:2010.06192).
"""

from __future__ import annotations

import mlx.core as mx

_LOW = 1 << 16  # the bits of a float32 that a bfloat16 lacks


def round_by_chance(value: mx.array) -> mx.array:
    """`value` (float32) as bfloat16."""
    noise = mx.random.randint(0, _LOW, value.shape, dtype=mx.uint32)
    bits = (value.view(mx.uint32) + noise) & mx.array(0xFFFF0000, dtype=mx.uint32)
    return bits.view(mx.float32).astype(mx.bfloat16)
