"""What a training run does, with nothing left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from .choices import PLAIN_MODE, Mode, Optimizer
from .config import TrainConfig

AS_SET = "as set"  # the reason for a value of which a recipe's `why` says nothing


def at_default(value: object, reason: str) -> bool:
    """Whether a value of a recipe is what it is for everybody, so that a short account of the recipe leaves it out."""
    return reason.endswith("the default") or (not value and reason != AS_SET)


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainConfig):
    """A resolved TrainConfig. What could be left open there is listed here, and is not None; 0 and "" mean never and
    nothing; only `liger` may stay open, for the rail to try. `why` explains what was computed.

    epochs, samples, lora_preset and warmup_ratio stay as they were set, and have no say: steps, the data, rank and
    warmup_steps follow from them.
    """

    mode: Mode = PLAIN_MODE
    steps: int
    rank: int
    alpha: float
    learning_rate: float
    batch_size: int
    micro_batch: int
    max_length: int
    warmup_steps: int
    activation_checkpointing: bool = False
    shard: bool = False
    optimizer: Optimizer = "adamw"
    liger: bool | None = None
    eval_data: str = ""
    held_out: float = 0.0
    eval_every: int = 0
    patience: int = 0
    sample_every: int = 0
    beta: float = 0.0
    gamma: float = 0.0
    desirable_weight: float = 0.0
    undesirable_weight: float = 0.0
    why: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def shared_out(self) -> bool:
        """Whether several processes hold the weights together, so that all must take part in every pass."""
        return self.shard or self.full_ft_offload

    def __post_init__(self) -> None:
        """Nothing is checked: what the user set was, and a computed 0 need not be in the range."""
