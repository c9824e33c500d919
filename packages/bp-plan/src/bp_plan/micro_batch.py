"""Choose micro-batch size and activation checkpointing so that a step fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bp_core.config import TrainConfig
from bp_core.recipe import Recipe

from .architecture import Architecture
from .memory import GIB, Estimate, estimate
from .rows import DeviceInfo, RowSizes
from .training_step import Device, MemorySetup

# Families whose examples cannot share a padded row; the rail computes them one at a time.
_ONE_BY_ONE = frozenset({"qwen3_5_text", "qwen3_5", "gpt_oss", "bloom"})
_NOT_NEEDED = "not needed, as far as is known"


@dataclass(frozen=True)
class StepPlan:
    """How a step will be computed. `fits` is None where free memory or the model's shape is unknown."""

    micro_batch: int
    activation_checkpointing: bool
    model: Architecture | None
    setup: MemorySetup
    estimate: Estimate | None
    free: int | None
    fits: bool | None
    why: Mapping[str, str]


def plan_step(
    recipe: Recipe, may_change: Mapping[str, bool], model: Architecture | None, rows: RowSizes, device: DeviceInfo
) -> StepPlan:
    """The fastest plan that fits, or the smallest if none fits.

    Starts from the recipe and varies only what `may_change`. Smaller micro-batches are tried before activation
    checkpointing, because they cost less time.
    """
    unknown_kernels = recipe.shared_out or recipe.fp8 or recipe.liger or recipe.unsloth
    if model is not None and model.delta_net and (device.backend != "cuda" or device.dtype == "float32"):
        unknown_kernels = True  # the formula of linear attention is for a card's bfloat16
    if model is None or unknown_kernels or device.backend not in ("cuda", "cpu"):
        return _without_estimate(recipe, may_change, model, rows, device)
    setup = memory_setup(recipe, device)
    tried: list[StepPlan] = []
    for recompute, micro in _candidates(recipe, may_change):
        setup = replace(setup, recompute=recompute, accumulating=micro < recipe.batch_size)
        needed = estimate(model, setup, rows.largest(1 if model.family in _ONE_BY_ONE else micro))
        fits = None if device.free is None else needed.total <= device.free
        tried.append(StepPlan(micro, recompute, model, setup, needed, device.free, fits, {}))
        if fits is not False:
            break
    return replace(tried[-1], why=_why(recipe, tried))


def memory_setup(config: TrainConfig, device: DeviceInfo) -> MemorySetup:
    """What the memory formula needs to know of a recipe, or of settings completed by `for_machine`."""
    assert config.optimizer and config.mode != "auto"
    kind: Device = "cuda" if device.backend == "cuda" else "cpu"
    # Full fine-tuning on CPU with dtype auto keeps float32 weights, even where products are computed in bfloat16.
    cast = config.mode == "full" and config.dtype == "auto" and kind == "cpu" and device.dtype == "bfloat16"
    return MemorySetup(
        device=kind,
        dtype="auto" if cast else device.dtype,
        rank=config.lora_rank,
        dropout=config.dropout,
        targets=config.target_modules,
        dora=config.dora,
        mode=config.mode,
        optimizer=config.optimizer,
        init=config.init,
        attention=config.attention,
    )


def _candidates(recipe: Recipe, may_change: Mapping[str, bool]) -> Iterator[tuple[bool, int]]:
    """Candidates (activation checkpointing, micro-batch size), fastest first."""
    chosen = recipe.activation_checkpointing
    for recompute in (False, True) if may_change["activation_checkpointing"] else (chosen,):
        micro = recipe.micro_batch
        yield recompute, micro
        while micro > 1 and may_change["micro_batch"]:
            micro = (micro + 1) // 2
            yield recompute, micro


def _why(recipe: Recipe, tried: list[StepPlan]) -> dict[str, str]:
    """Why these two values were chosen."""
    step = tried[-1]
    free = f"{(step.free or 0) / GIB:.1f} GiB that are free"
    micro = "a packed row is full" if recipe.packing else "the batch size"
    if step.micro_batch < recipe.batch_size and not recipe.packing:
        micro = f"the most that fits into the {free}" if step.fits else f"the least; even so not within the {free}"
    recompute = "not needed" if not step.activation_checkpointing else f"without it more than the {free} is needed"
    if len(tried) == 1 and step.fits is None:
        recompute = _NOT_NEEDED
    return {"micro_batch": micro, "activation_checkpointing": recompute}


def _without_estimate(
    recipe: Recipe, may_change: Mapping[str, bool], model: Architecture | None, rows: RowSizes, device: DeviceInfo
) -> StepPlan:
    """A plan where there is no memory formula.

    Metal may end the process when memory runs out, so on MLX a micro-batch has at most max_length tokens: one row of
    that length must fit anyway.
    """
    micro, reason = recipe.micro_batch, "a packed row is full" if recipe.packing else "the batch size"
    together = sum(tokens <= recipe.max_length for tokens in rows.tokens[: recipe.batch_size])
    if may_change["micro_batch"] and device.backend == "mlx" and together < micro:
        micro = max(1, together)
        reason = f"together they hold no more than the {recipe.max_length} tokens of max_length"
    why = {"micro_batch": reason, "activation_checkpointing": _NOT_NEEDED}
    recompute, setup = recipe.activation_checkpointing, memory_setup(recipe, device)
    return StepPlan(micro, recompute, model, setup, None, device.free, None, why)
