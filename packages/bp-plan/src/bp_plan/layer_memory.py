"""Bytes that layers keep for the backward pass, and what computing their gradients takes beside them."""

from __future__ import annotations

from collections.abc import Sequence

from bp_core.choices import QUANTIZED
from bp_core.step_sizes import SHORT_SEGMENT

from . import delta_net_memory, fused_memory
from .architecture import Architecture, DeltaNet, Linear, chosen
from .training_step import TrainingStep


def all_layers(step: TrainingStep) -> int:
    """Bytes that all layers keep."""
    model, net = step.model, step.model.delta_net
    if net is None:
        return model.layers * largest_layer(step)
    full, linear = _of_two_kinds(step, net)
    return (model.layers - net.layers) * full + net.layers * linear


def largest_layer(step: TrainingStep) -> int:
    """Bytes that one layer keeps, of two kinds the larger."""
    if step.model.delta_net is not None:
        return max(_of_two_kinds(step, step.model.delta_net))
    if step.fused:
        return _fused_layer(step) + _scores(step)
    each = _saved_full_ft(step) if step.setup.mode == "full" else _saved(step)
    return step.batch.tokens * each + _scores(step) + _attention_in_blocks(step)


def kept_despite_checkpointing(step: TrainingStep) -> int:
    """Bytes a token of 8-bit linears' inputs, which bitsandbytes keeps in spite of activation checkpointing."""
    if step.fused or step.setup.mode != "lora-8bit":
        return 0
    return step.width * (2 * step.model.hidden + step.model.queries + step.model.inner)


def fused_gradients(step: TrainingStep) -> int:
    """Bytes beside what is kept while the gradients of a fused layer are computed."""
    largest = max(linear.inputs * linear.outputs for linear in step.model.linears)
    unpacked = largest if step.setup.mode in QUANTIZED else 0
    return max(fused_memory.gradients(step.model, step.width, step.batch.tokens, unpacked), score_gradients(step))


def layer_gradients(step: TrainingStep) -> int:
    """The same where each linear computes by itself."""
    each = transient(step.model, step.width)
    if step.model.delta_net is not None:
        each = delta_net_memory.gradients(step.model, step.model.delta_net)
    inside = max(step.batch.tokens * each, score_gradients(step))
    return inside + _dequantized(step) + _dora_norms(step)


def score_gradients(step: TrainingStep) -> int:
    """Extra memory for the gradients of attention scores: 12 bytes per score, with those kept."""
    weights = step.batch.tokens * step.model.heads * step.batch.longest
    return (12 - step.score_bytes) * weights if step.keeps_scores else 0


def transient(model: Architecture, width: int) -> int:
    """Bytes per token while a layer's gradients are computed; the MLP's are the largest."""
    return 6 * model.inner + 14 * model.hidden if width == 2 else 8 * model.inner + 12 * model.hidden


def _of_two_kinds(step: TrainingStep, net: DeltaNet) -> tuple[int, int]:
    """Bytes that a layer of full attention keeps, and one of linear attention."""
    model, setup, tokens = step.model, step.setup, step.batch.tokens
    if setup.mode == "full":
        full, linear = delta_net_memory.full_layer_trained(model), delta_net_memory.linear_layer_trained(model, net)
        return tokens * full, tokens * linear
    full = delta_net_memory.full_layer(model, step.adapted, setup.rank)
    adapted = chosen(model.delta_net_linears, setup.targets)
    linear = delta_net_memory.linear_layer(model, net, adapted, setup.rank)
    full += _kept_by_8_bit(step, model.linears, step.adapted)
    linear += _kept_by_8_bit(step, model.delta_net_linears, adapted)
    return tokens * full, tokens * linear


def _fused_layer(step: TrainingStep) -> int:
    """Bytes that one fused layer keeps, but for scores that are counted apart."""
    model, width, batch = step.model, step.width, step.batch
    layer = batch.tokens * fused_memory.layer(model, width, step.narrow + step.scaled)
    if step.keeps_scores:
        return layer
    if step.setup.device == "cuda":
        return layer + fused_memory.attention_on_card(model, width, batch.tokens, batch.longest)
    return layer + fused_memory.attention_on_host(model, width, batch.tokens, batch.longest, batch.weights)


def _saved(step: TrainingStep) -> int:
    """Bytes per token that one layer keeps for the backward pass."""
    plain = _saved_bfloat16(step) if step.width == 2 else _saved_float32(step)
    lengths = 2 * step.width * step.scaled  # DoRA scales the outputs of base and adapter separately
    return plain + _kept_by_8_bit(step, step.model.linears, step.adapted) + lengths


def _saved_bfloat16(step: TrainingStep) -> int:
    """bfloat16 base, float32 adapter, autocast: each adapted linear keeps its own bfloat16 copy of its input."""
    model, on_host = step.model, step.setup.device == "cpu"
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    inputs = sum(linear.inputs for linear in step.adapted)
    norms = 8 * h + 8  # both inputs, in float32
    attention = (8 * q + 8 * k if on_host else 4 * q + 4 * k) + 4 * model.heads  # queries, keys, values, result
    attention += 4 * q + 4 * k if model.normed_heads else 0
    attention += 2 * q + 2 * k if model.fused and not on_host else 0  # the values are a view of the whole product
    gate = 6 * f  # both halves, and the activation
    return norms + attention + gate + 2 * inputs + 2 * step.narrow + _dropout_masks(step)


def _saved_float32(step: TrainingStep) -> int:
    """All in float32: linears with the same input share it."""
    model = step.model
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    norms = 8 * h + 8
    attention = 8 * q + 8 * k + 4 * model.heads
    attention += 4 * q + 4 * k if model.normed_heads or model.fused else 0
    inputs = {linear.source: linear.inputs for linear in step.adapted}
    if step.setup.dropout:  # it gives each linear an input of its own
        inputs = {linear.name: linear.inputs for linear in step.adapted}
    return norms + attention + 12 * f + 4 * sum(inputs.values()) + 4 * step.narrow + _dropout_masks(step)


def _saved_full_ft(step: TrainingStep) -> int:
    """Bytes per token that one layer keeps in full fine-tuning: the outputs of its norms too."""
    model, on_card = step.model, step.setup.device == "cuda"
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    if step.setup.autocasts:
        attention = 4 * q + 4 * k + (8 * q + 8 * k if model.normed_heads or model.fused else 0)
        return 26 * h + 8 + attention + 4 * model.heads + 8 * f
    if step.width == 4:
        attention = 8 * q + 8 * k + (8 * q + 8 * k if model.normed_heads or model.fused else 0)
        return 24 * h + 8 + attention + 4 * model.heads + 16 * f
    attention = 4 * q + 4 * k if on_card else 8 * q + 8 * k + 2 * q
    attention += 6 * q + 6 * k if model.normed_heads else 0
    attention += 2 * q + 2 * k if model.fused and on_card else 0
    return 16 * h + 8 + attention + 4 * model.heads + 8 * f


def _kept_by_8_bit(step: TrainingStep, linears: Sequence[Linear], adapted: Sequence[Linear]) -> int:
    """Inputs that bitsandbytes' 8-bit linears keep, bytes a token; float32 adapters with the same input share them."""
    if step.setup.mode != "lora-8bit":
        return 0
    shared = {linear.source for linear in adapted} if step.width == 4 else set()
    return step.width * sum({x.source: x.inputs for x in linears if x.source not in shared}.values())


def _dropout_masks(step: TrainingStep) -> int:
    """Masks of LoRA dropout: 1 byte per element on a card, 4 bytes on CPU."""
    if not step.setup.dropout:
        return 0
    each = 1 if step.setup.device == "cuda" else 4
    return each * sum(linear.inputs for linear in step.adapted)


def _dequantized(step: TrainingStep) -> int:
    """The largest quantised weight, dequantised; in float32 and with its input where 8-bit linears multiply alone."""
    linears, mode = step.model.linears, step.setup.mode
    largest = max(linear.inputs * linear.outputs for linear in linears)
    if mode == "lora-8bit":
        return 4 * largest + 4 * step.batch.tokens * max(linear.outputs for linear in linears)
    return step.width * largest if mode in QUANTIZED else 0


def _dora_norms(step: TrainingStep) -> int:
    """Extra memory for DoRA's row norms: base + adapter in float32, and the products it is made of."""
    if not step.setup.dora:
        return 0
    return 20 * max((linear.inputs * linear.outputs for linear in step.adapted), default=0)


def _scores(step: TrainingStep) -> int:
    """Attention scores of one layer, where they are kept, with keys and values repeated for each query head."""
    if not step.keeps_scores:
        return 0
    longest = step.batch.longest
    masks = longest if step.setup.attention == "eager" else 0
    each = step.score_bytes * step.model.heads * longest + masks + 2 * step.width * step.model.queries
    return step.batch.tokens * each


def _attention_in_blocks(step: TrainingStep) -> int:
    """What attention in blocks keeps on the processor beyond torch's kernel: weights of short segments, in the format
    of the products, but neither the result nor float32 copies of it and of queries, keys and values."""
    model, batch = step.model, step.batch
    width = 2 if step.setup.autocasts else step.width
    if step.setup.device == "cuda" or step.keeps_scores or (width == 4 and batch.longest > SHORT_SEGMENT):
        return 0
    copies = 6 * model.queries + 4 * model.keys if step.width == 2 else width * model.queries
    return width * model.heads * batch.weights - batch.tokens * copies
