import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import batch, opened, recipe, save_tiny
from transformers import AutoModelForCausalLM

from bp_core.errors import PackageMissing
from bp_core.rail import Job
from bp_cuda import requirements
from bp_cuda.rail import CpuRail

bitsandbytes = pytest.importorskip("bitsandbytes")
WORDS = [5, 17, 200, 31, 8]


def go(rail, seeds, rate=5e-3):
    for seed in seeds:
        rail.accumulate(batch(seed=seed), 0.05)
        rail.update(rate)


def unpacked(folder, rail):
    """The base with its 4-bit weights written out in float32 by bitsandbytes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    state = model.state_dict()
    for name, module in rail.model.get_base_model().named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = module.weight
            values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
            state[f"{name.removesuffix('.base_layer')}.weight"] = values
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_the_4_bit_base_computes_and_teaches_what_its_unpacked_weights_would(family, tmp_path):
    folder = save_tiny(tmp_path / family, family)
    rail, b = opened(folder, mode="qlora"), batch((14,))
    go(rail, [1])
    (tmp_path / "lora").mkdir()
    rail.write_adapter(tmp_path / "lora")
    model = PeftModel.from_pretrained(unpacked(folder, rail), tmp_path / "lora", is_trainable=True).eval()
    labels = torch.where(torch.tensor(b.trained), torch.tensor(b.tokens).long(), -100)
    loss = model(input_ids=torch.tensor(b.tokens).long()[None], labels=labels[None]).loss
    loss.backward()
    assert rail.accumulate(b, 1 / int((labels >= 0).sum())) == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            atol = 2e-4 * parameter.grad.abs().max().item() + 1e-7
            assert torch.allclose(rail.parameters[name].grad, parameter.grad, rtol=1e-3, atol=atol), name
    with torch.no_grad():
        expected = model(torch.tensor([WORDS])).logits[0].numpy()
    np.testing.assert_allclose(rail.logits(WORDS), expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["qlora", "lora-8bit"])
def test_the_base_is_quantised_counted_in_full_and_only_the_adapter_learns(mode, tiny, tmp_path):
    rail, plain = CpuRail(), CpuRail()
    told = rail.open(Job(tiny, recipe=recipe(mode=mode), dtype="float32"))
    plainly = plain.open(Job(tiny, recipe=recipe(), dtype="float32"))
    assert told.dtype == {"qlora": "nf4", "lora-8bit": "int8"}[mode]
    assert (told.parameters, told.trainable) == (plainly.parameters, plainly.trainable)
    bytes_of = [sum(p.numel() * p.element_size() for p in r.model.parameters()) for r in (rail, plain)]
    assert bytes_of[0] < 0.75 * bytes_of[1]
    first = rail.evaluate(batch())[0]
    go(rail, [0] * 10)
    assert rail.evaluate(batch())[0] < first * 0.9


@pytest.mark.parametrize(
    "options", [dict(mode="qlora"), dict(mode="qlora", dora=True), dict(mode="lora-8bit")], ids=str
)
def test_a_restored_run_ends_with_the_same_weights(options, tiny, tmp_path):
    straight = opened(tiny, **options)
    go(straight, range(4))
    first = opened(tiny, **options)
    go(first, range(2))
    first.save(tmp_path)
    second = opened(tiny, seed=99, **options)
    second.restore(tmp_path)
    go(second, range(2, 4))
    assert straight.parameters.keys() == second.parameters.keys()
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_what_was_trained_can_be_read_on_the_quantised_base_again(tiny, tmp_path):
    rail = opened(tiny, mode="qlora")
    go(rail, range(3))
    rail.write_adapter(tmp_path)
    again, whole = CpuRail(), CpuRail()
    again.open(Job(tiny, adapter=tmp_path, dtype="float32", mode="qlora"))
    whole.open(Job(tiny, adapter=tmp_path, dtype="float32"))
    np.testing.assert_allclose(again.logits(WORDS), rail.logits(WORDS), atol=1e-5)
    assert np.abs(whole.logits(WORDS) - rail.logits(WORDS)).max() > 1e-2  # the cost of 4 bits


def test_orthogonal_starts_fit_packed_weights(tiny):
    rail = opened(tiny, mode="qlora", init="orthogonal")
    go(rail, [0])
    assert math.isfinite(rail.evaluate(batch())[0])


def test_without_bitsandbytes_it_is_named(tiny, monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match="bitsandbytes"):
        opened(tiny, mode="qlora")
