"""Layers computed in groups and losses in chunks: the same as by a model's own layers, for each kind of adapter."""

import pytest
import torch
from tiny_models import batch, opened, save_tiny

from bp_core import step_sizes
from bp_core.rail import Job
from bp_cuda import attention, fused_layers, fusion
from bp_cuda.lean_peft import LoraLayer
from bp_cuda.rail import CpuRail

FUSED = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "smollm3"]
WAYS = [
    dict(rslora=True),
    dict(init="pissa"),
    dict(dora=True),
    dict(mode="qlora"),
    dict(mode="lora-8bit"),
    dict(target_modules="k_proj,down_proj"),
    dict(attention="eager"),
    dict(activation_checkpointing=True),
]


def moved(folder, **changes):
    """A rail whose adapter changes what the model says."""
    rail = opened(folder, **changes)
    for index, parameter in enumerate(rail.parameters.values()):
        torch.manual_seed(index)
        parameter.data += 0.05 * torch.randn_like(parameter)
    return rail


def learned(rail, examples):
    loss = rail.accumulate(examples, 0.1)
    gradient = torch.cat([parameter.grad.flatten() for parameter in rail.parameters.values()])
    rail.discard()
    return loss, gradient


def fused(rail):
    return sum(map(fused_layers.is_fused, rail.model.modules()))


def as_before(rail):
    """The same rail with each model's own way to compute."""
    fused_layers.undo(rail.model.get_base_model())
    rail.head = None
    return rail


def assert_same(found, expected, allowed=1e-5):
    (loss, gradient), (other, theirs) = found, expected
    assert loss == pytest.approx(other, rel=allowed)
    assert (gradient - theirs).norm() <= allowed * theirs.norm()


@pytest.mark.parametrize("family", FUSED)
def test_each_family_learns_what_it_would_by_its_own_layers(family, tmp_path, monkeypatch):
    rail = moved(save_tiny(tmp_path, family))
    assert fused(rail) == 3 and rail.head
    found = learned(rail, batch())
    monkeypatch.setattr(step_sizes, "SHORT_SEGMENT", 0)
    assert_same(found, learned(as_before(rail), batch()))


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_each_kind_of_adapter_learns_what_it_would_layer_by_layer(changes, tiny):
    rail = moved(tiny, **changes)
    assert fused(rail) == 3 and rail.head
    found = learned(rail, batch())
    assert_same(found, learned(as_before(rail), batch()))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_in_bfloat16_it_is_as_near_to_float32_as_before(family, tmp_path):
    folder, far = save_tiny(tmp_path, family), {}
    _, exact = learned(moved(folder), batch())
    rail = moved(folder, dtype="bfloat16")
    for way in ("fused", "before"):
        far[way] = (learned(rail, batch())[1] - exact).norm() / exact.norm()
        as_before(rail)
    assert far["fused"] < 1.3 * far["before"] < 0.05


@pytest.mark.parametrize("family", ["qwen3_5_text", "gpt_oss", "bloom"])
def test_families_that_are_not_known_keep_their_layers_but_not_their_logits(family, tmp_path):
    rail = opened(save_tiny(tmp_path, family))
    assert fused(rail) == 0 and rail.head


def test_dropout_keeps_the_layers_as_they_were(tiny):
    assert fused(opened(tiny, dropout=0.1)) == 0


def test_a_layer_that_computes_something_else_is_found_out_on_opening(tiny):
    rail = CpuRail()
    rail.open(Job(tiny, dtype="float32"))
    recipe = opened(tiny).model.peft_config["default"]
    base = rail.model
    attention.register()
    base.set_attn_implementation(attention.NAME)
    norm = base.model.layers[1].input_layernorm
    norm.forward = lambda x, own=norm.forward: 1.01 * own(x)
    model = fusion.PeftModel(base, recipe)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert fusion.fuse(model, torch.float32)
    rail.model = model
    assert fused(rail) == 0
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_a_head_that_is_adapted_or_squashes_in_a_way_of_its_own_keeps_its_logits(tiny):
    assert opened(tiny, target_modules="q_proj,lm_head").head is None
    rail = opened(tiny)
    base = rail.model.get_base_model()
    base.lm_head.forward = lambda x, own=base.lm_head.forward: 0.5 * own(x)
    assert fusion.fuse(rail.model, torch.float32) is None


def test_stacked_weights_are_the_layers_own(tiny):
    rail = opened(tiny)
    layer = next(m for m in rail.model.modules() if type(m).__name__ == "LlamaAttention")
    q, k = (getattr(layer, name).get_base_layer().weight for name in ("q_proj", "k_proj"))
    assert isinstance(layer.q_proj, LoraLayer)
    assert q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()


def test_with_the_adapter_switched_off_the_base_answers(tiny):
    rail, plain = moved(tiny), CpuRail()
    plain.open(Job(tiny, dtype="float32"))
    words = [5, 17, 200, 31, 8]
    assert abs(rail.logits(words, adapter=False) - plain.logits(words)).max() < 1e-5
    assert abs(rail.logits(words) - plain.logits(words)).max() > 1e-2


def test_long_segments_beside_short_ones(tiny, monkeypatch):
    examples = batch((40, 9, 14))
    rail = moved(tiny)
    found = learned(rail, examples)
    monkeypatch.setattr(step_sizes, "SHORT_SEGMENT", 12)
    assert_same(learned(rail, examples), found)
    monkeypatch.setattr(step_sizes, "SHORT_SEGMENT", 0)
    assert_same(learned(rail, examples), found)
