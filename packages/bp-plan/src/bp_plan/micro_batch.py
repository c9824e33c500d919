"""Cutting a step so that it fits: how many examples at once, and whether layers are computed twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bp_core.config import TrainConfig
from bp_core.recipe import Recipe

from .architecture import Architecture
from .memory import GIB, Device, Estimate, Setup, estimate
from .rows import Room, Rows

# Families of which examples may not share a row; the rail computes them one by one.
_ONE_BY_ONE = frozenset({"qwen3_5_text", "qwen3_5", "gpt_oss", "bloom"})
_NOT_NEEDED = "not needed, as far as is known"


@dataclass(frozen=True)
class StepPlan:
    """A step as it will be computed, and the model's shape. `fits` is None where memory or shape are not known."""

    micro_batch: int
    activation_checkpointing: bool
    model: Architecture | None
    setup: Setup
    estimate: Estimate | None
    free: int | None
    fits: bool | None
    why: Mapping[str, str]


def plan_step(
    recipe: Recipe, may_change: Mapping[str, bool], model: Architecture | None, rows: Rows, room: Room
) -> StepPlan:
    """The fastest way that fits; where none does, the smallest there is.

    It begins with micro_batch and activation_checkpointing of the recipe, and goes on with those that may change.
    Smaller micro-batches cost less time than computing layers twice, so they are tried first.
    """
    if model is None or _other_kernels(recipe) or room.device not in ("cuda", "cpu"):
        return _unmeasured(recipe, may_change, model, rows, room)
    setup = setup_of(recipe, room)
    tried: list[StepPlan] = []
    for recompute, micro in _ways(recipe, may_change):
        setup = replace(setup, recompute=recompute, accumulating=micro < recipe.batch_size)
        needed = estimate(model, setup, rows.largest(1 if model.family in _ONE_BY_ONE else micro))
        fits = None if room.free is None else needed.total <= room.free
        tried.append(StepPlan(micro, recompute, model, setup, needed, room.free, fits, {}))
        if fits is not False:
            break
    return replace(tried[-1], why=_why(recipe, tried))


def _other_kernels(recipe: Recipe) -> bool:
    """Whether something computes of which the formula does not know what it keeps."""
    return recipe.shared_out or recipe.fp8 or recipe.liger or recipe.unsloth


def setup_of(config: TrainConfig, room: Room) -> Setup:
    """What is trained, and how. All weights, left to auto on the host, are float32, whatever is multiplied.

    `config`: a recipe, or settings for a machine.
    """
    assert config.optimizer
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
        optimizer=config.optimizer,
        init=config.init,
        attention=config.attention,
    )


def _ways(recipe: Recipe, may_change: Mapping[str, bool]) -> Iterator[tuple[bool, int]]:
    """(activation checkpointing, micro-batch), fastest first."""
    chosen = recipe.activation_checkpointing
    for recompute in (False, True) if may_change["activation_checkpointing"] else (chosen,):
        micro = recipe.micro_batch
        yield recompute, micro
        while micro > 1 and may_change["micro_batch"]:
            micro = (micro + 1) // 2
            yield recompute, micro


def _why(recipe: Recipe, tried: list[StepPlan]) -> dict[str, str]:
    """A reason for each value that may have changed."""
    step = tried[-1]
    free = f"{(step.free or 0) / GIB:.1f} GiB that are free"
    micro = "a packed row is full" if recipe.packing else "the batch size"
    if step.micro_batch < recipe.batch_size and not recipe.packing:
        micro = f"the most that fits into the {free}" if step.fits else f"the least; even so not within the {free}"
    recompute = "not needed" if not step.activation_checkpointing else f"without it more than the {free} is needed"
    if len(tried) == 1 and step.fits is None:
        recompute = _NOT_NEEDED
    return {"micro_batch": micro, "activation_checkpointing": recompute}


def _unmeasured(
    recipe: Recipe, may_change: Mapping[str, bool], model: Architecture | None, rows: Rows, room: Room
) -> StepPlan:
    """Rows at once where no formula says what they need.

    Metal may end the process when memory runs out, so MLX gets no more than a row of the greatest length, which must
    fit anyway.
    """
    micro, reason = recipe.micro_batch, "a packed row is full" if recipe.packing else "the batch size"
    together = sum(tokens <= recipe.max_length for tokens in rows.tokens[: recipe.batch_size])
    if may_change["micro_batch"] and room.device == "mlx" and together < micro:
        micro = max(1, together)
        reason = f"together they hold no more than the {recipe.max_length} tokens of max_length"
    why = {"micro_batch": reason, "activation_checkpointing": _NOT_NEEDED}
    recompute, setup = recipe.activation_checkpointing, setup_of(recipe, room)
    return StepPlan(micro, recompute, model, setup, None, room.free, None, why)
