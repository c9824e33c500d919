"""Training on packed rows: the same examples, the same targets, other steps."""

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from backpropagate import Trainer
from bp_core.events import Stepped

SETTINGS = dict(backend="cpu", rank=8, learning_rate=1e-2, max_length=128, dtype="float32")


def quiet(event):
    return None


def train(model, output, data, watch=quiet, resume=False, steps=1, **changes):
    with_all = Trainer(str(model), output=str(output), **SETTINGS | changes)
    run = with_all.train(data, steps=steps, watch=watch, resume=resume)
    with_all.close()
    return run


@pytest.fixture
def tiny_bloom(tiny_llama, tmp_path):
    """A model whose positions come from the mask (ALiBi): it cannot keep neighbours apart."""
    folder = tmp_path / "bloom"
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=49152, hidden_size=32, n_layer=1, n_head=4)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    return folder


def test_steps_are_computed_from_packed_rows(tiny_llama, rows, tmp_path):
    tuned = Trainer(str(tiny_llama), output=str(tmp_path / "out"), packing=True, batch_size=2, **SETTINGS)
    plan = tuned.plan(rows, epochs=3)
    assert plan.data["packed"] == 6 and plan.data["examples"] == 12
    assert (plan.recipe.steps, plan.recipe.micro_batch, plan.recipe.packing) == (9, 1, True)
    assert plan.recipe.why["steps"] == "3 epochs × 6 packed rows ÷ 2 a step"
    assert plan.recipe.why["micro_batch"] == "a packed row is full"


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bloom"])
def test_a_step_over_all_rows_is_the_same_packed_or_not(model, rows, tmp_path, request):
    model = request.getfixturevalue(model)
    plain = train(model, tmp_path / "plain", rows, batch_size=12)
    packed = train(model, tmp_path / "packed", rows, batch_size=6, packing=True)
    assert packed.targets == plain.targets and packed.tokens == plain.tokens
    np.testing.assert_allclose(packed.losses, plain.losses, rtol=1e-5)


@pytest.mark.slow
def test_a_packed_run_cut_off_and_resumed_ends_with_the_same_bytes(tiny_llama, rows, tmp_path):
    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, Stepped) and event.step == 5:
            raise Cut

    changes = dict(steps=8, packing=True, batch_size=3, checkpoint_every=2)
    whole = train(tiny_llama, tmp_path / "whole", rows, **changes)
    with pytest.raises(Cut):
        train(tiny_llama, tmp_path / "cut", rows, watch=cut, **changes)
    resumed = train(tiny_llama, tmp_path / "cut", rows, resume=True, **changes)
    assert (resumed.skipped, resumed.published_step) == (whole.skipped, whole.published_step)
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]
