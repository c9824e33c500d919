"""Memory of a training step, computed from the model's architecture alone.

Each term is a tensor that PyTorch keeps for one layer. benchmarks/memory_grid.py traces the real step without
computing it, and compares the trace with the sum.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bp_core.choices import ON_HOST, QUANTIZED, STARTS_IN_BASE, Attention, Init, Mode, Optimizer
from bp_core.config import ALL_LINEAR
from bp_core.step_sizes import SHORT_SEGMENT

from . import delta_net_memory, fused_memory
from .architecture import Architecture, DeltaNet, chosen

Device = Literal["cuda", "cpu"]
GIB = 2**30
# A process with torch, transformers and peft before a model is loaded. On a card: the CUDA context and cuBLAS's work
# space; a common value, not measured by us.
_CONTEXT = {"cuda": 0.6 * GIB, "cpu": 1.0 * GIB}
# Fragmentation: free blocks between used ones, in PyTorch's caching allocator or the C library's.
_SLACK = 0.05


@dataclass(frozen=True)
class MemorySetup:
    """The settings that memory depends on. `accumulating`: a step has several micro-batches, so gradients are kept."""

    device: Device
    dtype: str
    rank: int
    dropout: float = 0.0
    targets: str = ALL_LINEAR
    dora: bool = False
    recompute: bool = False
    accumulating: bool = False
    mode: Mode = "lora"
    optimizer: Optimizer = "adamw"
    init: Init = "default"
    attention: Attention = "auto"


@dataclass(frozen=True)
class MicroBatchSize:
    """One micro-batch: all its tokens, its trained tokens, the tokens of its longest example (0: all of them), and the
    sum of the squares of the examples' tokens (0: each as long as the longest)."""

    tokens: int
    targets: int
    longest: int = 0
    squares: int = 0


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of a step. `work` is what is computed at that moment: logits, or gradients of a layer."""

    weights: int
    adapter: int
    optimizer: int
    gradients: int
    activations: int
    work: int
    slack: int
    context: int

    @property
    def tensors(self) -> int:
        """Bytes that PyTorch allocates for tensors."""
        return self.total - self.context - self.slack

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"total": self.total}


def estimate(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> Estimate:
    """Peak memory of a training step: at the logits, at the start of the backward pass, or at its end."""
    return (_full_peak if setup.mode == "full" else _adapter_peak)(model, setup, batch)


def weights(model: Architecture, setup: MemorySetup) -> int:
    """Bytes of the base model. bitsandbytes quantises the linears of the layers, not the head."""
    width = _width(setup)
    linears = [linear.inputs * linear.outputs for linear in model.all_linears]
    rest = width * (model.parameters - sum(linears))
    if setup.mode == "qlora":  # 4 bits each, 1 byte per 64, a float32 per 64 × 256, and a table of 256 values
        return rest + sum(size // 2 + size // 64 + size // 4096 + 1024 for size in linears)
    if setup.mode == "lora-8bit":  # 1 byte each, and a float32 per row
        return rest + sum(linears) + 4 * sum(linear.outputs for linear in model.all_linears)
    return rest + width * sum(linears)


def _adapter_peak(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> Estimate:
    width, fused = _width(setup), is_fused(setup) and model.delta_net is None
    trainable = model.adapter(setup.rank, setup.targets)
    layer = _largest_layer(model, setup, batch)
    kept_by_8_bit = 0 if fused else _kept_despite_checkpointing(model, setup)
    between = model.layers * batch.tokens * (width * model.hidden + kept_by_8_bit)
    kept = between if setup.recompute else _all_layers(model, setup, batch)
    running = trainable * (2 if setup.init in STARTS_IN_BASE and setup.init != "loftq" else 1)
    copies = 2 * running if width == 2 and not fused else 0  # autocast's, of the adapters
    # A layer's input is kept before it is computed again: not a second time.
    computed_again = layer - (batch.tokens * width * model.hidden if fused else 0)
    again = computed_again + copies // model.layers if setup.recompute else 0
    held = kept + (0 if setup.recompute else copies)
    logits = fused_memory.losses(model, width, batch.tokens, batch.targets, setup.device)
    inside = _fused_gradients(model, setup, batch) if fused else _layer_gradients(model, setup, batch)
    gradients = 4 * trainable
    waiting = gradients if setup.accumulating else 0
    moments = [(waiting, held, logits), (waiting, held, again + inside)]
    last = computed_again + copies if setup.recompute else 0  # autocast keeps the copies of the layers before
    moments += [(gradients, held // model.layers, last + inside)]
    peak = max(moments, key=sum)
    return _estimate_at(
        weights(model, setup), _adapter_bytes(trainable, setup), _moment_bytes(trainable, setup), peak, setup
    )


def _all_layers(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """Bytes that all layers keep."""
    if model.delta_net is None:
        return model.layers * _largest_layer(model, setup, batch)
    full, linear = _of_two_kinds(model, model.delta_net, setup, batch)
    return (model.layers - model.delta_net.layers) * full + model.delta_net.layers * linear


def _largest_layer(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """Bytes that one layer keeps, of two kinds the larger."""
    if model.delta_net is not None:
        return max(_of_two_kinds(model, model.delta_net, setup, batch))
    if is_fused(setup):
        return _fused_layer(model, setup, batch) + _scores(model, setup, batch)
    each = _saved_full_ft(model, setup) if setup.mode == "full" else saved(model, setup)
    layer = batch.tokens * each
    return layer + _scores(model, setup, batch) + _short_attention(model, setup, batch)


def _of_two_kinds(model: Architecture, net: DeltaNet, setup: MemorySetup, batch: MicroBatchSize) -> tuple[int, int]:
    """Bytes that a layer of full attention keeps, and one of linear attention."""
    if setup.mode == "full":
        full, linear = delta_net_memory.full_layer_trained(model), delta_net_memory.linear_layer_trained(model, net)
        return batch.tokens * full, batch.tokens * linear
    full = delta_net_memory.full_layer(model, model.adapted(setup.targets), setup.rank)
    adapted = chosen(model.delta_net_linears, setup.targets)
    linear = delta_net_memory.linear_layer(model, net, adapted, setup.rank)
    return batch.tokens * full, batch.tokens * linear


def is_fused(setup: MemorySetup) -> bool:
    """Whether the PyTorch rail computes the layers of a known family in groups: not with dropout, which each linear
    applies by itself, and not DoRA on quantised weights."""
    return setup.mode != "full" and not setup.dropout and not (setup.dora and setup.mode in QUANTIZED)


def _fused_layer(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """Bytes that one fused layer keeps, but for scores that are counted apart."""
    width, adapted = _width(setup), model.adapted(setup.targets)
    layer = batch.tokens * fused_memory.layer(model, width, adapted, setup.rank, dora=setup.dora)
    longest = batch.longest or batch.tokens
    if _keeps_scores(setup):
        return layer
    if setup.device == "cuda":
        return layer + fused_memory.attention_on_card(model, width, batch.tokens, longest)
    squares = batch.squares or longest * batch.tokens
    return layer + fused_memory.attention_on_host(model, width, batch.tokens, longest, squares)


def _fused_gradients(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """Bytes beside what is kept while the gradients of a fused layer are computed."""
    largest = max(linear.inputs * linear.outputs for linear in model.linears)
    unpacked = largest if setup.mode in QUANTIZED else 0
    return max(
        fused_memory.gradients(model, _width(setup), batch.tokens, unpacked), _score_gradients(model, setup, batch)
    )


def _layer_gradients(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """The same where each linear computes by itself."""
    each = _transient(model, _width(setup))
    if model.delta_net is not None:
        each = delta_net_memory.gradients(model, model.delta_net)
    inside = max(batch.tokens * each, _score_gradients(model, setup, batch))
    return inside + _dequantized(model, setup, batch) + _dora_norms(model, setup)


def _full_peak(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> Estimate:
    """Full fine-tuning. The embedding adds its rows' gradients to its table's; a tied table has the head's first."""
    width = _width(setup)
    layer = _largest_layer(model, setup, batch)
    copies = 2 * (model.parameters - model.embedding * (not model.tied)) if _autocasts(setup) else 0  # autocast's
    between = model.layers * batch.tokens * width * model.hidden
    kept = between if setup.recompute else _all_layers(model, setup, batch) + copies
    again = layer + copies // model.layers if setup.recompute else 0
    head, logits = 8 * batch.targets * model.hidden, batch.targets * model.vocabulary
    inside = again + max(batch.tokens * _transient(model, width), _score_gradients(model, setup, batch))
    if model.delta_net is not None:
        inside = again + batch.tokens * delta_net_memory.gradients(model, model.delta_net)
    gradients, embedding = width * model.parameters, width * model.embedding
    waiting = gradients if setup.accumulating else 0
    after_head = waiting or embedding
    moments = [(waiting, between + copies, 2 * logits)] if setup.recompute else []
    moments += [(waiting, kept + head, 12 * logits), (after_head, kept, inside)]
    moments += [(waiting, kept + head, 6 * logits + embedding)]
    moments += [(gradients, kept // model.layers, inside), (gradients, 0, _optimizer_step(model, setup))]
    optimizer = _moments_on_device(model.parameters, setup) + _update_buffers(model, setup)
    return _estimate_at(weights(model, setup), 0, optimizer, max(moments, key=sum), setup)


def checkpoint(model: Architecture, setup: MemorySetup) -> tuple[int, int]:
    """Bytes of the trained weights on disk, and of a checkpoint, which has AdamW's moments too."""
    if setup.mode == "full":
        whole = _width(setup) * model.parameters
        return whole, whole + _moment_bytes(model.parameters, setup)
    trainable = model.adapter(setup.rank, setup.targets)
    adapters = _adapter_bytes(trainable, setup)
    return adapters, adapters + _moment_bytes(trainable, setup)


def most_parameters(setup: MemorySetup, free: int) -> int:
    """Parameters whose weights, gradients and moments fill `free` bytes, with nothing left for examples."""
    many = 1 << 20
    each = 2 * _width(setup) * many + _moments_on_device(many, setup)
    return max(0, int(many * (free - _CONTEXT[setup.device]) / each))


def _adapter_bytes(trainable: int, setup: MemorySetup) -> int:
    """The adapter in float32; starts like PiSSA keep a frozen copy too."""
    return 4 * trainable * (2 if setup.init in STARTS_IN_BASE else 1)


def _estimate_at(base: int, adapter: int, optimizer: int, peak: tuple[int, int, int], setup: MemorySetup) -> Estimate:
    slack = int(_SLACK * (peak[1] + peak[2]))
    return Estimate(base, adapter, optimizer, *peak, slack, int(_CONTEXT[setup.device]))


def _moment_bytes(trained: int, setup: MemorySetup) -> int:
    """AdamW's moments. In 8 bits there is a float32 per 256 values. Paged ones count as if they stayed on the card."""
    return 8 * trained if setup.optimizer == "adamw" else 2 * trained + 8 * trained // 256


def _moments_on_device(trained: int, setup: MemorySetup) -> int:
    """Those moments, but for the 8-bit values that are kept on the host: then only their scales."""
    return 8 * trained // 256 if setup.optimizer == ON_HOST else _moment_bytes(trained, setup)


def _optimizer_step(model: Architecture, setup: MemorySetup) -> int:
    """Extra memory of an update: on CPU bitsandbytes dequantises a weight's moments to float32, and more."""
    return 24 * model.largest if setup.device == "cpu" and setup.optimizer != "adamw" else 0


def _update_buffers(model: Architecture, setup: MemorySetup) -> int:
    """Buffers to update bfloat16 weights: three float32 values for each of a chunk of 2^24 weights, and the moments
    that come from the host."""
    each = 14 if setup.optimizer == ON_HOST else 12
    return 0 if _width(setup) == 4 else each * min(1 << 24, model.largest)


def saved(model: Architecture, setup: MemorySetup) -> int:
    """Bytes per token that one layer keeps for the backward pass."""
    plain = (_saved_bfloat16 if _width(setup) == 2 else _saved_float32)(model, setup)
    lengths = 2 * _width(setup) * sum(linear.outputs for linear in model.adapted(setup.targets))
    plain += _kept_by_8_bit(model, setup)
    return plain + (lengths if setup.dora else 0)  # DoRA scales the outputs of base and adapter separately


def _saved_bfloat16(model: Architecture, setup: MemorySetup) -> int:
    """bfloat16 base, float32 adapter, autocast: each adapted linear keeps its own bfloat16 copy of its input."""
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    sizes = [linear.inputs for linear in model.adapted(setup.targets)]
    norms = 8 * h + 8  # both inputs, in float32
    on_host = setup.device == "cpu"
    attention = (8 * q + 8 * k if on_host else 4 * q + 4 * k) + 4 * model.heads  # queries, keys, values, result
    attention += 4 * q + 4 * k if model.normed_heads else 0
    attention += 2 * q + 2 * k if model.fused and not on_host else 0  # the values are a view of the whole product
    gate = 6 * f  # both halves, and the activation
    return norms + attention + gate + 2 * sum(sizes) + 2 * setup.rank * len(sizes) + _dropout_masks(setup, sizes)


def _saved_float32(model: Architecture, setup: MemorySetup) -> int:
    """All in float32: linears with the same input share it."""
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    sizes = [linear.inputs for linear in model.adapted(setup.targets)]
    norms = 8 * h + 8
    attention = 8 * q + 8 * k + 4 * model.heads
    attention += 4 * q + 4 * k if model.normed_heads or model.fused else 0
    shared = {linear.source: linear.inputs for linear in model.adapted(setup.targets)}
    inputs = 4 * sum(sizes if setup.dropout else shared.values())  # dropout gives each linear an input of its own
    return norms + attention + 12 * f + inputs + 4 * setup.rank * len(sizes) + _dropout_masks(setup, sizes)


def _saved_full_ft(model: Architecture, setup: MemorySetup) -> int:
    """Bytes per token that one layer keeps in full fine-tuning: the outputs of its norms too."""
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    if _autocasts(setup):
        attention = 4 * q + 4 * k + (8 * q + 8 * k if model.normed_heads or model.fused else 0)
        return 26 * h + 8 + attention + 4 * model.heads + 8 * f
    if _width(setup) == 4:
        attention = 8 * q + 8 * k + (8 * q + 8 * k if model.normed_heads or model.fused else 0)
        return 24 * h + 8 + attention + 4 * model.heads + 16 * f
    attention = 4 * q + 4 * k if setup.device == "cuda" else 8 * q + 8 * k + 2 * q
    attention += 6 * q + 6 * k if model.normed_heads else 0
    attention += 2 * q + 2 * k if model.fused and setup.device == "cuda" else 0
    return 16 * h + 8 + attention + 4 * model.heads + 8 * f


def _kept_by_8_bit(model: Architecture, setup: MemorySetup) -> int:
    """Inputs that bitsandbytes' 8-bit linears keep; float32 adapters with the same input share them."""
    if setup.mode != "lora-8bit":
        return 0
    adapted = {linear.source for linear in model.adapted(setup.targets)} if _width(setup) == 4 else set()
    return _width(setup) * sum({x.source: x.inputs for x in model.linears if x.source not in adapted}.values())


def _kept_despite_checkpointing(model: Architecture, setup: MemorySetup) -> int:
    """Inputs of 8-bit linears, which bitsandbytes keeps in spite of activation checkpointing."""
    kept = 2 * model.hidden + model.queries + model.inner
    return _width(setup) * kept if setup.mode == "lora-8bit" else 0


def _dequantized(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """The largest quantised weight, dequantised; in float32 and with its input where 8-bit linears multiply alone."""
    largest = max(linear.inputs * linear.outputs for linear in model.linears)
    if setup.mode == "lora-8bit":
        return 4 * largest + 4 * batch.tokens * max(linear.outputs for linear in model.linears)
    return _width(setup) * largest if setup.mode in QUANTIZED else 0


def _dropout_masks(setup: MemorySetup, sizes: list[int]) -> int:
    """Masks of LoRA dropout: 1 byte per element on a card, 4 bytes on CPU."""
    return (0 if not setup.dropout else 1 if setup.device == "cuda" else 4) * sum(sizes)


def _scores(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """Attention scores of one layer, where they are kept, with keys and values repeated for each query head."""
    if not _keeps_scores(setup):
        return 0
    longest = batch.longest or batch.tokens
    masks = longest if setup.attention == "eager" else 0
    return batch.tokens * (_score_bytes(setup) * model.heads * longest + masks + 2 * _width(setup) * model.queries)


def _short_attention(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """What attention over short segments keeps on the processor beyond torch's kernel: its weights, in the format of
    the products, but neither the result nor float32 copies of it and of queries, keys and values."""
    longest = batch.longest or batch.tokens
    if setup.device == "cuda" or _keeps_scores(setup) or longest > SHORT_SEGMENT:
        return 0
    width = 2 if _autocasts(setup) else _width(setup)
    copies = 6 * model.queries + 4 * model.keys if _width(setup) == 2 else width * model.queries
    return width * model.heads * (batch.squares or longest * batch.tokens) - batch.tokens * copies


def _score_gradients(model: Architecture, setup: MemorySetup, batch: MicroBatchSize) -> int:
    """Extra memory for the gradients of attention scores: 12 bytes per score, with those kept."""
    weights = batch.tokens * model.heads * (batch.longest or batch.tokens)
    return (12 - _score_bytes(setup)) * weights if _keeps_scores(setup) else 0


def _keeps_scores(setup: MemorySetup) -> bool:
    """Whether attention keeps its scores: eager attention does, and so does SDPA in float32 on a card, whose fast
    kernels need 16 bits."""
    return setup.attention == "eager" or (setup.device == "cuda" and setup.dtype == "float32")


def _score_bytes(setup: MemorySetup) -> int:
    """Bytes per attention score: float32, plus a 16-bit copy where products are in 16 bits."""
    return 6 if _autocasts(setup) or (setup.device == "cuda" and _width(setup) == 2) else 4


def _transient(model: Architecture, width: int) -> int:
    """Bytes per token while a layer's gradients are computed; the MLP's are the largest."""
    return 6 * model.inner + 14 * model.hidden if width == 2 else 8 * model.inner + 12 * model.hidden


def _dora_norms(model: Architecture, setup: MemorySetup) -> int:
    """Extra memory for DoRA's row norms: base + adapter in float32, and the products it is made of."""
    sizes = [linear.inputs * linear.outputs for linear in model.adapted(setup.targets)]
    return 20 * max(sizes) if setup.dora and sizes else 0


def _width(setup: MemorySetup) -> int:
    return 4 if setup.dtype == "float32" or _autocasts(setup) else 2


def _autocasts(setup: MemorySetup) -> bool:
    """True for full fine-tuning on CPU with dtype auto: float32 weights, bfloat16 products."""
    return setup.mode == "full" and setup.device == "cpu" and setup.dtype == "auto"
