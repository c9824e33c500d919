"""The golden table: what is resolved for each method, mode, rank and preset, on a card with 24 GiB free."""

from typing import get_args

import pytest

from bp_core.choices import Method, Mode
from bp_core.config import TrainConfig
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, full_rows

ROOM = DeviceInfo("cuda", 24 * GIB, "bfloat16")
COLUMNS = ("learning_rate", "rank", "alpha", "max_length", "dtype", "micro_batch", "activation_checkpointing")
GOLDEN = {
    # method, mode, preset, rank by name: as COLUMNS
    ("sft", "lora", "smollm2-135m", "-"): (0.0013, 16, 32.0, 2048, "bfloat16", 8, False),
    ("sft", "lora", "smollm2-135m", "fast"): (0.0013, 16, 32.0, 2048, "bfloat16", 8, False),
    ("sft", "lora", "smollm2-135m", "balanced"): (0.0013, 32, 64.0, 2048, "bfloat16", 8, False),
    ("sft", "lora", "smollm2-135m", "quality"): (0.0013, 256, 512.0, 2048, "bfloat16", 8, False),
    ("sft", "lora", "llama-3.2-1b", "-"): (0.00049, 16, 32.0, 2048, "bfloat16", 8, False),
    ("sft", "lora", "smollm3-3b", "-"): (0.00049, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "lora", "qwen2.5-3b", "-"): (0.0005, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "lora", "llama-3.2-3b", "-"): (0.00036, 16, 32.0, 2048, "bfloat16", 4, False),
    ("sft", "lora", "phi-4-mini-3.8b", "-"): (0.00036, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "lora", "qwen3.5-4b", "-"): (0.00049, 16, 32.0, 2048, "bfloat16", 8, True),
    ("sft", "lora", "mistral-7b", "-"): (0.00029, 16, 32.0, 2048, "bfloat16", 1, False),
    ("sft", "lora", "qwen2.5-7b", "-"): (0.00048, 16, 32.0, 2048, "bfloat16", 1, False),
    ("sft", "lora", "qwen2.5-7b", "fast"): (0.00048, 16, 32.0, 2048, "bfloat16", 1, False),
    ("sft", "lora", "qwen2.5-7b", "balanced"): (0.00048, 32, 64.0, 2048, "bfloat16", 1, False),
    ("sft", "lora", "qwen2.5-7b", "quality"): (0.00048, 256, 512.0, 2048, "bfloat16", 1, True),
    ("sft", "lora", "llama-3.1-8b", "-"): (0.00029, 16, 32.0, 2048, "bfloat16", 1, False),
    ("sft", "lora", "qwen2.5-14b", "-"): (0.00046, 16, 32.0, 2048, "bfloat16", 1, True),
    ("sft", "lora", "mistral-small-24b", "-"): (0.00024, 16, 32.0, 2048, "bfloat16", 1, True),
    ("sft", "lora", "qwen2.5-32b", "-"): (0.00046, 16, 32.0, 2048, "bfloat16", 1, True),
    ("sft", "qlora", "llama-3.2-1b", "-"): (0.00049, 16, 32.0, 2048, "bfloat16", 8, False),
    ("sft", "qlora", "qwen2.5-7b", "-"): (0.00048, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "qlora", "llama-3.1-8b", "-"): (0.00029, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "qlora", "qwen2.5-14b", "-"): (0.00046, 16, 32.0, 2048, "bfloat16", 1, False),
    ("sft", "qlora", "qwen2.5-32b", "-"): (0.00046, 16, 32.0, 2048, "bfloat16", 1, True),
    ("sft", "lora-8bit", "llama-3.2-1b", "-"): (0.00049, 16, 32.0, 2048, "bfloat16", 8, False),
    ("sft", "lora-8bit", "qwen2.5-7b", "-"): (0.00048, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "lora-8bit", "llama-3.1-8b", "-"): (0.00029, 16, 32.0, 2048, "bfloat16", 2, False),
    ("sft", "lora-8bit", "qwen2.5-14b", "-"): (0.00046, 16, 32.0, 2048, "bfloat16", 4, True),
    ("sft", "lora-8bit", "qwen2.5-32b", "-"): (0.00046, 16, 32.0, 2048, "bfloat16", 1, True),
    ("sft", "qlora", "qwen2.5-7b", "quality"): (0.00048, 256, 512.0, 2048, "bfloat16", 1, False),
    ("sft", "full", "smollm2-135m", "-"): (0.00013, 16, 0.0, 2048, "auto", 8, False),
    ("sft", "full", "llama-3.2-1b", "-"): (4.9e-05, 16, 0.0, 2048, "auto", 2, False),
    ("sft", "full", "smollm3-3b", "-"): (4.9e-05, 16, 0.0, 2048, "auto", 1, True),
    ("sft", "full", "phi-4-mini-3.8b", "-"): (3.6e-05, 16, 0.0, 2048, "auto", 1, True),
    ("orpo", "lora", "llama-3.2-1b", "-"): (8e-06, 16, 32.0, 2048, "bfloat16", 8, False),
    ("orpo", "qlora", "qwen2.5-7b", "-"): (8e-06, 16, 32.0, 2048, "bfloat16", 2, False),
    ("simpo", "lora", "llama-3.2-1b", "-"): (1e-06, 16, 32.0, 2048, "bfloat16", 8, False),
    ("simpo", "qlora", "qwen2.5-7b", "-"): (1e-06, 16, 32.0, 2048, "bfloat16", 2, False),
    ("kto", "lora", "llama-3.2-1b", "-"): (1e-06, 16, 32.0, 2048, "bfloat16", 8, False),
    ("kto", "qlora", "qwen2.5-7b", "-"): (1e-06, 16, 32.0, 2048, "bfloat16", 2, False),
}


def resolved(preset, lora_preset=None, **settings):
    config = TrainConfig(model=preset, lora_preset=lora_preset, **settings)
    return resolve(for_machine(config, ROOM), full_rows(100, config.length), PRESETS[preset].config)[0]


@pytest.mark.parametrize("row", GOLDEN, ids=" ".join)
def test_what_is_resolved_is_pinned(row):
    method, mode, preset, name = row
    recipe = resolved(preset, None if name == "-" else name, method=method, mode=mode)
    assert tuple(getattr(recipe, column) for column in COLUMNS) == GOLDEN[row]
    assert recipe.batch_size == 8  # so a step accumulates 8 ÷ micro_batch times
    of_all_weights = "host-adamw-8bit" if preset == "phi-4-mini-3.8b" else "paged-adamw-8bit"
    assert recipe.optimizer == (of_all_weights if mode == "full" else "adamw")


def test_every_computed_value_says_why():
    recipe = resolved("qwen2.5-7b", "quality")
    assert recipe.why["rank"] == "quality, by name"
    for name in ("learning_rate", "alpha", "micro_batch", "activation_checkpointing", "dtype", "batch_size", "steps"):
        assert recipe.why[name]
    assert recipe.why["dtype"].startswith("auto")
    set_by_user = resolved("qwen2.5-7b", rank=8, micro_batch=1, activation_checkpointing=True, dtype="float32")
    assert not {"rank", "micro_batch", "activation_checkpointing", "dtype"} & set_by_user.why.keys()


def test_moments_are_kept_in_8_bits_where_all_weights_are_trained_on_a_card():
    found = resolved("llama-3.2-1b", mode="full")
    assert found.optimizer == "paged-adamw-8bit" and "moments" in found.why["optimizer"]
    host = for_machine(TrainConfig(mode="full"), DeviceInfo("cpu", None, "auto"))
    on_host, _ = resolve(host, 10, PRESETS["llama-3.2-1b"].config)
    assert on_host.optimizer == resolved("llama-3.2-1b").optimizer == "adamw"
    assert on_host.why["optimizer"] == "the default"
    as_set = resolved("llama-3.2-1b", mode="full", optimizer="adamw")
    assert as_set.optimizer == "adamw" and "optimizer" not in as_set.why


def test_every_preset_method_and_mode_is_in_the_table():
    methods, modes, presets, _ = map(set, zip(*GOLDEN, strict=True))
    assert (methods, modes, presets) == (set(get_args(Method)), set(get_args(Mode)), PRESETS.keys())
