import math

import numpy as np
import pytest
import torch
from tiny_models import batch, opened, recipe, save_tiny
from transformers import AutoModelForCausalLM

from bp_core.errors import CheckpointUnusable
from bp_core.rail import Job
from bp_cuda.rail import CpuRail
from bp_cuda.stochastic_rounding import RoundingAdamW, round_stochastically

WORDS = [5, 17, 200, 31, 8]


def full(folder, dtype="float32", **changes):
    return opened(folder, mode="full", dtype=dtype, **changes)


def go(rail, seeds, rate=1e-3):
    for seed in seeds:
        rail.accumulate(batch(seed=seed), 0.05)
        rail.update(rate)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_every_weight_is_trained_as_torch_would(family, tmp_path):
    folder = save_tiny(tmp_path / family, family)
    rail = full(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert rail.parameters.keys() == dict(model.named_parameters()).keys()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, lr=1e-3)
    b = batch((14,))
    labels = torch.where(torch.tensor(b.trained), torch.tensor(b.tokens).long(), -100)
    count = int((labels >= 0).sum())
    for _ in range(3):
        loss = model(input_ids=torch.tensor(b.tokens).long()[None], labels=labels[None]).loss
        assert rail.accumulate(b, 1 / count) == pytest.approx(loss.item(), rel=1e-4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rail.update(1e-3)
    with torch.no_grad():
        expected = model(torch.tensor([WORDS])).logits[0].numpy()
    np.testing.assert_allclose(rail.logits(WORDS), expected, atol=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_written_model_is_an_ordinary_one(dtype, tiny, tmp_path):
    rail = full(tiny, dtype)
    go(rail, range(3))
    rail.write_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert str(model.dtype) == f"torch.{dtype}"
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, rail.parameters[name]), name
    reader = CpuRail()
    reader.open(Job(tmp_path, dtype=dtype))
    np.testing.assert_array_equal(reader.logits(WORDS), rail.logits(WORDS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_restored_run_ends_with_the_same_weights(dtype, tiny, tmp_path):
    straight = full(tiny, dtype)
    go(straight, range(4))
    first = full(tiny, dtype)
    go(first, range(2))
    first.save(tmp_path)
    second = full(tiny, dtype, seed=99)
    second.restore(tmp_path)
    go(second, range(2, 4))
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_a_checkpoint_of_an_adapter_is_refused(tiny, tmp_path):
    opened(tiny).save(tmp_path)
    with pytest.raises(CheckpointUnusable):
        full(tiny).restore(tmp_path)


def test_bfloat16_weights_follow_float32_ones(tiny):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        rail = full(tiny, dtype)
        losses[dtype] = []
        for _ in range(12):
            losses[dtype].append(rail.accumulate(batch(), 1 / 20))
            rail.update(1e-4)
    assert losses["float32"][-1] < losses["float32"][0] - 0.5
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)


def test_a_gradient_that_is_not_finite_changes_no_weight(tiny):
    rail = full(tiny, "bfloat16")
    before = rail.evaluate(batch())
    rail.accumulate(batch(), math.inf)
    assert not math.isfinite(rail.update(1e-2))
    assert rail.evaluate(batch()) == before


def test_auto_keeps_float32_weights_on_the_host(tiny):
    rail = CpuRail()
    told = rail.open(Job(tiny, recipe=recipe(mode="full"), dtype="auto"))
    assert {p.dtype for p in rail.parameters.values()} == {torch.float32}
    assert told.trainable == sum(p.numel() for p in rail.parameters.values()) and told.parameters == 0


def test_rounding_by_chance_is_right_on_average_and_leaves_what_fits():
    torch.manual_seed(0)
    value = torch.randn(50).repeat(4000, 1)
    rounded = round_stochastically(value.clone(), torch.empty(value.shape, dtype=torch.int32))
    assert torch.equal(rounded, rounded.bfloat16().float())
    step = 2.0 ** torch.floor(torch.log2(value[0].abs())) / 128
    assert ((rounded - value).abs() <= step).all()
    assert ((rounded.mean(0) - value[0]).abs() <= 4 * step / 4000**0.5).all()
    exact = value.bfloat16().float()
    assert torch.equal(round_stochastically(exact.clone(), torch.empty(value.shape, dtype=torch.int32)), exact)


def test_updates_too_small_for_bfloat16_arrive_all_the_same():
    weights = {
        kind: torch.nn.Parameter(torch.full((4096,), 0.1, dtype=torch.bfloat16))
        for kind in (torch.optim.AdamW, RoundingAdamW)
    }
    for kind, weight in weights.items():
        optimizer = kind([weight], lr=1e-5, weight_decay=0.0, fused=True)
        state = {"exp_avg": torch.zeros(4096), "exp_avg_sq": torch.zeros(4096), "step": torch.zeros(())}
        if kind is RoundingAdamW:
            optimizer.state[weight] = state
        torch.manual_seed(1)
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    start = torch.tensor(0.1).bfloat16().float().item()
    assert weights[torch.optim.AdamW].float().mean().item() == pytest.approx(start, abs=1e-6)  # the fault
    assert weights[RoundingAdamW].float().mean().item() == pytest.approx(start - 100 * 1e-5, rel=0.01)
