"""The one place where what the user left open is decided, with the reason for each decision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bp_core import backends
from bp_core.choices import PAIRED
from bp_core.config import BATCH_SIZE, BETAS, EPOCHS, EVALUATIONS, GAMMA, RATES, TrainConfig
from bp_core.recipe import Recipe

from .architecture import architecture
from .fit import Room, Rows, alike, cut, optimizer, sharing


def resolve(
    config: TrainConfig, rows: int | Rows, backend: str, model: Mapping[str, Any], room: Room | None = None
) -> Recipe:
    """A recipe for the rail `backend`; every value that the user did not set is explained.

    `rows`: examples, or packed rows, by number or by size; `model`: the base's config.json; `room`: where it must fit.
    """
    room = room or Room(backend, None, config.dtype)
    sizes = rows if isinstance(rows, Rows) else alike(rows, config.length)
    batch_size, steps, why = _duration(config, len(sizes))
    open_values: dict[str, tuple[Any, str]] = {
        "rank": (config.lora_rank, f"{config.lora_preset}, by name" if config.lora_preset else "the default"),
        "alpha": alpha(config),
        "learning_rate": learning_rate(model, config),
        "max_length": (config.length, "with reasoning_trace" if config.reasoning_trace else "the default"),
        "optimizer": optimizer(config, backend),
        "shard": sharing(config),
        **preference(config, sizes),
        **_evaluation(config, steps),
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


def alpha(config: TrainConfig) -> tuple[float, str]:
    """A good alpha, and why. Strength 2, the common choice; with rsLoRA (arXiv:2312.03732) that of rank 16."""
    if config.mode == "full":
        return 0.0, "mode full has no adapter"
    if config.rslora:
        return 8.0, "with rslora: strength 8 / √rank, which is 2 at rank 16"
    return 2.0 * config.lora_rank, "2 × rank"


def preference(config: TrainConfig, rows: Rows) -> dict[str, tuple[float, str]]:
    """The constants of a preference method, and why; 0 for those that it has not.

    KTO's weights bring desirable × their number to 1 to 4/3 of undesirable × theirs (arXiv:2402.01306, section 4.2),
    the smaller group being the one that is raised.
    """
    method = config.method
    beta = (BETAS[method], f"default for {method}") if method in BETAS else (0.0, f"{method} has none")
    gamma = (GAMMA, "default for simpo") if method == "simpo" else (0.0, f"{method} has none")
    if method != "kto":
        weights, reason = (0.0, 0.0), f"{method} has none"
    elif rows.desirable is None:
        weights, reason = (1.0, 1.0), "until the data are known"
    else:
        ratio = max(1, rows.desirable) / max(1, len(rows) - rows.desirable)
        weights = max(1.0, 1 / ratio), max(1.0, ratio * 3 / 4)
        reason = f"{rows.desirable} good and {len(rows) - rows.desirable} bad answers"
    good, bad = weights
    return {"beta": beta, "gamma": gamma, "desirable_weight": (good, reason), "undesirable_weight": (bad, reason)}


def learning_rate(model: Mapping[str, Any], config: TrainConfig) -> tuple[float, str]:
    """A good peak rate for LoRA with alpha / rank = 2, and why: narrow models want a higher one.

    All weights want a tenth of it, and preference methods what their papers found.

    5e-4 × (2000 / hidden size) ^ p, p fitted per family by Thinking Machines Lab over 14 models ("LoRA Without Regret",
    2025; exponents in tinker-cookbook's hyperparam_utils).
    """
    if config.method in RATES:
        return RATES[config.method], f"default for {config.method}"
    width = model.get("hidden_size") or model.get("text_config", {}).get("hidden_size")
    share, what = (0.1, ", a tenth of LoRA's") if config.mode == "full" else (1.0, "")
    if not width:
        return 2e-4 * share, f"a common value{what}; the model does not tell its width"
    exponent = 0.0775 if str(model.get("model_type", "")).startswith("qwen") else 0.781
    return float(f"{5e-4 * share * (2000 / width) ** exponent:.2g}"), f"for a model {width} wide{what}"


def _duration(config: TrainConfig, rows: int) -> tuple[int, int, dict[str, str]]:
    """Rows a step, the number of steps, and why."""
    why = {}
    kind = "packed rows" if config.packing else "pairs" if config.method in PAIRED else "examples"
    batch_size = config.batch_size or min(BATCH_SIZE, rows)
    if config.batch_size is None:
        why["batch_size"] = f"{BATCH_SIZE}, the default" if rows >= BATCH_SIZE else f"all {rows} {kind}"
    steps = config.steps or max(1, math.ceil(_epochs(config) * rows / batch_size))
    if config.steps is None:
        why["steps"] = f"{_epochs(config):g} epochs × {rows} {kind} ÷ {batch_size} a step"
    elif config.epochs is not None:
        why["steps"] = "as set; --steps wins over --epochs"
    return batch_size, steps, why


def _evaluation(config: TrainConfig, steps: int) -> dict[str, tuple[Any, str]]:
    """On what to evaluate, and when."""
    every = (max(1, steps // EVALUATIONS), f"steps ÷ {EVALUATIONS}")
    if config.eval_data is None and config.held_out is None:
        every = (0, "there is nothing to evaluate on")
    nothing = "nothing, the default"
    return {
        "eval_data": ("", nothing),
        "held_out": (0.0, nothing),
        "patience": (0, "never, the default"),
        "eval_every": every,
    }


def _epochs(config: TrainConfig) -> float:
    return EPOCHS if config.epochs is None else config.epochs
