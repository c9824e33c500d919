"""Every family against llama.cpp's own converter (reference.json, made by reference.py) and against transformers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_families
import torch
from reference import summary
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from bp_core.errors import UnsupportedArchitecture
from bp_export import Engine, TrainedModel, prove
from bp_export.gguf import architectures, vocabulary
from bp_export.gguf.convert import Converter
from bp_export.gguf.metadata import gguf_facts
from bp_export.proof.corpus import TEXTS
from bp_export.weights.merge import open_base, trained_weights

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
TOKENS = [int(number) for number in np.random.default_rng(0).integers(300, 480, 100)]
# The last bit of float32 may differ: numpy's exp and pow are not torch's.
ROUNDED = ("rope_freqs.weight", "ssm_a")
# Ours says these always, the reference only where it is not what llama.cpp assumes anyway.
ALWAYS = {"add_bos_token", "add_eos_token", "add_space_prefix", "key_length", "value_length", "dimension_count"} | {
    "vocab_size",
    "freq_base",
}
BARE = [name for name, tiny in tiny_families.FAMILIES.items() if not tiny.inside and "untied" not in name]
# What the reference makes of the name of a folder.
NAMES = tuple(f"general.{word}" for word in ("name", "size_label", "finetune", "basename", "version", "tags"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders = {}

    def make(name):
        if name not in folders:
            folders[name] = tiny_families.save(name, tmp_path_factory.mktemp("tiny") / name)
        return folders[name]

    return make


def convert(folder, type_, target):
    converter = Converter(open_base(folder), folder, type_)
    words = vocabulary.read(folder, converter.vocabulary_size)
    converter.write(target, words, folder.name)
    return target


@pytest.mark.parametrize("case", [case for case in REFERENCE if not case.endswith(" lora")])
def test_the_same_as_llama_cpps_converter(case, made, tmp_path):
    name, type_ = case.split()
    ours, theirs = summary(convert(made(name), type_, tmp_path / "m.gguf")), REFERENCE[case]
    for file in (ours, theirs):
        for tensor, value in file["tensors"].items():
            value[2] = "" if tensor.endswith(ROUNDED) else value[2]
    assert ours["tensors"] == theirs["tensors"]
    fields = {key: value for key, value in theirs["fields"].items() if not key.startswith(NAMES)}
    assert {key: ours["fields"].get(key) for key in fields} == fields
    more = {key for key in ours["fields"].keys() - fields.keys() if not key.startswith(NAMES)}
    assert {key.rsplit(".", 1)[1] for key in more} <= ALWAYS


@pytest.mark.parametrize("name", BARE)
def test_f16_computes_what_transformers_computes(name, made, tmp_path, helpers):
    folder = made(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        truth = model(torch.tensor([TOKENS])).logits[0].numpy()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prefix = vocabulary.read(folder, model.config.get_text_config().vocab_size).prefix
    with Engine(convert(folder, "f16", tmp_path / "m.gguf"), context=256, gpu=False) as engine:
        assert helpers.mean_kl(truth, engine.logits(TOKENS)) <= 1e-5
        different = [text for text in TEXTS if engine.tokenize(prefix + text) != ids(tokenizer, prefix + text)]
    with_marks = tiny_families.FAMILIES[name].cut in ("tekken", "gpt-4o")
    assert different == [text for text in TEXTS if "नमस्ते" in text and with_marks]


def test_runs_of_blanks_that_are_tokens_are_no_reason_to_refuse(made, tmp_path):
    folder = made("gemma3")
    file = convert(folder, "f16", tmp_path / "m.gguf")
    parity = prove(TrainedModel.open(None, folder), file, file, "f16")
    assert "token ids" in {check.name for check in parity.checks}
    assert "token ids" not in {check.name for check in parity.failures}


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_a_base_in_several_files_is_the_same(made, tmp_path):
    single = summary(convert(made("smollm3"), "f16", tmp_path / "1.gguf"))
    sharded = tiny_families.save("smollm3", tmp_path / "smollm3", max_shard_size="1MB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert summary(convert(sharded, "f16", tmp_path / "2.gguf"))["tensors"] == single["tensors"]


@pytest.mark.parametrize("name", ["gemma3", "qwen3.5"])
def test_an_adapter_of_the_text_part_fits_the_whole_model(name, made, tmp_path):
    whole = made({"gemma3": "gemma3-4b", "qwen3.5": "qwen3.5-mtp"}[name])
    adapter = tiny_families.save_adapter(made(name), tmp_path / "lora")
    files = []
    for base in (made(name), whole):
        converter = Converter(trained_weights(adapter, base), base)
        converter.write(tmp_path / "m.gguf", vocabulary.read(base, converter.vocabulary_size), "m")
        files.append(summary(tmp_path / "m.gguf")["tensors"])
    assert files[0] == files[1] != summary(convert(whole, "f16", tmp_path / "p.gguf"))["tensors"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}),
        ("gemma2", {"query_pre_attn_scalar": 100}),
        ("gemma3", {"layer_types": ["full_attention"] * 6}),
        ("qwen3.5", {"layer_types": ["full_attention"] * 4}),
        ("phi4-mini", {"rope_parameters": {"rope_type": "yarn"}}),
        ("qwen3", {"use_sliding_window": True}),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16}}),
    ],
)
def test_what_llama_cpp_has_built_in_otherwise_is_refused(name, change):
    tiny = tiny_families.FAMILIES[name]
    config = tiny_families.COMMON | tiny.options | {"architectures": [f"{tiny.kind}ForCausalLM"]}
    architectures.find(config)
    with pytest.raises(UnsupportedArchitecture, match="not supported for"):
        architectures.find(config | change)


def test_an_unknown_architecture_names_the_known_ones():
    with pytest.raises(UnsupportedArchitecture) as caught:
        architectures.find({"architectures": ["GPTNeoXForCausalLM"]})
    assert all(known in caught.value.message for known in architectures.FAMILIES)


def test_a_context_is_exact_up_to_where_other_rope_factors_begin(made, tmp_path):
    facts = {
        name: gguf_facts(convert(made(name), "f16", tmp_path / f"{name}.gguf")) for name in ("phi4-mini", "llama31")
    }
    assert facts["phi4-mini"].exact_context == 256 < facts["phi4-mini"].context_length
    assert facts["llama31"].exact_context == facts["llama31"].context_length


YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=10000.0)
STRETCHED = {
    "yarn": ("qwen3", YARN),
    "yarn, other attention": ("llama32", YARN | {"attention_factor": 1.3}),
    "yarn, two scales": ("qwen2.5", YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}),
    "dynamic": ("qwen3", dict(rope_type="dynamic", factor=4.0, rope_theta=10000.0)),
}


@pytest.mark.parametrize("kind", STRETCHED)
def test_stretched_contexts_compute_what_transformers_computes(kind, tmp_path, monkeypatch, helpers):
    family, rope = STRETCHED[kind]
    tiny = tiny_families.FAMILIES[family]
    changed = dataclasses.replace(tiny, options=tiny.options | {"rope_parameters": rope})
    monkeypatch.setitem(tiny_families.FAMILIES, "stretched", changed)
    base = tiny_families.save("stretched", tmp_path / "m")
    tokens = np.random.default_rng(0).integers(5, 900, 200).tolist()
    with torch.no_grad():
        truth = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(torch.tensor([tokens])).logits[0]
    with Engine(convert(base, "f16", tmp_path / "m.gguf"), context=256, gpu=False) as engine:
        assert helpers.mean_kl(truth.numpy(), engine.logits(tokens)) <= 1e-5
