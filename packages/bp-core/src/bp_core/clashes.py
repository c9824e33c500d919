"""Settings of training that do not go together."""

from __future__ import annotations

from .choices import AUTO_MODES, LORA_RANKS, QUANTIZED, STARTS_IN_BASE
from .settings import Clash, only_where

_SFT = ("sft",)
_WITH_ADAPTER = ("auto", "lora", *QUANTIZED, None)
_ADAPTERS = ("rank", "alpha", "dropout", "rslora", "dora", "target_modules", "init")

CLASHES: list[Clash] = [
    *only_where("method", ("orpo", "simpo", "kto"), "{} is a setting of method orpo and simpo and kto", "beta"),
    *only_where("method", ("simpo",), "{} is a setting of method simpo", "gamma"),
    *only_where("method", ("kto",), "{} is a setting of method kto", "desirable_weight", "undesirable_weight"),
    *only_where("method", _SFT, "{} goes with method sft only: preferences are computed row by row", "packing"),
    *only_where("method", _SFT, "{} goes with method sft only: preferences are about the last answer", "train_on"),
    *only_where("method", _SFT, "{} goes with method sft only: of two answers one may be short", "reasoning_trace"),
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
    *only_where("reasoning_trace", (True,), "{} is set, but reasoning_trace is not", "min_trace", "max_trace"),
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
        lambda fp8, mode: fp8 and mode not in ("auto", "lora"),
        "fp8 multiplies with frozen 16-bit weights, which only mode lora has: leave fp8 or the mode out",
    ),
    *only_where(
        "unsloth",
        (False, None),
        "unsloth computes the model its own way, so {} cannot be set",
        *("attention", "liger", "fp8", "dora", "init"),
    ),
    Clash(
        ("unsloth", "mode"),
        lambda unsloth, mode: unsloth and mode not in ("auto", *AUTO_MODES),
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
        lambda init, mode: init == "loftq" and mode not in ("auto", "qlora"),
        "init loftq makes up for what 4 bits lose, which only mode qlora does",
    ),
    *only_where("mode", _WITH_ADAPTER, "{} is a setting of adapters, which mode full has none of", *_ADAPTERS),
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
