"""Models by name: near misses, licences, what is untested, and code that comes with a model."""

import json
import shutil

import pytest

from backpropagate.models import locate
from bp_core.errors import ModelNotFound, ModelUnusable
from bp_core.rail import Job
from bp_cuda.rail import CpuRail
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


def test_a_presets_shape_needs_no_network():
    config, name, where = locate.shape("qwen2.5-7b")
    assert config["hidden_size"] == 3584 and name == "Qwen/Qwen2.5-7B-Instruct" and where
    assert locate.shape("smollm2-135m")[2] is None


def test_a_folders_shape_is_its_own(tiny_llama, tmp_path):
    assert locate.shape(str(tiny_llama))[0]["hidden_size"] == 256
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        locate.shape(str(tmp_path))


def test_code_that_comes_with_a_model_is_not_run(tiny_llama, tmp_path):
    folder, trace = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    code = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nfrom transformers import LlamaConfig as Mine\n"
    (folder / "mine.py").write_text(code + "from transformers import LlamaForCausalLM as Model\n")
    with pytest.raises(ModelUnusable, match="custom code"):
        CpuRail().open(Job(folder))
    assert not trace.exists()
