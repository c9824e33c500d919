"""Full fine-tuning with offloaded weights: the same numbers as without, on the CPU, where both are on the host."""

import pytest
import torch
from tiny_models import batch, opened, recipe
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from bp_core.rail import Job
from bp_cuda.rail import CpuRail, CudaRail

WORDS = [5, 17, 200, 31, 8]


def full(folder, offload, **changes):
    return opened(folder, mode="full", full_ft_offload=offload, **changes)


def steps(rail, seeds):
    """Loss and norm of some steps, of two micro-batches each."""
    return [
        (sum(rail.accumulate(batch(seed=part), 0.05) for part in (seed, seed + 100)), rail.update(1e-3))
        for seed in seeds
    ]


def test_losses_norms_evaluation_and_answers_are_the_same(tiny):
    plain, offloaded = full(tiny, False), full(tiny, True)
    assert all(isinstance(value, DTensor) and value.device.type == "cpu" for value in offloaded.parameters.values())
    assert steps(offloaded, range(3)) == steps(plain, range(3))
    assert offloaded.evaluate(batch()) == plain.evaluate(batch())
    assert (offloaded.logits(WORDS) == plain.logits(WORDS)).all()
    assert offloaded.generate(WORDS, limit=6, stop=[]) == plain.generate(WORDS, limit=6, stop=[])
    assert steps(offloaded, range(3, 5)) == steps(plain, range(3, 5))  # what was only looked at left nothing behind


def test_activation_checkpointing_goes_with_it(tiny):
    rail = full(tiny, True, activation_checkpointing=True)
    found, expected = steps(rail, range(2)), steps(full(tiny, False), range(2))
    assert found == [pytest.approx(pair, rel=1e-5) for pair in expected]


def test_a_checkpoint_is_whole_and_fits_a_run_without_offload(tiny, tmp_path):
    rail = full(tiny, True)
    steps(rail, range(2))
    rail.evaluate(batch())
    rail.save(tmp_path)
    after = steps(rail, range(2, 4))
    rail.restore(tmp_path)
    assert steps(rail, range(2, 4)) == after
    plain = full(tiny, False)
    plain.restore(tmp_path)
    assert steps(plain, range(2, 4)) == after


def test_the_written_model_is_an_ordinary_one(tiny, tmp_path):
    rail = full(tiny, True)
    steps(rail, range(2))
    rail.write_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model) is LlamaForCausalLM and model.config.architectures == ["LlamaForCausalLM"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, rail.parameters[name].full_tensor()), name
    reader = CpuRail()
    reader.open(Job(tmp_path, dtype="float32"))
    assert (reader.logits(WORDS) == rail.logits(WORDS)).all()


def test_products_in_bfloat16_and_weights_in_float32(tiny):
    rail = full(tiny, True, dtype="bfloat16")
    assert {value.dtype for value in rail.parameters.values()} == {torch.float32}
    losses = [loss for loss, _ in steps(rail, [1] * 5)]
    assert losses[-1] < losses[0] and rail.computed == torch.bfloat16


@pytest.mark.gpu
def test_on_a_card_the_weights_stay_on_the_host(tiny):
    rail = CudaRail()
    rail.open(Job(tiny, recipe=recipe(mode="full", full_ft_offload=True, dtype="float32"), dtype="float32"))
    assert all(value.device.type == "cpu" for value in rail.parameters.values())
    found, expected = steps(rail, range(3)), steps(full(tiny, False), range(3))
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=1e-3)
