"""A model's shape from its config.json: parameters, adapters, and which linears there are."""

import pytest

from bp_plan.architecture import KNOWN, architecture
from bp_plan.presets import PRESETS

SIZES = dict(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
# As the models' safetensors have them.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "llama-3.2-1b": 1_235_814_400,
    "smollm3-3b": 3_075_098_624,
    "qwen2.5-3b": 3_085_938_688,
    "llama-3.2-3b": 3_212_749_824,
    "phi-4-mini-3.8b": 3_836_021_760,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
    "qwen2.5-14b": 14_770_033_664,
    "mistral-small-24b": 23_572_403_200,
    "qwen2.5-32b": 32_763_876_352,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_presets_have_the_parameters_that_were_published(name):
    assert architecture(PRESETS[name].config).parameters == PUBLISHED[name]


def test_every_preset_of_a_known_family_is_pinned():
    known = {name for name, preset in PRESETS.items() if architecture(preset.config).known}
    assert known == PUBLISHED.keys() | {"qwen3.5-4b"}  # whose files have a vision part, too


def test_a_model_with_linear_attention_has_both_kinds_of_layers():
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    preset = dict(PRESETS["qwen3.5-4b"].config)
    config = transformers.CONFIG_MAPPING[preset.pop("model_type")](**preset)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = architecture(PRESETS["qwen3.5-4b"].config)
    assert shape == architecture(config.to_dict())  # which lists the layers in place of the interval
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    for layer, linears in ((0, shape.delta_net_linears), (3, shape.linears)):
        real = linears_of(model.model.layers[layer], torch.nn.Linear)
        assert {linear.name: (linear.inputs, linear.outputs) for linear in linears} == real
    assert shape.adapter(4, "out_proj") == 4 * 24 * (4096 + 2560)


def linears_of(layer, kind):
    """Name, inputs and outputs of the linears in a layer of the real model."""
    found = [(name.rpartition(".")[2], module) for name, module in layer.named_modules() if isinstance(module, kind)]
    return {name: (module.in_features, module.out_features) for name, module in found}


@pytest.mark.parametrize("family", sorted(KNOWN - {"qwen3_5_text"}))
def test_shapes_are_those_of_the_real_model(family):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    config = transformers.CONFIG_MAPPING[family](**SIZES)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = architecture(config.to_dict())
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    real = linears_of(model.model.layers[0], torch.nn.Linear)
    assert {linear.name: (linear.inputs, linear.outputs) for linear in shape.linears} == real
    assert shape.adapter(4, "o_proj") == 4 * 3 * sum(real["o_proj"])


def test_a_config_that_does_not_say_enough_has_no_shape():
    assert architecture({}) is None
    assert architecture({"hidden_size": 8}) is None
    assert architecture({"text_config": dict(PRESETS["qwen2.5-7b"].config)}).hidden == 3584
