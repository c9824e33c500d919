"""What a training run does, with nothing left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from .choices import Attention, DType, Init, Method, Mode, Optimizer, TrainOn
from .config import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A resolved TrainConfig: nothing is None; 0 and "" mean never and nothing. `why` explains what was computed."""

    model: str
    output: str
    backend: str
    steps: int
    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    batch_size: int
    micro_batch: int
    max_length: int
    packing: bool
    train_on: TrainOn
    columns: str
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    seed: int
    dtype: DType
    checkpoint_every: int
    keep_checkpoints: int
    activation_checkpointing: bool = False
    checkpoint_minutes: float = TrainConfig.checkpoint_minutes
    eval_data: str = ""
    held_out: float = 0.0
    eval_every: int = 0
    patience: int = 0
    max_skipped: int = TrainConfig.max_skipped
    max_temp: float = TrainConfig.max_temp
    cooldown: float = TrainConfig.cooldown
    disk_wait: float = TrainConfig.disk_wait
    method: Method = TrainConfig.method
    beta: float = 0.0
    gamma: float = 0.0
    desirable_weight: float = 0.0
    undesirable_weight: float = 0.0
    reasoning_trace: bool = TrainConfig.reasoning_trace
    min_trace: int = TrainConfig.min_trace
    max_trace: int = TrainConfig.max_trace
    mode: Mode = TrainConfig.mode
    full_ft_offload: bool = TrainConfig.full_ft_offload
    shard: bool = False
    fp8: bool = TrainConfig.fp8
    attention: Attention = TrainConfig.attention
    liger: bool = TrainConfig.liger
    unsloth: bool = TrainConfig.unsloth
    rslora: bool = TrainConfig.rslora
    dora: bool = TrainConfig.dora
    target_modules: str = TrainConfig.target_modules
    init: Init = TrainConfig.init
    optimizer: Optimizer = "adamw"
    why: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def shared_out(self) -> bool:
        """Whether several processes hold the weights together, so that all must take part in every pass."""
        return self.shard or self.full_ft_offload
