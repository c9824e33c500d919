"""What a training step keeps where the PyTorch rail computes layers in groups and losses in chunks.

Bytes, tensor by tensor, of what bp_cuda's fused layers save for the backward pass. benchmarks/memory_grid.py holds
their sum against traces. `width`: bytes of a number.
"""

from __future__ import annotations

from bp_core.step_sizes import LEAST_FLOAT32_ROWS, SHORT_SEGMENT, chunk_sizes

from .architecture import Architecture


def layer(model: Architecture, width: int, adapters: int) -> int:
    """Bytes a token that one layer keeps, attention aside.

    Its two residual inputs, queries, keys and values (with norms on heads also as they were before), what attention
    gave, both halves of the gate, and the `adapters` numbers of its adapters: narrow products, and what DoRA scales.
    """
    into = model.queries + 2 * model.keys
    into *= 2 if model.normed_heads else 1
    return width * (2 * model.hidden + into + model.queries + 2 * model.inner + adapters)


def attention_on_host(model: Architecture, width: int, tokens: int, longest: int, weights: int) -> int:
    """Bytes that one layer's attention keeps on the processor: `weights` numbers a head of short segments, and of long
    ones in float32 what torch's kernel does.
    """
    kept = width * model.heads * weights
    if longest <= SHORT_SEGMENT or width == 2:
        return kept
    joined = width * model.queries if longest < tokens else 0
    return kept + tokens * (joined + 4 * model.heads)


def attention_on_card(model: Architecture, width: int, tokens: int, longest: int) -> int:
    """Bytes that one layer's attention keeps on a card: a float32 a head, and of several examples each result."""
    joined = width * model.queries if longest < tokens else 0
    return tokens * (joined + 4 * model.heads)


def losses(model: Architecture, width: int, tokens: int, targets: int, device: str) -> int:
    """Bytes while losses are computed: the last norm, a chunk of logits, part of it in float32 twice, gradients."""
    rows, part = chunk_sizes(model.vocabulary, width, device)
    logits = min(rows, max(targets, LEAST_FLOAT32_ROWS if width == 4 else 0)) * model.vocabulary
    in_float32 = min(part, targets) * model.vocabulary * 4
    norm = tokens * model.hidden * (4 + 2 * width if width == 2 else 12)
    return width * logits + 2 * in_float32 + 2 * width * targets * model.hidden + norm


def gradients(model: Architecture, width: int, tokens: int, unpacked: int) -> int:
    """Bytes beside what is kept while a layer's gradients are computed: those of its MLP are the widest.

    Either all of the gated activation's, [tokens, inner] six times, or, half of them, beside the one weight that is
    unpacked at that moment, of `unpacked` numbers. The gradient that comes in is there throughout.
    """
    product = width * (tokens * (3 * model.inner + model.hidden) + unpacked)
    activation = width * tokens * (6 * model.inner + model.hidden)
    return max(product, activation)
