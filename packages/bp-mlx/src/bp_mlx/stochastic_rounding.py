"""float32 to bfloat16 with stochastic rounding (arXiv:2010.06192).

A bfloat16 has 8 significant bits: an update below 1/512 of a weight, as most are, would always be rounded away. Rounded
up or down at random, in proportion to the distance, updates are right on average.
"""

from __future__ import annotations

import mlx.core as mx

_LOW = 1 << 16  # the lower 16 bits of a float32, which bfloat16 lacks


def round_stochastically(value: mx.array) -> mx.array:
    """`value`, float32 of any shape, as bfloat16, rounded up or down at random."""
    noise = mx.random.randint(0, _LOW, value.shape, dtype=mx.uint32)
    bits = (value.view(mx.uint32) + noise) & mx.array(0xFFFF0000, dtype=mx.uint32)
    return bits.view(mx.float32).astype(mx.bfloat16)
