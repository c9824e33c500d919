"""Models by name: near misses, licences, what is untested, and code that comes with a model."""

import json
import shutil

import pytest

from backpropagate.models import locate
from bp_core.errors import ModelNotFound, ModelUnusable
from bp_core.rail import Job
from bp_cuda.rail import CpuRail


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
