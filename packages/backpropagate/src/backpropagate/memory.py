"""How much memory a training step takes, from the model's shape alone.

The terms are what PyTorch keeps of one layer of our training step, tensor by tensor; benchmarks/memory_grid.py traces
the real step without computing it, and holds the sum against the trace.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bp_core.config import ALL_LINEAR

from .architecture import Architecture

Device = Literal["cuda", "cpu"]
GIB = 2**30
# A process with torch, transformers and peft before there is a model. On a card: its context and cuBLAS's work space,
# a common value, not measured by us.
_CONTEXT = {"cuda": 0.6 * GIB, "cpu": 1.0 * GIB}
# Blocks that lie free between others: PyTorch's caching allocator on a card, the C library's on the host.
_SLACK = 0.05


@dataclass(frozen=True)
class Setup:
    """What is trained, and how. `accumulating`: a step has several micro-batches, so gradients wait beside them."""

    device: Device
    dtype: str
    rank: int
    dropout: float = 0.0
    targets: str = ALL_LINEAR
    dora: bool = False
    recompute: bool = False
    accumulating: bool = False


@dataclass(frozen=True)
class Load:
    """One micro-batch: all its tokens, those that are learned, those of its longest example (0: the only one)."""

    tokens: int
    targets: int
    longest: int = 0


@dataclass(frozen=True)
class Estimate:
    """Bytes at the moment when a step needs most. `work`: what is computed then, logits or a layer's gradients."""

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
        """What PyTorch allocates."""
        return self.total - self.context - self.slack

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"total": self.total}


def estimate(model: Architecture, setup: Setup, load: Load) -> Estimate:
    """The peak of a training step: at the logits, as the backward pass begins, or as it ends."""
    width = _width(setup)
    trainable = model.adapter(setup.rank, setup.targets)
    layer = load.tokens * saved(model, setup) + _scores(model, setup, load)
    kept = model.layers * (load.tokens * width * model.hidden if setup.recompute else layer)
    copies = 2 * trainable if width == 2 else 0  # autocast's, of the adapter
    again = layer + copies // model.layers if setup.recompute else 0
    held = kept + (0 if setup.recompute else copies)
    logits = 12 * load.targets * model.vocabulary  # float32: probabilities, and two gradients
    inside = load.tokens * _transient(model, width) + 2 * _scores(model, setup, load) + _row_lengths(model, setup)
    gradients = 4 * trainable
    waiting = gradients if setup.accumulating else 0
    moments = [(waiting, held, logits), (waiting, held, again + inside)]
    moments += [(gradients, held // model.layers, again + inside)]
    at = max(moments, key=sum)
    weights = width * model.parameters
    slack = int(_SLACK * (at[1] + at[2]))
    return Estimate(weights, 4 * trainable, 8 * trainable, *at, slack, int(_CONTEXT[setup.device]))


def saved(model: Architecture, setup: Setup) -> int:
    """Bytes a token that one layer keeps for the backward pass."""
    plain = (_saved_half if _width(setup) == 2 else _saved_full)(model, setup)
    lengths = 2 * _width(setup) * sum(linear.outputs for linear in model.adapted(setup.targets))
    return plain + (lengths if setup.dora else 0)  # DoRA scales what the base and the adapter give apart


def _saved_half(model: Architecture, setup: Setup) -> int:
    """bfloat16 base, float32 adapter, autocast: every adapted linear keeps a bfloat16 copy of its input of its own."""
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    sizes = [linear.inputs for linear in model.adapted(setup.targets)]
    norms = 8 * h + 8  # both inputs, in float32
    on_host = setup.device == "cpu"
    attention = (8 * q + 8 * k if on_host else 4 * q + 4 * k) + 4 * model.heads  # queries, keys, values, result
    attention += 4 * q + 4 * k if model.normed_heads else 0
    attention += 2 * q + 2 * k if model.fused and not on_host else 0  # the values are a view of the whole product
    gate = 6 * f  # both halves, and the activation
    return norms + attention + gate + 2 * sum(sizes) + 2 * setup.rank * len(sizes) + _dropped(setup, sizes)


def _saved_full(model: Architecture, setup: Setup) -> int:
    """All in float32: linears side by side share their input."""
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    sizes = [linear.inputs for linear in model.adapted(setup.targets)]
    norms = 8 * h + 8
    attention = 8 * q + 8 * k + 4 * model.heads
    attention += 4 * q + 4 * k if model.normed_heads or model.fused else 0
    shared = {linear.source: linear.inputs for linear in model.adapted(setup.targets)}
    inputs = 4 * sum(sizes if setup.dropout else shared.values())  # what dropout leaves differs from linear to linear
    return norms + attention + 12 * f + inputs + 4 * setup.rank * len(sizes) + _dropped(setup, sizes)


def _dropped(setup: Setup, sizes: list[int]) -> int:
    """The masks of LoRA's dropout: a byte an element on a card, a number on the host."""
    return (0 if not setup.dropout else 1 if setup.device == "cuda" else 4) * sum(sizes)


def _scores(model: Architecture, setup: Setup, load: Load) -> int:
    """Attention's weights of one layer. Only float32 on a card has them: its fast kernels want 16 bits."""
    if setup.device == "cpu" or setup.dtype != "float32":
        return 0
    return 4 * load.tokens * (model.heads * (load.longest or load.tokens) + 2 * model.queries)


def _transient(model: Architecture, width: int) -> int:
    """Bytes a token beside what is kept, while a layer's gradients are computed: those of its MLP are the widest."""
    return 6 * model.inner + 14 * model.hidden if width == 2 else 8 * model.inner + 12 * model.hidden


def _row_lengths(model: Architecture, setup: Setup) -> int:
    """What DoRA takes to measure a weight's rows: base and adapter as one, in float32, and what that is made of."""
    sizes = [linear.inputs * linear.outputs for linear in model.adapted(setup.targets)]
    return 20 * max(sizes) if setup.dora and sizes else 0


def _width(setup: Setup) -> int:
    return 4 if setup.dtype == "float32" else 2
