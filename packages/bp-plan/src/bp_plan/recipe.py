"""Settings → recipe: the one place where open settings are decided, with the reason for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from bp_core.choices import ON_HOST, PAGED
from bp_core.config import TrainConfig
from bp_core.recipe import Recipe

from .architecture import architecture
from .defaults import MachineSettings, alpha, dtype, duration, evaluation, kernels, learning_rate, preference
from .memory import GIB
from .micro_batch import StepPlan, plan_step
from .mode import candidates, mode_reason
from .rows import RowSizes, full_rows


def resolve(machine: MachineSettings, rows: int | RowSizes, model: Mapping[str, Any]) -> tuple[Recipe, StepPlan]:
    """The recipe, with a reason for each value that the user did not set, and how its steps are computed.

    `rows`: the examples, or packed rows, as a number or with their sizes. `model`: the base's config.json.
    """
    config = machine.config
    sizes = rows if isinstance(rows, RowSizes) else full_rows(rows, config.length, packed=config.packing)
    if config.mode == "full":
        return _full(machine, sizes, model)
    if config.mode != "auto":
        return _in_one_mode(machine, sizes, model)
    choice = candidates(config, machine.device)
    tried: list[StepPlan] = []
    for mode in choice.modes:
        in_mode = replace(machine, config=replace(config, mode=mode))
        recipe, step = _in_one_mode(in_mode, sizes, model)
        tried.append(step)
        if step.fits is not False:
            break
    why = {**recipe.why, "mode": mode_reason(tried, choice, machine.device, recipe.dtype)}
    return replace(recipe, why=why), step


def _full(machine: MachineSettings, sizes: RowSizes, model: Mapping[str, Any]) -> tuple[Recipe, StepPlan]:
    """All weights. Moments that the user left open go to the host where the card is too small for them."""
    recipe, step = _in_one_mode(machine, sizes, model)
    if step.fits is not False or not step.estimate or recipe.optimizer != PAGED or "optimizer" not in machine.why:
        return recipe, step
    on_host = replace(machine, config=replace(machine.config, optimizer=ON_HOST))
    other, smaller = _in_one_mode(on_host, sizes, model)
    need, free = step.estimate.total / GIB, (step.free or 0) / GIB
    reason = f"mode full: {need:.1f} of {free:.1f} GiB would be needed with its 8-bit moments on the card"
    return replace(other, why={**other.why, "optimizer": reason}), smaller


def _in_one_mode(machine: MachineSettings, sizes: RowSizes, model: Mapping[str, Any]) -> tuple[Recipe, StepPlan]:
    """The recipe where the mode is decided."""
    config = machine.config
    batch_size, steps, why = duration(config, len(sizes))
    why |= machine.why
    evaluates = config.eval_data is not None or config.held_out is not None
    values = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    may_change = {name: values[name] is None for name in ("micro_batch", "activation_checkpointing")}
    computed = {
        "rank": (config.lora_rank, f"{config.lora_preset}, by name" if config.lora_preset else "the default"),
        "alpha": alpha(config),
        "learning_rate": learning_rate(model, config),
        "max_length": (config.length, "with reasoning_trace" if config.reasoning_trace else "the default"),
        "dtype": dtype(config.mode, machine.device),
        **preference(config.method, sizes),
        **evaluation(steps, has_rows=evaluates),
        "sample_every": (0, "never, the default"),
        **kernels(machine.device),
    }
    for name, (value, reason) in computed.items():
        if values[name] in (None, "auto"):
            values[name], why[name] = value, reason
    values |= {"batch_size": batch_size, "steps": steps, "warmup_steps": round(config.warmup_ratio * steps)}
    why["warmup_steps"] = f"{config.warmup_ratio:.0%} of the steps"
    values["micro_batch"] = min(config.micro_batch or (1 if config.packing else batch_size), batch_size)
    values["activation_checkpointing"] = bool(config.activation_checkpointing)
    recipe = Recipe(**values)
    step = plan_step(recipe, may_change, architecture(model), sizes, machine.device)
    why |= {name: step.why[name] for name in may_change if may_change[name]}
    for field in fields(TrainConfig):
        if field.name not in why and getattr(config, field.name) == field.default:
            why[field.name] = "the default"
    chosen = {name: getattr(step, name) for name in may_change}
    return replace(recipe, **chosen, why=why), step
