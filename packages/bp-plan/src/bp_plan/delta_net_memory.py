"""What a layer of gated delta-net attention keeps for the backward pass (arXiv:2412.06464), as transformers computes it
where flash-linear-attention is not installed: by PyTorch, in chunks of 64 tokens.

Bytes a token, tensor by tensor, on a card, with bfloat16 products. tests/test_memory.py holds the sum
against traces.
"""

from __future__ import annotations

from .architecture import Architecture, DeltaNet, Linear

_CHUNK = 64  # tokens


def linear_layer(model: Architecture, net: DeltaNet, adapted: tuple[Linear, ...], rank: int) -> int:
    """A layer of linear attention, with its norms and its MLP."""
    return _around(model, adapted, rank) + _delta_rule(net) + 4 * net.convolved


def full_layer(model: Architecture, adapted: tuple[Linear, ...], rank: int) -> int:
    """A layer of full attention, whose result is gated by half of what q_proj gives."""
    return _around(model, adapted, rank) + _gated_attention(model)


def linear_layer_trained(model: Architecture, net: DeltaNet) -> int:
    """A layer of linear attention, all of whose weights are trained."""
    return _around_trained(model) + _delta_rule(net) + 4 * net.convolved + 4 * net.values + 4 * net.value_heads


def full_layer_trained(model: Architecture) -> int:
    """A layer of full attention, all of whose weights are trained: the outputs of the heads' norms are kept, too."""
    return _around_trained(model) + _gated_attention(model) + 6 * model.queries + 4 * model.keys


def _gated_attention(model: Architecture) -> int:
    q, k, heads = model.queries, model.keys, model.heads
    normed = 4 * q + 4 * k + 4 * heads + 4 * k // model.head_dim  # as they were before, in float32, and their lengths
    rotated = 2 * q + 4 * k  # queries, keys and values
    gated = 6 * q + 4 * heads  # what attention gave, the same joined, and the gate
    return normed + rotated + gated


def gradients(model: Architecture, net: DeltaNet) -> int:
    """Beside what is kept, while a layer's gradients are computed: the delta rule's own, or those of its MLP."""
    keys, values = net.value_heads * net.key_dim, net.value_heads * net.value_dim
    rule = 4 * (4 * keys + 2 * values + 2 * _CHUNK * net.value_heads)
    # By then the MLP has let go of its halves and inputs.
    return max(rule - 10 * model.inner, 6 * model.inner + 14 * model.hidden)


def _around(model: Architecture, adapted: tuple[Linear, ...], rank: int) -> int:
    """Norms and MLP of a layer, and of each adapted linear a 16-bit copy of its input and its narrow product."""
    inputs = sum(linear.inputs for linear in adapted)
    return 8 * model.hidden + 8 + 6 * model.inner + 2 * inputs + 2 * rank * len(adapted)


def _around_trained(model: Architecture) -> int:
    """Norms and MLP where all weights are trained: linears with one input share it."""
    return 20 * model.hidden + 8 + 8 * model.inner


def _delta_rule(net: DeltaNet) -> int:
    """Keys are repeated for each value head."""
    heads = net.value_heads
    keys, values = heads * net.key_dim, heads * net.value_dim
    in_float32 = 24 * keys + 20 * values  # as they came, normed, padded, times beta; solutions of the triangular system
    in_bfloat16 = 14 * keys + 6 * values  # what the products of chunks take
    within = 14 * _CHUNK * heads  # decays and products of the tokens of a chunk with each other
    states = 8 * heads * net.key_dim * net.value_dim // _CHUNK  # one a chunk, and its copies for two products
    return in_float32 + in_bfloat16 + within + states + 34 * heads
