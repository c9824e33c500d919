"""Models by name: near misses, licences, what is untested."""

import pytest

from backpropagate.models import locate
from bp_core.errors import ModelNotFound
from bp_plan.presets import PRESETS


@pytest.mark.parametrize(
    ("name", "near"), [("qwen2.5-7", "qwen2.5-7b"), ("Mistral_7B", "mistral-7b"), ("smolm2-135m", "smollm2-135m")]
)
def test_a_misspelt_preset_is_answered_with_the_near_one(name, near):
    with pytest.raises(ModelNotFound, match=f"did you mean '{near}'"):
        locate.locate(name, lambda progress: None)


def test_a_licence_that_restricts_is_told_by_preset_and_by_hub_id():
    for name in ("qwen2.5-3b", "Qwen/Qwen2.5-3B-Instruct"):
        (remark,) = locate.remarks(name, PRESETS["qwen2.5-3b"].config)
        assert "no commercial use" in remark
    assert locate.remarks("qwen2.5-7b", PRESETS["qwen2.5-7b"].config) == []


def test_other_models_are_called_untested():
    (remark,) = locate.remarks("somebody/some-llama", PRESETS["llama-3.1-8b"].config)
    assert "somebody/some-llama is untested" in remark
    (remark,) = locate.remarks("/a/folder", {"model_type": "mamba"})
    assert "mamba" in remark and "untested" in remark
    assert locate.remarks("/a/folder", PRESETS["llama-3.1-8b"].config) == []
