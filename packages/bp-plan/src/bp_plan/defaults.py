"""Defaults for settings that the user left open: one rule each, with its reason."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bp_core import backends
from bp_core.choices import PAGED, PAIRED, Method, ModeSetting, Optimizer
from bp_core.config import BATCH_SIZE, BETAS, EPOCHS, EVALUATIONS, GAMMA, RATES, TrainConfig
from bp_core.process_group import launch_env

from .rows import DeviceInfo, RowSizes


@dataclass(frozen=True)
class MachineSettings:
    """Settings in which everything that depends only on the machine is decided; `why` has the reasons."""

    config: TrainConfig
    device: DeviceInfo
    why: Mapping[str, str]


def for_machine(config: TrainConfig, device: DeviceInfo) -> MachineSettings:
    """Decide backend, shard and optimizer. Raises BadValue for settings that clash with them."""
    why = {}
    if config.backend == "auto":
        why["backend"] = f"auto: the first of {', '.join(backends.PREFERRED)} that runs here"
    if config.dtype != "auto":
        device = replace(device, dtype=config.dtype)
    settled = replace(config, backend=device.backend)
    if config.shard is None:
        shard, why["shard"] = sharding()
        settled = replace(settled, shard=shard)
    if config.optimizer is None:
        name, why["optimizer"] = optimizer(settled)
        settled = replace(settled, optimizer=name)
    return MachineSettings(settled, device, why)


def sharding() -> tuple[bool, str]:
    """Whether weights are sharded over processes, and why: accelerate's launcher can ask for it."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true") and launch_env().size > 1:
        return True, "accelerate was launched with --use_fsdp"
    return False, "the default"


def optimizer(config: TrainConfig) -> tuple[Optimizer, str]:
    """The optimizer, and why. Moments of an adapter are small; those of all weights are not."""
    if config.full_ft_offload:
        return "adamw", "full_ft_offload keeps the moments on the host"
    if config.mode == "full" and config.shard:
        return "adamw", "shard: every process has a share of the moments"
    if config.mode == "full" and config.backend == "cuda":
        return PAGED, "mode full on a card: moments in 8 bits, which may move to the host"
    return "adamw", "the default"


def dtype(mode: ModeSetting, device: DeviceInfo) -> tuple[str, str]:
    """The dtype that "auto" stands for, and why."""
    if mode == "full":
        return "auto", "auto: trained weights in float32 on the host, in bfloat16 on a card"
    return device.dtype, "the default" if device.dtype == "auto" else "auto: what this device multiplies fast"


def kernels(device: DeviceInfo) -> dict[str, tuple[str | None, str]]:
    """What stays open until the model is on a card, and why: only there it shows what gives the same."""
    if device.backend != "cuda":
        return {}
    tried = "tried when the model is open, and told: the first that gives the same"
    return {
        "attention": ("auto", f"{tried} of torch's for several lengths, flash-attn if installed, sdpa"),
        "liger": (None, f"{tried} of Liger's if installed, PyTorch's; not where layers are computed in groups"),
    }


def alpha(config: TrainConfig) -> tuple[float, str]:
    """LoRA's alpha, and why: scale 2, the common choice; with rsLoRA (arXiv:2312.03732) scale 2 at rank 16."""
    if config.mode == "full":
        return 0.0, "mode full has no adapter"
    if config.rslora:
        return 8.0, "with rslora: strength 8 / √rank, which is 2 at rank 16"
    return 2.0 * config.lora_rank, "2 × rank"


def preference(method: Method, rows: RowSizes) -> dict[str, tuple[float, str]]:
    """The constants of a preference method, and why; 0 where the method has none.

    KTO wants desirable_weight × good answers between 1 and 4/3 of undesirable_weight × bad answers (arXiv:2402.01306,
    section 4.2). The weight of the smaller group is raised until that holds.
    """
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
    """The peak learning rate, and why.

    LoRA with alpha / rank = 2: 5e-4 × (2000 / hidden size) ^ p, with p fitted per family over 14 models by Thinking
    Machines Lab ("LoRA Without Regret", 2025; exponents in tinker-cookbook's hyperparam_utils). Full fine-tuning takes
    a tenth of that, preference methods the rate of their papers.
    """
    if config.method in RATES:
        return RATES[config.method], f"default for {config.method}"
    width = model.get("hidden_size") or model.get("text_config", {}).get("hidden_size")
    share, what = (0.1, ", a tenth of LoRA's") if config.mode == "full" else (1.0, "")
    if not width:
        return 2e-4 * share, f"a common value{what}; the model's config.json does not say its hidden size"
    exponent = 0.0775 if str(model.get("model_type", "")).startswith("qwen") else 0.781
    return float(f"{5e-4 * share * (2000 / width) ** exponent:.2g}"), f"for a model {width} wide{what}"


def duration(config: TrainConfig, rows: int) -> tuple[int, int, dict[str, str]]:
    """Rows per step, the number of steps, and why."""
    why = {}
    kind = "pairs" if config.method in PAIRED else "examples"
    if config.packing:
        kind = "packed rows"
    batch_size = min(config.batch_size or BATCH_SIZE, rows)
    if config.batch_size is not None and config.batch_size > rows:
        why["batch_size"] = f"all {rows} {kind}; {config.batch_size} were set"
    if config.batch_size is None:
        why["batch_size"] = f"{BATCH_SIZE}, the default" if rows >= BATCH_SIZE else f"all {rows} {kind}"
    steps = config.steps or max(1, math.ceil(_epochs(config) * rows / batch_size))
    if config.steps is None:
        why["steps"] = f"{_epochs(config):g} epochs × {rows} {kind} ÷ {batch_size} a step"
    elif config.epochs is not None:
        why["steps"] = "as set; --steps wins over --epochs"
    return batch_size, steps, why


def evaluation(steps: int, *, has_rows: bool) -> dict[str, tuple[Any, str]]:
    """What to evaluate on, and how often, with reasons. `has_rows`: there is something to evaluate on."""
    every = (max(1, steps // EVALUATIONS), f"steps ÷ {EVALUATIONS}")
    if not has_rows:
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
