"""Settings of training that do not go together."""

from __future__ import annotations

from .choices import LORA_RANKS, QUANTIZED, STARTS_IN_BASE, Method
from .settings import Clash


def _only_for(methods: tuple[Method, ...], name: str) -> Clash:
    text = f"{name} is a setting of method {' and '.join(methods)}"
    return Clash(("method",), lambda method: method not in methods, text, changed=name)


def _only_for_sft(name: str, what: str) -> Clash:
    text = f"{name} goes with method sft only: {what}"
    return Clash(("method",), lambda method: method != "sft", text, changed=name)


def _only_for_traces(name: str) -> Clash:
    text = f"{name} is set, but reasoning_trace is not"
    return Clash(("reasoning_trace",), lambda traces: not traces, text, changed=name)


def _only_for_adapters(name: str) -> Clash:
    text = f"{name} is a setting of adapters, which mode full has none of"
    return Clash(("mode",), lambda mode: mode == "full", text, changed=name)


def _not_with_unsloth(name: str) -> Clash:
    text = f"unsloth computes the model its own way, so {name} cannot be set"
    return Clash(("unsloth",), bool, text, changed=name)


CLASHES: list[Clash] = [
    _only_for(("orpo", "simpo", "kto"), "beta"),
    _only_for(("simpo",), "gamma"),
    _only_for(("kto",), "desirable_weight"),
    _only_for(("kto",), "undesirable_weight"),
    _only_for_sft("packing", "preferences are computed row by row"),
    _only_for_sft("train_on", "preferences are about the last answer"),
    _only_for_sft("reasoning_trace", "of two answers one may be short"),
    Clash(
        ("method", "mode"),
        lambda method, mode: method != "sft" and mode == "full",
        "preference methods (orpo, simpo, kto) train an adapter, not all weights: leave mode full out",
    ),
    Clash(
        ("method", "batch_size"),
        lambda method, size: method == "kto" and size == 1,
        "kto compares examples within a batch, so batch_size must be at least 2",
    ),
    *(_only_for_traces(name) for name in ("min_trace", "max_trace")),
    Clash(
        ("text_overlap", "length"),
        lambda overlap, length: overlap > length // 2,
        "text_overlap is more than half of max_length, so that texts would be read again and again",
    ),
    Clash(
        ("min_trace", "max_trace"),
        lambda low, high: low > high,
        "min_trace is above max_trace, so that no trace would be left",
    ),
    Clash(
        ("full_ft_offload", "optimizer"),
        lambda offloaded, optimizer: offloaded and optimizer not in (None, "adamw"),
        "full_ft_offload keeps the moments on the host, where optimizer must be adamw",
    ),
    Clash(
        ("full_ft_offload", "mode"),
        lambda offload, mode: offload and mode != "full",
        "full_ft_offload is for mode full; an adapter's base is frozen, and what is trained is small",
    ),
    *(
        Clash(
            ("shard", name),
            lambda shard, value, no=no: bool(shard) and no(value),
            f"shard shares out weights as they are trained or frozen, which {why}",
        )
        for name, no, why in (
            ("mode", lambda mode: mode in QUANTIZED, "modes qlora and lora-8bit keep in another form"),
            ("fp8", bool, "fp8 multiplies its own way"),
            ("unsloth", bool, "unsloth holds whole"),
        )
    ),
    Clash(
        ("shard", "mode", "optimizer"),
        lambda shard, mode, name: bool(shard) and mode == "full" and name not in (None, "adamw"),
        "shard with mode full shares out AdamW's moments too, so optimizer must be adamw",
    ),
    Clash(
        ("fp8", "mode"),
        lambda fp8, mode: fp8 and mode != "lora",
        "fp8 multiplies with frozen 16-bit weights, which only mode lora has: leave fp8 or the mode out",
    ),
    *(_not_with_unsloth(name) for name in ("attention", "liger", "fp8", "dora", "init")),
    Clash(
        ("unsloth", "mode"),
        lambda unsloth, mode: unsloth and mode not in ("lora", "qlora"),
        "unsloth goes with modes lora and qlora",
    ),
    Clash(
        ("attention", "dtype"),
        lambda attention, dtype: attention == "flash-attention-2" and dtype == "float32",
        "attention flash-attention-2 computes in 16 bits, so dtype cannot be float32",
    ),
    Clash(
        ("init", "mode"),
        lambda init, mode: mode in QUANTIZED and init in STARTS_IN_BASE and init != "loftq",
        "init takes its start from weights in full precision, which modes qlora and lora-8bit do not keep",
    ),
    Clash(
        ("init", "mode"),
        lambda init, mode: init == "loftq" and mode != "qlora",
        "init loftq makes up for what 4 bits lose, which only mode qlora does",
    ),
    *(_only_for_adapters(name) for name in ("rank", "alpha", "dropout", "rslora", "dora", "target_modules", "init")),
    Clash(
        ("eval_data", "held_out"),
        lambda file, share: None not in (file, share),
        "eval_data and held_out are both set: use one of them",
    ),
    *(
        Clash(
            (name, "eval_data", "held_out"),
            lambda wanted, file, share: wanted is not None and file is None and share is None,
            f"{name} is set, but there is nothing to evaluate on: give --eval-data FILE, or --held-out 0.05",
        )
        for name in ("eval_every", "patience")
    ),
    Clash(
        ("lora_preset", "rank"),
        lambda preset, rank: None not in (preset, rank) and LORA_RANKS[preset] != rank,
        "lora_preset and rank are both set, and the preset has another rank: leave one out",
    ),
    Clash(
        ("init", "rank", "lora_rank"),
        lambda init, _, rank: init == "orthogonal" and rank % 2 == 1,
        "init orthogonal splits the rank in two halves, so it must be even",
    ),
    Clash(
        ("init", "dora"),
        lambda init, dora: dora and init in STARTS_IN_BASE,
        "dora measures the length of the whole weight rows, so init must leave the base as it is (default, orthogonal)",
    ),
]
