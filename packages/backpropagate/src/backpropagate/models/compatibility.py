"""What a base's files tell before anything is loaded, and which settings cannot go with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_core.backends import find
from bp_core.choices import AUTO_MODES, STARTS_IN_BASE
from bp_core.config import ALL_LINEAR, FULL_LIMIT, OFFLOAD_LIMIT, TrainConfig
from bp_core.errors import BadValue, ModelTooLarge, ModelUnusable
from bp_data import ChatTokenizer
from bp_export.weights.merged_weights import open_base
from bp_export.weights.mlx import is_quantized
from bp_export.weights.tying import says_tied
from bp_plan.architecture import architecture
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB, most_parameters
from bp_plan.micro_batch import memory_setup
from bp_plan.presets import PRESETS
from bp_plan.rows import DeviceInfo

from . import locate

_HEADS = ("lm_head", "embed_out", "output")
_EMBEDDINGS = ("embed", "wte", "wpe")


def refuse_misfits(config: TrainConfig, base: Path, *, weights: bool = True) -> None:
    """Raise BadValue that lists every setting that this base cannot be trained with.

    Raises ModelTooLarge for mode full. Without `weights` they need not be here; what only they tell is then not looked
    at.
    """
    if not weights and not any(base.glob("*.safetensors")):
        return
    refused = too_large(config, parameters(base)) if config.mode == "full" else ""
    if refused:
        raise ModelTooLarge(f"{refused}{_ceiling(config)}.", where=str(base), fix=_smaller())
    problems = list(_misfits(config, base))
    if problems:
        raise BadValue("; ".join(problems) + ".")


def refuse_by_size(config: TrainConfig) -> None:
    """Raise ModelTooLarge for mode full by what a preset or config.json says, before gigabytes are fetched."""
    if config.mode != "full":
        return
    shape = architecture(locate.shape(config.model)[0])
    if shape and (told := too_large(config, shape.parameters)):
        raise ModelTooLarge(f"{told}{_ceiling(config)}.", where=config.model, fix=_smaller())


def refuse_unknown_tokens(base: Path, tokenizer: ChatTokenizer, tokens: Any) -> None:
    """Raise ModelUnusable if the tokenizer writes tokens, int32 [total], that the model has no embeddings for."""
    model = locate.description(base)
    size = model.get("vocab_size") or (model.get("text_config") or {}).get("vocab_size")
    largest = int(tokens.max(initial=0))
    if not isinstance(size, int) or largest < size:
        return
    token = tokenizer.decode([largest])
    raise ModelUnusable(
        f"its tokenizer writes token {largest} ({token!r}), but it has embeddings for {size} only.",
        where=str(base),
        fix="Use the tokenizer that belongs to these weights: tokenizer.json and chat template of the same model.",
    )


def parameters(base: Path) -> int:
    """How many numbers the weights are. Raises ModelUnusable."""
    weights = open_base(base)
    return sum(math.prod(weights.shape(name)) for name in weights.names())


def refuse_quantised(config: TrainConfig, base: Path) -> None:
    """Raise ModelUnusable for weights that are stored in few bits, by config.json alone."""
    description = locate.description(base)
    if is_quantized(description):
        if config.backend != "mlx" or config.mode not in ("auto", *AUTO_MODES):
            raise ModelUnusable(
                f"its weights are stored in MLX's {description['quantization']['bits']} bits.",
                where=str(base),
                fix="Train an adapter on it with --backend mlx, or name the original model with 16-bit weights.",
            )
    elif stored := description.get("quantization_config"):
        kind = stored.get("quant_method", "some format")
        raise ModelUnusable(
            f"its weights are stored quantised ({kind}), so nothing that is trained can be merged into them.",
            where=str(base),
            fix="Name the original model with 16-bit weights; --mode qlora quantises it as it is loaded.",
        )


def too_large(config: TrainConfig, count: int) -> str:
    """Why mode full refuses a model of so many parameters; "" if it does not."""
    most, how = (OFFLOAD_LIMIT, " with full_ft_offload") if config.full_ft_offload else (FULL_LIMIT, "")
    if config.mode != "full" or count <= most:
        return ""
    return f"the model has {count / 1e9:.1f} billion parameters; mode full trains up to {most / 1e9:g} billion{how}"


def _ceiling(config: TrainConfig) -> str:
    """What the memory of this machine would hold, where that is known."""
    probe = find(config.backend).probe()
    if config.full_ft_offload or not probe.free or config.backend not in ("cuda", "cpu"):
        return ""
    machine = for_machine(config, DeviceInfo.of(config.backend, probe))
    most = most_parameters(memory_setup(machine.config, machine.device), probe.free)
    return f", and the {probe.free / GIB:.1f} GiB free here would hold about {most / 1e9:.1f} billion"


def _smaller() -> str:
    known = {name: architecture(preset.config) for name, preset in PRESETS.items()}
    names = [name for name, shape in known.items() if shape and shape.known and shape.parameters <= FULL_LIMIT]
    return (
        f"Train an adapter (--mode lora), a smaller model ({', '.join(names)}), or up to {OFFLOAD_LIMIT / 1e9:g} "
        "billion parameters with --full-ft-offload."
    )


def _misfits(config: TrainConfig, base: Path) -> Iterator[str]:
    if config.mode == "full":
        return
    layers = _linear(base)
    body = [module for module in layers if _last(module) not in _HEADS]
    wanted = [name.strip() for name in config.target_modules.split(",")]
    if config.target_modules == ALL_LINEAR:
        targets = body
    else:
        endings = tuple(f".{name}" for name in wanted)
        targets = [module for module in layers if f".{module}".endswith(endings)]
        yield from _unknown(wanted, layers, base)
    smallest = {module: min(layers[module]) for module in sorted(targets)}  # of equals the same one is always named
    if not smallest:
        return
    # Any layer that is narrower than the rank has no such part to start from; otherwise one that uses it is enough.
    decides = min if config.init in STARTS_IN_BASE else max
    module = decides(smallest, key=smallest.__getitem__)
    room = smallest[module]
    if config.lora_rank > room:
        yield f"rank is {config.lora_rank}, but {_last(module)} is {' × '.join(map(str, layers[module]))}"


def _unknown(wanted: list[str], layers: dict[str, tuple[int, ...]], base: Path) -> Iterator[str]:
    known = sorted({_last(module) for module in layers})
    for name in wanted:
        if not name or not any(f".{module}".endswith(f".{name}") for module in layers):
            yield f"target_modules names {name!r}, but the linear layers of this model are {', '.join(known)}"
    if says_tied(locate.description(base)) and any(_last(name) in _HEADS for name in wanted):
        yield "target_modules names the head, whose weights this model also uses as embeddings"


def _linear(base: Path) -> dict[str, tuple[int, ...]]:
    """The linear layers with the shapes of their weights."""
    weights = open_base(base)
    layers: dict[str, tuple[int, ...]] = {}
    for name in weights.names():
        module, shape = name.removesuffix(".weight"), weights.shape(name)
        embeds = any(word in _last(module) for word in _EMBEDDINGS)
        if module != name and len(shape) == 2 and not embeds:
            layers[module] = shape
    return layers


def _last(module: str) -> str:
    return module.rpartition(".")[2]
