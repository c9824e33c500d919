"""What a setting becomes that was left open."""

import pytest

from bp_core.config import TrainConfig
from bp_plan.defaults import for_machine, learning_rate
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ({"model_type": "llama", "hidden_size": 576}, 1.3e-3),
        ({"model_type": "llama", "hidden_size": 4096}, 2.9e-4),
        ({"model_type": "qwen2", "hidden_size": 3584}, 4.8e-4),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 2560}}, 4.1e-4),
        ({}, 2e-4),
    ],
)
def test_the_learning_rate_follows_the_width_of_the_model(model, rate):
    assert learning_rate(model, TrainConfig())[0] == rate
    for config, resolved in ((TrainConfig(), rate), (TrainConfig(learning_rate=1e-5), 1e-5)):
        recipe, _ = resolve(for_machine(config, DeviceInfo("cpu", None, "auto")), 20, model)
        assert recipe.learning_rate == resolved


def test_what_the_machine_decides_is_decided_once_and_explained():
    config = TrainConfig(mode="full")
    card = for_machine(config, DeviceInfo("cuda", None, "bfloat16"))
    assert (card.config.backend, card.config.optimizer, card.config.shard) == ("cuda", "paged-adamw-8bit", False)
    assert set(card.why) == {"backend", "optimizer", "shard"} and "auto" in card.why["backend"]
    recipe, step = resolve(card, 20, PRESETS["llama-3.2-1b"].config)
    assert {name: recipe.why[name] for name in card.why} == dict(card.why)
    assert step.setup.optimizer == recipe.optimizer and step.model.parameters > 10**9
    as_set = for_machine(TrainConfig(mode="full", backend="cuda", optimizer="adamw", shard=False), card.device)
    assert as_set.why == {} and as_set.config.optimizer == "adamw"
    assert for_machine(TrainConfig(dtype="float32"), card.device).device.dtype == "float32"
