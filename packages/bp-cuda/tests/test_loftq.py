"""loftq makes up for what 4 bits lose while training, and what is written does not make up for it again."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from tiny_models import batch, opened, save_tiny
from transformers import AutoModelForCausalLM

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, ModelUnusable
from bp_cuda import loftq

pytest.importorskip("bitsandbytes")
WORDS = [5, 17, 200, 31, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"))


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([WORDS])).logits[0].numpy()


def far(one, other):
    return float(np.abs(one - other).mean())


def test_it_starts_nearer_to_the_16_bit_model_the_higher_the_rank(folder):
    truth = logits(base_model(folder))
    plain = opened(folder, mode="qlora")
    found = [far(plain.logits(WORDS), truth)]
    for rank in (4, 16, 32):
        rail = opened(folder, mode="qlora", init="loftq", rank=rank, alpha=2.0 * rank)
        found.append(far(rail.logits(WORDS), truth))
        np.testing.assert_allclose(rail.logits(WORDS, adapter=False), plain.logits(WORDS), atol=1e-6)
    assert found == sorted(found, reverse=True) and found[-1] < 0.5 * found[0]


def test_the_pair_is_the_best_of_its_rank_for_what_was_lost(folder):
    rail = opened(folder, mode="qlora", init="loftq", rank=8, alpha=16.0)
    layers = rail.model.get_base_model().named_modules()
    name, layer = next((name, module) for name, module in layers if isinstance(module, LoraLayer))
    rest = loftq.originals(folder)(name) - loftq.dequantize_module_weight(layer.get_base_layer()).float()
    left = rest - 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    best = torch.linalg.svdvals(rest)[8:].square().sum().sqrt()
    assert left.norm().item() == pytest.approx(best.item(), rel=0.02)


def test_what_is_written_adds_to_the_16_bit_model_only_what_was_learned(folder, tmp_path):
    rail = opened(folder, mode="qlora", init="loftq")
    (tmp_path / "before").mkdir()
    rail.write_adapter(tmp_path / "before")
    read = PeftModel.from_pretrained(base_model(folder), tmp_path / "before")
    np.testing.assert_allclose(logits(read), logits(base_model(folder)), atol=1e-4)
    for seed in (1, 2, 3):
        rail.accumulate(batch(seed=seed), 0.05)
        rail.update(5e-3)
    (tmp_path / "after").mkdir()
    rail.write_adapter(tmp_path / "after")
    read = PeftModel.from_pretrained(base_model(folder), tmp_path / "after")
    moved = logits(read) - logits(base_model(folder))
    plain = opened(folder, mode="qlora", init="loftq").logits(WORDS)
    assert np.corrcoef(moved.ravel(), (rail.logits(WORDS) - plain).ravel())[0, 1] > 0.9


def test_a_restored_run_ends_with_the_same_bytes_whatever_it_starts_from(folder, tmp_path):
    def go(rail, seeds):
        for seed in seeds:
            rail.accumulate(batch(seed=seed), 0.05)
            rail.update(5e-3)
        return rail

    def written(rail, name):
        (tmp_path / name).mkdir()
        rail.write_adapter(tmp_path / name)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    straight = go(opened(folder, mode="qlora", init="loftq"), range(3))
    first = go(opened(folder, mode="qlora", init="loftq"), range(1))
    (tmp_path / "state").mkdir()
    first.save(tmp_path / "state")
    second = opened(folder, mode="qlora", init="loftq", seed=99)
    second.restore(tmp_path / "state")
    assert written(go(second, range(1, 3)), "resumed") == written(straight, "straight")


def test_it_is_refused_without_4_bits_with_dora_and_for_weights_of_other_names(tmp_path):
    with pytest.raises(BadValue, match="loftq makes up for what 4 bits lose"):
        TrainConfig(init="loftq", mode="lora-8bit")
    with pytest.raises(BadValue, match="dora measures"):
        TrainConfig(init="loftq", mode="qlora", dora=True)
    with pytest.raises(ModelUnusable, match="loftq needs it"):
        loftq.originals(tmp_path)("layers.0.q_proj")
