import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import FAMILIES, batch, opened, recipe, save_tiny
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from bp_core.errors import AdapterUnusable, BackendUnavailable, ModelUnusable
from bp_core.rail import Job
from bp_cuda.rail import CpuRail, CudaRail


def rows(b):
    ends = np.cumsum(b.lengths)
    for end, length in zip(ends, b.lengths, strict=True):
        yield torch.tensor(b.tokens[end - length : end]).long(), torch.tensor(b.trained[end - length : end])


def reference_loss(model, b):
    """One example at a time, eager attention, all logits: what the fast path must equal."""
    total = 0
    for tokens, trained in rows(b):
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
        labels = torch.where(trained[1:], tokens[1:], -100)
        total = total + cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_in_one_row_give_the_loss_and_gradients_of_examples_alone(family, tmp_path):
    folder = save_tiny(tmp_path / family, family)
    rail, b = opened(folder), batch()
    for index, parameter in enumerate(rail.parameters.values()):  # B starts at zero; give it something to carry
        torch.manual_seed(index)
        parameter.data.normal_(std=0.05)
    (tmp_path / "adapter").mkdir()
    rail.write_adapter(tmp_path / "adapter")
    loss = rail.accumulate(b, 0.5)
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).eval()
    expected = reference_loss(model, b) * 0.5
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == rail.parameters.keys()
    for name, parameter in rail.parameters.items():
        atol = 2e-4 * gradients[name].abs().max().item() + 1e-7
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=atol), name


def test_models_that_attention_cannot_keep_apart_are_found_out(tmp_path):
    separable = {family: opened(save_tiny(tmp_path / family, family)).separable for family in FAMILIES}
    assert [family for family, keeps in separable.items() if not keeps] == ["qwen3_5_text", "gpt_oss", "bloom"]


def test_a_neighbour_changes_nothing(tiny):
    rail, b = opened(tiny), batch((8, 12))
    changed = batch((8, 12))
    changed.tokens[:8] = changed.tokens[:8][::-1]
    changed.trained[:8] = b.trained[:8] = False
    assert rail.evaluate(b) == rail.evaluate(changed)


def test_micro_batches_add_up_to_the_whole(tiny):
    whole, parts = opened(tiny), opened(tiny)
    b = batch((9, 14, 5))
    total = whole.accumulate(b, 0.1)
    ends = np.cumsum(b.lengths)
    summed = 0.0
    for end, length in zip(ends, b.lengths, strict=True):
        row = slice(end - length, end)
        summed += parts.accumulate(type(b)(b.tokens[row], b.trained[row], b.lengths[:1] * 0 + length), 0.1)
    assert summed == pytest.approx(total, rel=1e-5)
    assert parts.update(1e-2) == pytest.approx(whole.update(1e-2), rel=1e-4)


def test_training_lowers_the_loss_and_touches_only_the_adapter(tiny):
    rail, b = opened(tiny), batch()
    before = {n: p.clone() for n, p in rail.model.named_parameters() if not p.requires_grad}
    first = rail.evaluate(b)[0]
    for _ in range(20):
        rail.accumulate(b, 1 / 20)
        rail.update(1e-2)
    assert rail.evaluate(b)[0] < first * 0.8
    assert all(torch.equal(before[n], p) for n, p in rail.model.named_parameters() if not p.requires_grad)


def test_discard_makes_a_replay_start_clean(tiny):
    clean, replayed = opened(tiny), opened(tiny)
    replayed.accumulate(batch(seed=5), 0.3)
    replayed.discard()
    for rail in (clean, replayed):
        rail.accumulate(batch(), 0.1)
        rail.update(1e-2)
    assert clean.evaluate(batch()) == replayed.evaluate(batch())


def test_a_gradient_that_is_not_finite_changes_nothing(tiny):
    rail, b = opened(tiny), batch()
    before = rail.evaluate(b)
    rail.accumulate(b, math.inf)
    assert not math.isfinite(rail.update(1e-2))
    assert rail.evaluate(b) == before


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_restore_continues_bit_for_bit(tiny, tmp_path, dropout):
    def go(rail, seeds):
        for seed in seeds:
            rail.accumulate(batch(seed=seed), 0.05)
            rail.update(1e-2)

    straight = opened(tiny, dropout=dropout)
    go(straight, range(6))
    first = opened(tiny, dropout=dropout)
    go(first, range(3))
    first.save(tmp_path)
    second = opened(tiny, dropout=dropout, seed=99)
    second.restore(tmp_path)
    go(second, range(3, 6))
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_peft_loads_the_written_adapter_with_equal_logits(tiny, tmp_path):
    rail = opened(tiny)
    for _ in range(5):
        rail.accumulate(batch(), 0.05)
        rail.update(1e-2)
    rail.write_adapter(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), tmp_path)
    tokens = [5, 17, 200, 31, 8]
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(rail.logits(tokens), expected, atol=1e-5)
    assert np.abs(rail.logits(tokens) - rail.logits(tokens, adapter=False)).max() > 1e-2


def test_a_written_adapter_can_be_read_for_proof_and_trained_on(tiny, tmp_path):
    rail = opened(tiny)
    rail.accumulate(batch(), 0.05)
    rail.update(1e-2)
    rail.write_adapter(tmp_path)
    reader = CpuRail()
    assert reader.open(Job(tiny, adapter=tmp_path, dtype="float32")).trainable == 0
    np.testing.assert_allclose(reader.logits([4, 9, 30]), rail.logits([4, 9, 30]), atol=1e-6)
    again = CpuRail()
    assert again.open(Job(tiny, adapter=tmp_path, recipe=recipe(), dtype="float32")).trainable > 0
    again.accumulate(batch(), 0.05)
    assert again.update(1e-2) > 0


def test_bfloat16_training_keeps_float32_adapters_and_follows_float32(tiny):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        rail = opened(tiny, dtype=dtype)
        assert {p.dtype for p in rail.parameters.values()} == {torch.float32}
        losses[dtype] = [rail.accumulate(batch(), 1 / 20) for _ in range(5) if rail.update(5e-3) >= 0]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_5_text"])
def test_generation_with_a_cache_equals_the_argmax_of_full_logits(family, tmp_path):
    rail = CpuRail()
    rail.open(Job(save_tiny(tmp_path / family, family), dtype="float32"))
    streamed = []
    made = rail.generate([5, 9, 40], limit=12, stop=[], on_token=streamed.append)
    assert made == streamed and len(made) == 12
    tokens = [5, 9, 40]
    for token in made:
        assert token == int(rail.logits(tokens)[-1].argmax())
        tokens.append(token)
    assert rail.generate([5, 9, 40], limit=12, stop=[made[2]]) == made[: made.index(made[2]) + 1]


def test_reading_leaves_training_mode_and_adapter_as_they_were(tiny):
    rail = opened(tiny, dropout=0.3)
    rail.logits([3, 4, 5], adapter=False)
    rail.generate([3, 4], limit=2, stop=[])
    rail.evaluate(batch())
    assert rail.model.training
    assert all(parameter.requires_grad for parameter in rail.parameters.values())


def test_missing_and_broken_folders_are_named(tmp_path, tiny):
    with pytest.raises(ModelUnusable, match=r"config\.json"):
        CpuRail().open(Job(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelUnusable):
        CpuRail().open(Job(tmp_path))
    with pytest.raises(AdapterUnusable):
        CpuRail().open(Job(tiny, adapter=tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a card")
def test_cuda_without_a_card_says_why():
    assert not CudaRail().probe().available
    with pytest.raises(BackendUnavailable, match=r"NVIDIA|CUDA"):
        CudaRail().open(Job("anywhere"))


def test_memory_is_counted():
    memory = CpuRail().memory()
    assert 0 < memory.used <= memory.peak * 1.01 and memory.peak <= memory.total
