"""Memory of a training step, computed from the model's architecture alone.

Each term is a tensor that PyTorch keeps for one layer (`layer_memory`). benchmarks/memory_grid.py traces the real step
without computing it, and compares the trace with the sum.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bp_core.choices import ON_HOST, STARTS_IN_BASE, Init, Optimizer

from . import delta_net_memory, fused_memory, layer_memory
from .architecture import Architecture
from .training_step import MemorySetup, MicroBatchSize, TrainingStep

GIB = 2**30
# A process with torch, transformers and peft before a model is loaded. On a card: the CUDA context and cuBLAS's work
# space; a common value, not measured by us.
_CONTEXT = {"cuda": 0.6 * GIB, "cpu": 1.0 * GIB}
# Fragmentation: free blocks between used ones, in PyTorch's caching allocator or the C library's.
_SLACK = 0.05

_Peak = tuple[int, int, int]  # bytes of gradients, activations, and what is computed at that moment


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
    step = TrainingStep(model, setup, batch)
    if setup.mode == "full":
        adapter, peak = 0, _full_peak(step)
        optimizer = _moments_on_device(model.parameters, setup.optimizer) + _update_buffers(step)
    else:
        adapter, peak = _adapter_bytes(step.trainable, setup.init), _adapter_peak(step)
        optimizer = _moment_bytes(step.trainable, setup.optimizer)
    slack = int(_SLACK * (peak[1] + peak[2]))
    return Estimate(weights(model, setup), adapter, optimizer, *peak, slack, int(_CONTEXT[setup.device]))


def weights(model: Architecture, setup: MemorySetup) -> int:
    """Bytes of the base model. bitsandbytes quantises the linears of the layers, not the head."""
    linears = [linear.inputs * linear.outputs for linear in model.all_linears]
    rest = setup.width * (model.parameters - sum(linears))
    if setup.mode == "qlora":  # 4 bits each, 1 byte per 64, a float32 per 64 × 256, and a table of 256 values
        return rest + sum(size // 2 + size // 64 + size // 4096 + 1024 for size in linears)
    if setup.mode == "lora-8bit":  # 1 byte each, and a float32 per row
        return rest + sum(linears) + 4 * sum(linear.outputs for linear in model.all_linears)
    return rest + setup.width * sum(linears)


def checkpoint(model: Architecture, setup: MemorySetup) -> tuple[int, int]:
    """Bytes of the trained weights on disk, and of a checkpoint, which has AdamW's moments too."""
    if setup.mode == "full":
        trained, written = model.parameters, setup.width * model.parameters
    else:
        trained = model.adapter(setup.rank, setup.targets)
        written = _adapter_bytes(trained, setup.init)
    return written, written + _moment_bytes(trained, setup.optimizer)


def most_parameters(setup: MemorySetup, free: int) -> int:
    """Parameters whose weights, gradients and moments fill `free` bytes, with nothing left for examples."""
    many = 1 << 20
    each = 2 * setup.width * many + _moments_on_device(many, setup.optimizer)
    return max(0, int(many * (free - _CONTEXT[setup.device]) / each))


def _adapter_peak(step: TrainingStep) -> _Peak:
    """Training an adapter beside frozen weights."""
    model, setup, batch, width = step.model, step.setup, step.batch, step.width
    layer = layer_memory.largest_layer(step)
    between = model.layers * batch.tokens * (width * model.hidden + layer_memory.kept_despite_checkpointing(step))
    kept = between if setup.recompute else layer_memory.all_layers(step)
    running = step.trainable * (2 if setup.init in STARTS_IN_BASE and setup.init != "loftq" else 1)
    copies = 2 * running if width == 2 and not step.fused else 0  # autocast's, of the adapters
    # A layer's input is kept before it is computed again: not a second time.
    computed_again = layer - (batch.tokens * width * model.hidden if step.fused else 0)
    again = computed_again + copies // model.layers if setup.recompute else 0
    held = kept + (0 if setup.recompute else copies)
    logits = fused_memory.losses(model, width, batch.tokens, batch.targets, setup.device)
    inside = layer_memory.fused_gradients(step) if step.fused else layer_memory.layer_gradients(step)
    gradients = 4 * step.trainable
    waiting = gradients if setup.accumulating else 0
    # Autocast still has the copies of all layers while losses are computed.
    moments = [(waiting, kept + copies, logits), (waiting, held, again + inside)]
    last = computed_again + copies if setup.recompute else 0  # autocast keeps the copies of the layers before
    moments += [(gradients, held // model.layers, last + inside)]
    return max(moments, key=sum)


def _full_peak(step: TrainingStep) -> _Peak:
    """Full fine-tuning. The embedding adds its rows' gradients to its table's; a tied table has the head's first."""
    model, setup, batch, width = step.model, step.setup, step.batch, step.width
    layer = layer_memory.largest_layer(step)
    copies = 2 * (model.parameters - model.embedding * (not model.tied)) if setup.autocasts else 0  # autocast's
    between = model.layers * batch.tokens * width * model.hidden
    kept = between if setup.recompute else layer_memory.all_layers(step) + copies
    again = layer + copies // model.layers if setup.recompute else 0
    head, logits = 8 * batch.targets * model.hidden, batch.targets * model.vocabulary
    computed = max(batch.tokens * layer_memory.transient(model, width), layer_memory.score_gradients(step))
    if model.delta_net is not None:
        computed = batch.tokens * delta_net_memory.gradients(model, model.delta_net)
    inside = again + computed
    gradients, embedding = width * model.parameters, width * model.embedding
    waiting = gradients if setup.accumulating else 0
    after_head = waiting or embedding
    # Autocast still has the copies of all layers when the losses are computed, of logits in 16 bits, in float32, and
    # their logarithms.
    moments = [(waiting, between + copies + head, 10 * logits)] if setup.recompute else []
    moments += [(waiting, kept + head, 12 * logits), (after_head, kept, inside)]
    moments += [(waiting, kept + head, 6 * logits + embedding)]
    moments += [(gradients, kept // model.layers, inside), (gradients, 0, _optimizer_step(step))]
    return max(moments, key=sum)


def _adapter_bytes(trainable: int, init: Init) -> int:
    """The adapter in float32; starts like PiSSA keep a frozen copy too."""
    return 4 * trainable * (2 if init in STARTS_IN_BASE else 1)


def _moment_bytes(trained: int, optimizer: Optimizer) -> int:
    """AdamW's moments. In 8 bits there is a float32 per 256 values. Paged ones count as if they stayed on the card."""
    return 8 * trained if optimizer == "adamw" else 2 * trained + 8 * trained // 256


def _moments_on_device(trained: int, optimizer: Optimizer) -> int:
    """Those moments, but for the 8-bit values that are kept on the host: then only their scales."""
    return 8 * trained // 256 if optimizer == ON_HOST else _moment_bytes(trained, optimizer)


def _optimizer_step(step: TrainingStep) -> int:
    """Extra memory of an update: on CPU bitsandbytes dequantises a weight's moments to float32, and more."""
    return 24 * step.model.largest if step.setup.device == "cpu" and step.setup.optimizer != "adamw" else 0


def _update_buffers(step: TrainingStep) -> int:
    """Buffers to update bfloat16 weights: three float32 values for each of a chunk of 2^24 weights, and the moments
    that come from the host."""
    each = 14 if step.setup.optimizer == ON_HOST else 12
    return 0 if step.width == 4 else each * min(1 << 24, step.model.largest)
