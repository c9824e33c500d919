"""How a rail cuts what a training step computes: known to the rail, which does it, and to the memory estimate."""

from __future__ import annotations

# Tokens whose queries are taken at once where attention is computed in blocks, on a processor.
QUERY_BLOCK = 128
# Tokens: the longest segment whose attention weights are kept there, and in float32 the longest computed in blocks.
SHORT_SEGMENT = 512
# Bytes of logits that exist at once, and of the part of them that is worked on at once, by device.
LOGITS_CHUNK = {"cpu": 32 << 20, "cuda": 256 << 20}
LOGITS_PART = {"cpu": 1 << 20, "cuda": 64 << 20}
_LEAST_ROWS = 16  # of a chunk: fewer make slow products
# Rows of float32 that are multiplied by the vocabulary at least. Up to ten MKL adds up a number's products one by one,
# and rounding was up to 2e-4 of a gradient; more it adds up in blocks, with 4e-6.
LEAST_FLOAT32_ROWS = 16


def kept_weights(length: int) -> int:
    """How many attention weights of a segment of `length` tokens one head keeps on a processor.

    Each block of queries has weights for the keys up to its own end.
    """
    if length > SHORT_SEGMENT:
        return 0
    blocks, rest = divmod(length, QUERY_BLOCK)
    return QUERY_BLOCK**2 * blocks * (blocks + 1) // 2 + rest * length


def chunk_sizes(vocabulary: int, width: int, device: str) -> tuple[int, int]:
    """Of how many tokens logits exist at once, and of how many they are worked on at once.

    `width`: bytes of a number of the products; `device`: cpu or cuda.
    """
    row = vocabulary * width
    return max(_LEAST_ROWS, LOGITS_CHUNK[device] // row), max(1, LOGITS_PART[device] // row)
