"""What a setting becomes that was left open."""

import pytest

from bp_core.config import TrainConfig
from bp_plan.defaults import learning_rate
from bp_plan.recipe import resolve


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
    assert resolve(TrainConfig(), 20, "cpu", model).learning_rate == rate
    assert resolve(TrainConfig(learning_rate=1e-5), 20, "cpu", model).learning_rate == 1e-5
