"""One training step, as far as its memory goes: a model, the settings that matter, and a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bp_core.choices import QUANTIZED, Attention, Init, Mode, Optimizer
from bp_core.config import ALL_LINEAR
from bp_core.step_sizes import kept_weights

from .architecture import Architecture, Linear

Device = Literal["cuda", "cpu"]


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

    @property
    def autocasts(self) -> bool:
        """True for full fine-tuning on CPU with dtype auto: float32 weights, bfloat16 products."""
        return self.mode == "full" and self.device == "cpu" and self.dtype == "auto"

    @property
    def width(self) -> int:
        """Bytes of a weight that is not quantised."""
        return 4 if self.dtype == "float32" or self.autocasts else 2


@dataclass(frozen=True)
class MicroBatchSize:
    """One micro-batch: all its tokens, its trained tokens, the tokens of its longest example (0: all of them), and the
    attention weights that a head keeps of its examples on a processor (-1: each is as long as the longest)."""

    tokens: int
    targets: int
    longest: int = 0
    weights: int = -1

    def __post_init__(self) -> None:
        longest = self.longest or self.tokens
        object.__setattr__(self, "longest", longest)
        if self.weights < 0:
            object.__setattr__(self, "weights", kept_weights(longest) * self.tokens // longest)


@dataclass(frozen=True)
class TrainingStep:
    """What is computed at once. Its adapter is worked out here, from rank and target modules, and nowhere else."""

    model: Architecture
    setup: MemorySetup
    batch: MicroBatchSize

    @cached_property
    def width(self) -> int:
        """Bytes of a number."""
        return self.setup.width

    @cached_property
    def adapted(self) -> tuple[Linear, ...]:
        """The linears of one layer of full attention that get an adapter."""
        return self.model.adapted(self.setup.targets)

    @cached_property
    def trainable(self) -> int:
        """Parameters of the adapter."""
        return self.model.adapter(self.setup.rank, self.setup.targets)

    @property
    def narrow(self) -> int:
        """Numbers a token in the narrow products of one layer's adapters."""
        return self.setup.rank * len(self.adapted)

    @property
    def scaled(self) -> int:
        """Numbers a token that DoRA scales in one layer: the outputs of the adapted linears."""
        return sum(linear.outputs for linear in self.adapted) if self.setup.dora else 0

    @property
    def fused(self) -> bool:
        """Whether the PyTorch rail computes the layers of a known family in groups: not with dropout, which each linear
        applies by itself, not DoRA on quantised weights, and not linear attention."""
        setup = self.setup
        if setup.mode == "full" or setup.dropout or self.model.delta_net is not None:
            return False
        return not (setup.dora and setup.mode in QUANTIZED)

    @property
    def keeps_scores(self) -> bool:
        """Whether attention keeps its scores: eager attention does, and so does SDPA in float32 on a card, whose fast
        kernels need 16 bits."""
        return self.setup.attention == "eager" or (self.setup.device == "cuda" and self.setup.dtype == "float32")

    @property
    def score_bytes(self) -> int:
        """Bytes per attention score: float32, plus a 16-bit copy where products are in 16 bits."""
        return 6 if self.setup.autocasts or (self.setup.device == "cuda" and self.width == 2) else 4
