"""Cutting a step so that it fits: how many examples at once, and whether layers are computed twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bp_core.config import TrainConfig

from .architecture import Architecture
from .defaults import optimizer, sharing
from .memory import GIB, Device, Estimate, Setup, estimate
from .rows import Rows

# Families of which examples may not share a row; the rail computes them one by one.
_ONE_BY_ONE = frozenset({"qwen3_5_text", "qwen3_5", "gpt_oss", "bloom"})


@dataclass(frozen=True)
class Room:
    """Where training happens: the kind of device, its free bytes (None: not known), its fast number format."""

    device: str
    free: int | None
    dtype: str


@dataclass(frozen=True)
class Cut:
    """A step as it will be computed. `fits` is None where the free memory or the model's shape is not known."""

    micro_batch: int
    activation_checkpointing: bool
    setup: Setup
    estimate: Estimate | None
    fits: bool | None
    why: Mapping[str, str]


def cut(config: TrainConfig, model: Architecture | None, rows: Rows, room: Room, batch: int) -> Cut:
    """The fastest way that fits; where none does, the smallest there is. `batch`: the rows of a step.

    Smaller micro-batches cost less time than computing layers twice, so they are tried first.
    """
    base = setup_of(config, room)
    if model is None or config.full_ft_offload or _other_kernels(config) or room.device not in ("cuda", "cpu"):
        micro, reason = _unmeasured(config, rows, room, batch)
        micro = min(config.micro_batch or micro, batch)
        return Cut(micro, bool(config.activation_checkpointing), base, None, None, _unknown(config, reason))
    tried: list[Cut] = []
    for recompute, micro in _ways(config, batch):
        setup = dataclasses.replace(base, recompute=recompute, accumulating=micro < batch)
        needed = estimate(model, setup, rows.largest(1 if model.family in _ONE_BY_ONE else micro))
        fits = None if room.free is None else needed.total <= room.free
        tried.append(Cut(micro, recompute, setup, needed, fits, {}))
        if fits is not False:
            break
    found = tried[-1]
    return dataclasses.replace(found, why=_why(config, found, tried, batch, room))


def _other_kernels(config: TrainConfig) -> bool:
    """Whether something computes of which the formula does not know what it keeps."""
    return bool(config.fp8 or config.liger or config.unsloth or sharing(config)[0])


def setup_of(config: TrainConfig, room: Room) -> Setup:
    """What is trained, and how. All weights, left to auto on the host, are float32, whatever is multiplied."""
    device: Device = "cuda" if room.device == "cuda" else "cpu"
    cast = config.mode == "full" and config.dtype == "auto" and device == "cpu" and room.dtype == "bfloat16"
    return Setup(
        device=device,
        dtype="auto" if cast else room.dtype,
        rank=config.lora_rank,
        dropout=config.dropout,
        targets=config.target_modules,
        dora=config.dora,
        mode=config.mode,
        optimizer=optimizer(config, room.device)[0],
        init=config.init,
        attention=config.attention,
    )


def _ways(config: TrainConfig, batch: int) -> Iterator[tuple[bool, int]]:
    """(activation checkpointing, micro-batch), fastest first; what the user set stays."""
    wanted = config.activation_checkpointing
    for recompute in (False, True) if wanted is None else (wanted,):
        micro = min(config.micro_batch or (1 if config.packing else batch), batch)
        yield recompute, micro
        while micro > 1 and config.micro_batch is None:
            micro = (micro + 1) // 2
            yield recompute, micro


def _why(config: TrainConfig, found: Cut, tried: list[Cut], batch: int, room: Room) -> dict[str, str]:
    """A reason for each value that was open."""
    free = f"{(room.free or 0) / GIB:.1f} GiB that are free"
    micro = "a packed row is full" if config.packing else "the batch size"
    if found.micro_batch < batch and not config.packing:
        micro = f"the most that fits into the {free}" if found.fits else f"the least; even so not within the {free}"
    recompute = "not needed" if not found.activation_checkpointing else f"without it more than the {free} is needed"
    if len(tried) == 1 and found.fits is None:
        recompute = "not needed, as far as is known"
    reasons = {"micro_batch": micro, "activation_checkpointing": recompute}
    return {name: reason for name, reason in reasons.items() if getattr(config, name) is None}


def _unmeasured(config: TrainConfig, rows: Rows, room: Room, batch: int) -> tuple[int, str]:
    """Rows at once where no formula says what they need, and why.

    Metal may end the process when memory runs out, so MLX gets no more than a row of the greatest length, which must
    fit anyway.
    """
    if config.packing:
        return 1, "a packed row is full"
    together = sum(tokens <= config.length for tokens in rows.tokens[:batch])
    if room.device != "mlx" or together == batch:
        return batch, "the batch size"
    return max(1, together), f"together they hold no more than the {config.length} tokens of max_length"


def _unknown(config: TrainConfig, micro: str) -> dict[str, str]:
    reasons = {"micro_batch": micro, "activation_checkpointing": "not needed, as far as is known"}
    return {name: reason for name, reason in reasons.items() if getattr(config, name) is None}
