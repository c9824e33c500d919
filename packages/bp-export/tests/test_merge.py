import json
import shutil

import numpy as np
import pytest
import torch
from last_bits import assert_rounded, rounding_gap
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bp_core import folders
from bp_core.adapter_config import CONFIG, WEIGHTS
from bp_core.errors import AdapterUnusable, ModelUnusable, OutputUnusable
from bp_core.model_files import read_json
from bp_export import write_merged
from bp_export.weights import adapter as lora
from bp_export.weights import merge
from bp_export.weights.merge import MergedWeights

PATTERNS = dict(rank_pattern={"q_proj": 4}, alpha_pattern={"layers.1.mlp.down_proj": 32})


def merged_by_peft(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def assert_merged_as_peft_does(model, base, adapter):
    """Every weight of a merged model, in the format that it is kept in, against PEFT's sums in float32."""
    truth, changes = merged_by_peft(base, adapter), lora.read(adapter)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    for name, value in model.state_dict().items():
        gap = torch.zeros(1)
        if name in changes:
            delta = changes[name]
            added = delta.scale * np.abs(delta.b) @ np.abs(delta.a)
            gap = rounding_gap(plain[name].abs() + torch.from_numpy(added), len(delta.a))
        assert_rounded(value, truth[name], gap, name)


RSLORA, DORA = {"use_rslora": True}, {"use_dora": True}


@pytest.mark.parametrize("options", [{}, RSLORA, DORA, PATTERNS, PATTERNS | RSLORA | DORA])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_merges_as_peft_does(options, family, request, tmp_path, helpers):
    base = request.getfixturevalue(f"tiny_{family}")
    adapter = helpers.save_adapter(base, tmp_path / "lora", **options)
    if "use_dora" in options:  # as if the lengths had been trained too
        set_weights(adapter, lambda t: t.update({k: v * 1.3 for k, v in t.items() if k.endswith("magnitude_vector")}))
    ours, theirs = MergedWeights(base, lora.read(adapter)), merged_by_peft(base, adapter)
    for name in ours.names():
        assert np.abs(ours.array(name).astype(np.float32) - theirs[name].numpy()).max() <= 1e-6, name


def test_modules_trained_whole_replace_those_of_the_base(tmp_path, tiny_llama, helpers):
    adapter = helpers.save_adapter(tiny_llama, tmp_path / "lora", modules_to_save=["norm", "lm_head"])
    set_weights(adapter, lambda t: t.update({k: v * 1.5 for k, v in t.items() if "lora_" not in k}))
    ours, theirs = MergedWeights(tiny_llama, lora.read(adapter)), merged_by_peft(tiny_llama, adapter)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).state_dict()
    for name in ("model.norm.weight", "lm_head.weight"):
        assert np.abs(ours.array(name) - theirs[name].numpy()).max() <= 1e-6
        assert np.abs(ours.array(name) - base[name].numpy()).max() > 1e-3


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_merged_folder_is_a_complete_model(kind, request, tmp_path):
    base, adapter = request.getfixturevalue(f"tiny_{kind}"), request.getfixturevalue(f"{kind}_adapter")
    seen = []
    write_merged(adapter, base, tmp_path / "out", seen.append)
    assert seen[-1].done == seen[-1].total > 20
    assert folders.damage(tmp_path / "out") is None
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == AutoModelForCausalLM.from_pretrained(base).dtype
    assert_merged_as_peft_does(model, base, adapter)


def test_large_models_are_written_in_shards(tmp_path, monkeypatch, tiny_llama, llama_adapter):
    monkeypatch.setattr(merge, "SHARD_BYTES", 26_000_000)
    write_merged(llama_adapter, tiny_llama, tmp_path / "out")
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == 3
    assert shards[0] == "model-00001-of-00003.safetensors"
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_merged_as_peft_does(whole, tiny_llama, llama_adapter)
    monkeypatch.undo()
    write_merged(llama_adapter, tmp_path / "out", tmp_path / "again")  # and shards are read


def test_the_contract_template_replaces_another(tmp_path, tiny_llama, llama_adapter):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    settings = read_json(base / "tokenizer_config.json")
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "other"}), encoding="utf-8")
    write_merged(llama_adapter, base, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == settings["chat_template"]


def test_a_name_in_use_is_left_alone(tmp_path, tiny_llama, llama_adapter):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputUnusable):
        write_merged(llama_adapter, tiny_llama, tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


@pytest.fixture
def copy(tmp_path, llama_adapter):
    return shutil.copytree(llama_adapter, tmp_path / "lora")


def set_config(folder, **values):
    path = folder / CONFIG
    path.write_text(json.dumps(read_json(path) | values), encoding="utf-8")


def set_weights(folder, change):
    path = folder / WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)


REFUSED = {
    "dora without lengths": {"use_dora": True},
    "lora bias": {"lora_bias": True},
    "pissa": {"init_lora_weights": "pissa"},
    "parameters": {"target_parameters": ["experts.w1"]},
    "a setting of tomorrow": {"use_hyperlora": True},
    "another kind": {"peft_type": "IA3"},
    "rank": {"r": 4},
    "rank of one": {"rank_pattern": {"layers.0.self_attn.q_proj": 3}},
    "transposed": {"fan_in_fan_out": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_merged_exactly(name, copy):
    set_config(copy, **REFUSED[name])
    with pytest.raises(AdapterUnusable):
        lora.read(copy)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
CHANGES = {
    "a magnitude vector": lambda t: t.update({KEY.replace("lora_A.weight", "lora_magnitude_vector"): t[KEY][0]}),
    "a module that the settings do not name": lambda t: t.update({"base_model.model.lm_head.weight": t[KEY]}),
    "an embedding": lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": t[KEY]}),
    "half a pair": lambda t: t.pop(KEY),
    "not a number": lambda t: t[KEY].fill(np.nan),
    "nothing": lambda t: t.clear(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_are_not_plain_lora(name, copy):
    set_weights(copy, CHANGES[name])
    with pytest.raises(AdapterUnusable):
        lora.read(copy)


def test_an_adapter_for_another_model(copy, tiny_llama, smol):
    with pytest.raises(AdapterUnusable, match="in the base model"):
        MergedWeights(smol, lora.read(copy))
    set_weights(copy, lambda t: [t.update({k.replace("layers.0", "layers.9"): t.pop(k)}) for k in list(t)[:1]])
    set_weights(copy, lambda t: [t.pop(k) for k in list(t) if "layers.9" not in k and "layers.0.mlp.down" not in k])
    with pytest.raises(AdapterUnusable, match=r"it needs lora_A|does not have"):
        MergedWeights(tiny_llama, lora.read(copy))


def test_damaged_and_missing_adapters(copy, tmp_path):
    with pytest.raises(AdapterUnusable, match="missing"):
        lora.read(tmp_path / "nowhere")
    folders.write_manifest(copy)
    lora.read(copy)
    set_weights(copy, lambda tensors: tensors[KEY].fill(0))
    with pytest.raises(AdapterUnusable, match="altered"):
        lora.read(copy)


def test_quantised_base_weights_are_refused(tmp_path, llama_adapter):
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 4), np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnusable, match="int8"):
        merge.open_base(tmp_path)
