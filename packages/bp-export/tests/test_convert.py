import ml_dtypes
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bp_core.errors import ModelUnusable, UnsupportedArchitecture
from bp_core.folders import write_json
from bp_core.model_files import read_json
from bp_export import Engine, gguf_facts
from bp_export.gguf import convert
from bp_export.gguf.convert import Converter, PlannedTensor, stored
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.tensor_layout import interleave
from bp_export.weights.merge import open_base

TOKENS = [1, 4093, 198, 19556, 905, 28, 451, 314, 253, 1028, 30, 2, 198, 1, 520, 9531, 198] * 6
ROPE3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
    rope_theta=10000.0,
)
VARIANTS = {
    "linear rope": (
        LlamaForCausalLM,
        LlamaConfig,
        dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0)),
    ),
}


def divergence(base, gguf, helpers):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        truth = model(torch.tensor([TOKENS])).logits[0].numpy()
    with Engine(gguf, context=len(TOKENS), gpu=False) as engine:
        return helpers.mean_kl(truth, engine.logits(TOKENS))


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_qwen2"])
def test_f16_computes_what_transformers_computes(fixture, request, tmp_path, helpers):
    base = request.getfixturevalue(fixture)
    gguf = helpers.write_gguf(open_base(base), base, tmp_path / "m.gguf")
    assert divergence(base, gguf, helpers) <= 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_families(name, tmp_path, smol, helpers):
    kind, config, options = VARIANTS[name]
    base = helpers.save_model(kind, config(**helpers.sizes | options), tmp_path / "m", smol, torch.float16)
    gguf = helpers.write_gguf(open_base(base), base, tmp_path / "m.gguf")
    assert divergence(base, gguf, helpers) <= 1e-5


@pytest.mark.parametrize(
    ("type_", "limit", "stored"), [("f32", 1e-5, "F32"), ("bf16", 1e-3, "BF16"), ("q8_0", 5e-3, "Q8_0")]
)
def test_other_float_types(type_, limit, stored, tmp_path, tiny_llama, helpers):
    gguf = helpers.write_gguf(open_base(tiny_llama), tiny_llama, tmp_path / "m.gguf", type_)
    assert divergence(tiny_llama, gguf, helpers) <= limit
    assert next(iter(gguf_facts(gguf).types)) == type_.upper()
    assert GgufFile(gguf).tensors["blk.0.attn_norm.weight"].type.name == "F32"


def test_old_configs_are_read_too(tmp_path, tiny_llama):
    config = read_json(tiny_llama / "config.json")
    config.pop("rope_parameters", None)
    write_json(tmp_path / "config.json", config | {"rope_theta": 5e5, "rope_scaling": ROPE3 | {"rope_theta": 5e5}})
    converter = Converter(open_base(tiny_llama), tmp_path)
    assert [planned.shape for planned in converter.plan if planned.name == "rope_freqs.weight"] == [(32,)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"architectures": ["GPTNeoXForCausalLM"]}, UnsupportedArchitecture),
        ({"architectures": None}, UnsupportedArchitecture),
        ({"rope_parameters": {"rope_type": "longrope"}}, UnsupportedArchitecture),
        ({"hidden_act": "gelu"}, UnsupportedArchitecture),
        ({"use_sliding_window": True}, UnsupportedArchitecture),
        ({"rms_norm_eps": ...}, ModelUnusable),
    ],
)
def test_what_is_not_supported_is_refused_before_any_work(change, error, tmp_path, tiny_llama):
    config = read_json(tiny_llama / "config.json") | change
    write_json(tmp_path / "config.json", {key: value for key, value in config.items() if value is not ...})
    with pytest.raises(error):
        Converter(open_base(tiny_llama), tmp_path)


def test_interleaving_pairs_the_two_halves_of_a_head():
    rows = np.arange(16).reshape(16, 1) * np.ones((1, 3))
    assert interleave(rows, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_values_that_float16_cannot_hold_are_an_error(tmp_path, tiny_llama):
    class Huge:
        def __init__(self):
            self.inner = open_base(tiny_llama)

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def dtype(self, name):
            return np.dtype(np.float32)

        def array(self, name):
            return self.inner.array(name).astype(np.float32) * (1e6 if name.endswith("up_proj.weight") else 1)

    converter = Converter(Huge(), tiny_llama)
    planned = next(planned for planned in converter.plan if "ffn_up" in planned.name)
    with pytest.raises(ModelUnusable, match="float16"):
        stored(converter.array(planned), planned)


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_tensor_packed_in_parts_is_the_tensor_packed_whole(type_, kind, monkeypatch):
    values = np.random.default_rng(0).standard_normal((37, 96)).astype(kind)
    planned = PlannedTensor("m.weight", "m.weight", values.shape, GGMLQuantizationType[type_])
    whole = stored(values, planned)
    monkeypatch.setattr(convert, "_AT_ONCE", 500)  # five rows, and two at the end
    assert (
        stored(values, planned).tobytes()
        == whole.tobytes()
        == quantize(values.astype(np.float32), planned.type).tobytes()
    )


def test_values_too_large_for_f16_are_found_in_any_part(monkeypatch):
    values = np.zeros((37, 96), np.float32)
    values[36, 95] = 1e6
    monkeypatch.setattr(convert, "_AT_ONCE", 500)
    with pytest.raises(ModelUnusable, match="float16 cannot hold"):
        stored(values, PlannedTensor("m.weight", "m.weight", values.shape, GGMLQuantizationType.F16))
