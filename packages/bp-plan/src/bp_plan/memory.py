"""How much memory a training step takes, from the model's shape alone.

The terms are what PyTorch keeps of one layer of our training step, tensor by tensor; benchmarks/memory_grid.py traces
the real step without computing it, and holds the sum against the trace.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bp_core.choices import STARTS_IN_BASE, Attention, Init, Mode, Optimizer
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
    mode: Mode = "lora"
    optimizer: Optimizer = "adamw"
    init: Init = "default"
    attention: Attention = "auto"


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
    return (_full if setup.mode == "full" else _adapter)(model, setup, load)


def weights(model: Architecture, setup: Setup) -> int:
    """Bytes of the base. bitsandbytes quantises the linears of the layers, not the head."""
    width = _width(setup)
    linears = [linear.inputs * linear.outputs for linear in model.linears] * model.layers
    rest = width * (model.parameters - sum(linears))
    if setup.mode == "qlora":  # 4 bits, a byte a 64 of them, a float32 a 256 of those, and a table of 256
        return rest + sum(size // 2 + size // 64 + size // 4096 + 1024 for size in linears)
    if setup.mode == "lora-8bit":  # a byte, and a float32 a row
        return rest + sum(linears) + 4 * model.layers * sum(linear.outputs for linear in model.linears)
    return rest + width * sum(linears)


def _adapter(model: Architecture, setup: Setup, load: Load) -> Estimate:
    width = _width(setup)
    trainable = model.adapter(setup.rank, setup.targets)
    layer = load.tokens * saved(model, setup) + _scores(model, setup, load)
    between = load.tokens * (width * model.hidden + _not_let_go(model, setup))
    kept = model.layers * (between if setup.recompute else layer)
    running = trainable * (2 if setup.init in STARTS_IN_BASE and setup.init != "loftq" else 1)
    copies = 2 * running if width == 2 else 0  # autocast's, of the adapters
    again = layer + copies // model.layers if setup.recompute else 0
    held = kept + (0 if setup.recompute else copies)
    logits = 12 * load.targets * model.vocabulary  # float32: probabilities, and two gradients
    inside = max(load.tokens * _transient(model, width), _weighing(model, setup, load)) + _row_lengths(model, setup)
    inside += _unpacked(model, setup, load)
    gradients = 4 * trainable
    waiting = gradients if setup.accumulating else 0
    moments = [(waiting, held, logits), (waiting, held, again + inside)]
    last = layer + copies if setup.recompute else 0  # autocast keeps the copies of the layers before
    moments += [(gradients, held // model.layers, last + inside)]
    at = max(moments, key=sum)
    return _sum(weights(model, setup), _adapters(trainable, setup), _moments(trainable, setup), at, setup)


def _full(model: Architecture, setup: Setup, load: Load) -> Estimate:
    """All weights are trained. The gradient of a tied embedding comes in two parts, as do those that are added up."""
    width = _width(setup)
    layer = load.tokens * _saved_whole(model, setup) + _scores(model, setup, load)
    copies = 2 * (model.parameters - model.embedding * (not model.tied)) if _cast(setup) else 0  # autocast's
    between = model.layers * load.tokens * width * model.hidden
    kept = between if setup.recompute else model.layers * layer + copies
    again = layer + copies // model.layers if setup.recompute else 0
    head, logits = 8 * load.targets * model.hidden, load.targets * model.vocabulary
    inside = again + max(load.tokens * _transient(model, width), _weighing(model, setup, load))
    gradients, embedding = width * model.parameters, width * model.embedding
    waiting = gradients if setup.accumulating else 0
    parts = embedding * (2 * model.tied + setup.accumulating)
    moments = [(waiting, between + copies, 2 * logits)] if setup.recompute else []
    moments += [(waiting, kept + head, 12 * logits), (waiting + embedding, kept, inside)]
    moments += [(gradients, kept // model.layers, max(inside, parts)), (gradients, 0, _stepping(model, setup))]
    optimizer = _moments(model.parameters, setup) + _room(model, setup)
    return _sum(weights(model, setup), 0, optimizer, max(moments, key=sum), setup)


def checkpoint(model: Architecture, setup: Setup) -> tuple[int, int]:
    """Bytes of what is trained as it is written in the end, and of a checkpoint: that with AdamW's moments."""
    if setup.mode == "full":
        whole = _width(setup) * model.parameters
        return whole, whole + _moments(model.parameters, setup)
    trainable = model.adapter(setup.rank, setup.targets)
    adapters = _adapters(trainable, setup)
    return adapters, adapters + _moments(trainable, setup)


def most_parameters(setup: Setup, free: int) -> int:
    """Of how many parameters weights, gradients and moments fill so many bytes, with nothing left for examples."""
    many = 1 << 20
    return max(0, int(many * (free - _CONTEXT[setup.device]) / (2 * _width(setup) * many + _moments(many, setup))))


def _adapters(trainable: int, setup: Setup) -> int:
    """The adapter in float32, and for some starts the frozen one that goes with it."""
    return 4 * trainable * (2 if setup.init in STARTS_IN_BASE else 1)


def _sum(base: int, adapter: int, optimizer: int, at: tuple[int, int, int], setup: Setup) -> Estimate:
    slack = int(_SLACK * (at[1] + at[2]))
    return Estimate(base, adapter, optimizer, *at, slack, int(_CONTEXT[setup.device]))


def _moments(trained: int, setup: Setup) -> int:
    """Of AdamW; those in 8 bits have a float32 a 256 of them. Paged ones are counted as if they stayed."""
    return 8 * trained if setup.optimizer == "adamw" else 2 * trained + 8 * trained // 256


def _stepping(model: Architecture, setup: Setup) -> int:
    """What an update takes: on the host bitsandbytes unpacks a weight's moments into float32, and more."""
    return 24 * model.largest if setup.device == "cpu" and setup.optimizer != "adamw" else 0


def _room(model: Architecture, setup: Setup) -> int:
    """What bfloat16 weights are updated in: three numbers of 4 bytes for a piece of 2^24."""
    return 0 if _width(setup) == 4 else 12 * min(1 << 24, model.largest)


def saved(model: Architecture, setup: Setup) -> int:
    """Bytes a token that one layer keeps for the backward pass."""
    plain = (_saved_half if _width(setup) == 2 else _saved_full)(model, setup)
    lengths = 2 * _width(setup) * sum(linear.outputs for linear in model.adapted(setup.targets))
    plain += _kept_in_8_bit(model, setup)
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


def _saved_whole(model: Architecture, setup: Setup) -> int:
    """Bytes a token that one layer keeps when its own weights are trained: also what its norms made."""
    h, q, k, f = model.hidden, model.queries, model.keys, model.inner
    if _cast(setup):
        attention = 4 * q + 4 * k + (8 * q + 8 * k if model.normed_heads or model.fused else 0)
        return 26 * h + 8 + attention + 4 * model.heads + 8 * f
    if _width(setup) == 4:
        attention = 8 * q + 8 * k + (8 * q + 8 * k if model.normed_heads or model.fused else 0)
        return 24 * h + 8 + attention + 4 * model.heads + 16 * f
    attention = 4 * q + 4 * k if setup.device == "cuda" else 8 * q + 8 * k + 2 * q
    attention += 6 * q + 6 * k if model.normed_heads else 0
    attention += 2 * q + 2 * k if model.fused and setup.device == "cuda" else 0
    return 16 * h + 8 + attention + 4 * model.heads + 8 * f


def _kept_in_8_bit(model: Architecture, setup: Setup) -> int:
    """Inputs that bitsandbytes' 8-bit linears keep for themselves: in float32 adapters of the same input share them."""
    if setup.mode != "lora-8bit":
        return 0
    adapted = {linear.source for linear in model.adapted(setup.targets)} if _width(setup) == 4 else set()
    return _width(setup) * sum({x.source: x.inputs for x in model.linears if x.source not in adapted}.values())


def _not_let_go(model: Architecture, setup: Setup) -> int:
    """Inputs of 8-bit linears, which bitsandbytes holds where activation checkpointing cannot reach them."""
    kept = 2 * model.hidden + model.queries + model.inner
    return _width(setup) * kept if setup.mode == "lora-8bit" else 0


def _unpacked(model: Architecture, setup: Setup, load: Load) -> int:
    """The largest quantised weight as it is multiplied; for 8 bits in float32, with what it is multiplied with."""
    largest = max(linear.inputs * linear.outputs for linear in model.linears)
    if setup.mode == "lora-8bit":
        return 4 * largest + 4 * load.tokens * max(linear.outputs for linear in model.linears)
    return _width(setup) * largest if setup.mode == "qlora" else 0


def _dropped(setup: Setup, sizes: list[int]) -> int:
    """The masks of LoRA's dropout: a byte an element on a card, a number on the host."""
    return (0 if not setup.dropout else 1 if setup.device == "cuda" else 4) * sum(sizes)


def _scores(model: Architecture, setup: Setup, load: Load) -> int:
    """Attention's weights of one layer, where they are kept; keys and values are repeated there for each query head."""
    if not _weighs(setup):
        return 0
    longest = load.longest or load.tokens
    masks = longest if setup.attention == "eager" else 0
    return load.tokens * (_kept_weight(setup) * model.heads * longest + masks + 2 * _width(setup) * model.queries)


def _weighing(model: Architecture, setup: Setup, load: Load) -> int:
    """What comes besides while their gradients are computed, after the MLP's: with those kept, 12 bytes a weight."""
    weights = load.tokens * model.heads * (load.longest or load.tokens)
    return (12 - _kept_weight(setup)) * weights if _weighs(setup) else 0


def _weighs(setup: Setup) -> bool:
    """Whether attention keeps its weights: by plain products, and by torch's own in float32 on a card, whose fast
    kernels want 16 bits."""
    return setup.attention == "eager" or (setup.device == "cuda" and setup.dtype == "float32")


def _kept_weight(setup: Setup) -> int:
    """Bytes of one of attention's weights: float32, and as it is multiplied where that is in 16 bits."""
    return 6 if _cast(setup) or (setup.device == "cuda" and _width(setup) == 2) else 4


def _transient(model: Architecture, width: int) -> int:
    """Bytes a token beside what is kept, while a layer's gradients are computed: those of its MLP are the widest."""
    return 6 * model.inner + 14 * model.hidden if width == 2 else 8 * model.inner + 12 * model.hidden


def _row_lengths(model: Architecture, setup: Setup) -> int:
    """What DoRA takes to measure a weight's rows: base and adapter as one, in float32, and what that is made of."""
    sizes = [linear.inputs * linear.outputs for linear in model.adapted(setup.targets)]
    return 20 * max(sizes) if setup.dora and sizes else 0


def _width(setup: Setup) -> int:
    return 4 if setup.dtype == "float32" or _cast(setup) else 2


def _cast(setup: Setup) -> bool:
    """Whether float32 weights are trained in bfloat16 products: all weights on the host, left to auto."""
    return setup.mode == "full" and setup.device == "cpu" and setup.dtype == "auto"
