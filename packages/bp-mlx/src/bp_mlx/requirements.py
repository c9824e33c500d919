"""Settings that MLX or this machine cannot run, found before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from bp_core.choices import STARTS_IN_BASE
from bp_core.config import TrainConfig
from bp_core.errors import BadValue


def check(settings: TrainConfig) -> None:
    """Raise BadValue with all settings that cannot run here."""
    if problems := list(_impossible(settings)):
        raise BadValue("; ".join(problems) + ".", fix="Change what is named above, or use another --backend.")


def _impossible(settings: TrainConfig) -> Iterator[str]:
    if settings.fp8:
        yield "fp8 multiplies in float8 on NVIDIA cards, by torchao; backend mlx has no float8 products for training"
    if settings.optimizer not in (None, "adamw"):
        yield f"optimizer {settings.optimizer} keeps moments in 8 bits by bitsandbytes, which backend mlx does without"
    if settings.full_ft_offload:
        yield "full_ft_offload moves weights between a card and the host, which on backend mlx share one memory"
    if settings.shard:
        yield "shard is for several processes, and backend mlx trains in one"
    if settings.attention != "auto":
        yield f"attention {settings.attention} is one of PyTorch's; backend mlx has its own: use attention auto"
    for name in ("liger", "unsloth"):
        if getattr(settings, name):
            yield f"{name} has kernels for NVIDIA cards only: leave {name} out"
    if settings.init in STARTS_IN_BASE:
        yield f"init {settings.init} is not made on backend mlx: use default or orthogonal"
