"""The one place where what the user left open is decided, with the reason for each decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bp_core import backends
from bp_core.config import TrainConfig
from bp_core.recipe import Recipe

from .architecture import architecture
from .defaults import alpha, duration, evaluation, learning_rate, optimizer, preference, sharing
from .micro_batch import Room, cut
from .rows import Rows, alike


def resolve(
    config: TrainConfig, rows: int | Rows, backend: str, model: Mapping[str, Any], room: Room | None = None
) -> Recipe:
    """A recipe for the rail `backend`; every value that the user did not set is explained.

    `rows`: examples, or packed rows, by number or by size; `model`: the base's config.json; `room`: where it must fit.
    """
    room = room or Room(backend, None, config.dtype)
    sizes = rows if isinstance(rows, Rows) else alike(rows, config.length)
    batch_size, steps, why = duration(config, len(sizes))
    open_values: dict[str, tuple[Any, str]] = {
        "rank": (config.lora_rank, f"{config.lora_preset}, by name" if config.lora_preset else "the default"),
        "alpha": alpha(config),
        "learning_rate": learning_rate(model, config),
        "max_length": (config.length, "with reasoning_trace" if config.reasoning_trace else "the default"),
        "optimizer": optimizer(config, backend),
        "shard": sharing(config),
        **preference(config, sizes),
        **evaluation(config, steps),
    }
    as_cut = cut(config, architecture(model), sizes, room, batch_size)
    for name in ("micro_batch", "activation_checkpointing"):
        open_values[name] = getattr(as_cut, name), as_cut.why.get(name, "")
    chosen = {name: getattr(config, name) for name in open_values}
    for name in [name for name, value in chosen.items() if value is None]:
        chosen[name], why[name] = open_values[name]
    chosen["micro_batch"] = min(chosen["micro_batch"], batch_size)
    if config.dtype == "auto" and config.mode == "full":
        why["dtype"] = "auto: trained weights in float32 on the host, in bfloat16 on a card"
    elif config.dtype == "auto" and room.dtype != "auto":
        chosen["dtype"], why["dtype"] = room.dtype, "auto: what this device multiplies fast"
    if config.backend == "auto":
        why["backend"] = f"auto: the first of {', '.join(backends.PREFERRED)} that runs here"
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig)} | chosen
    kept = {f.name for f in dataclasses.fields(Recipe)} & fields.keys()
    settled = {name: fields[name] for name in kept - {"backend", "batch_size", "steps"}}
    warmup = round(config.warmup_ratio * steps)
    why["warmup_steps"] = f"{config.warmup_ratio:.0%} of the steps"
    for field in dataclasses.fields(TrainConfig):
        if field.name in kept and field.name not in why and getattr(config, field.name) == field.default:
            why[field.name] = "the default"
    return Recipe(backend=backend, batch_size=batch_size, steps=steps, warmup_steps=warmup, why=why, **settled)
