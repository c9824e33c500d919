"""Models by short name."""

from bp_core.config import TrainConfig
from bp_plan.presets import PRESETS, suggestion


def test_the_presets_are_these():
    assert set(PRESETS) == {
        "smollm2-135m", "llama-3.2-1b", "smollm3-3b", "qwen2.5-3b", "llama-3.2-3b", "phi-4-mini-3.8b", "qwen3.5-4b",
        "mistral-7b", "qwen2.5-7b", "llama-3.1-8b", "qwen2.5-14b", "mistral-small-24b", "qwen2.5-32b",
    }  # fmt: skip
    assert TrainConfig.model in PRESETS
    assert all(preset.licence and "/" in preset.hub_id for preset in PRESETS.values())


def test_a_name_that_is_near_nothing_is_answered_with_all():
    assert all(name in suggestion("zzz") for name in PRESETS)
