"""Liger's kernels: what they are put into. They compute on cards only."""

import pytest
import torch
from tiny_models import batch, recipe, save_tiny
from transformers import AutoModelForCausalLM

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, ModelUnusable, PackageMissing
from bp_core.rail import Job
from bp_cuda import requirements
from bp_cuda.rail import CpuRail, CudaRail


def test_it_needs_a_card_and_the_package_told_before_anything_loads(tmp_path, monkeypatch):
    with pytest.raises(BadValue, match="liger has kernels for NVIDIA cards only"):
        CpuRail().open(Job(tmp_path / "nowhere", recipe=recipe(liger=True)))
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match="liger needs liger-kernel") as caught:
        requirements.check(TrainConfig(liger=True), "cuda", (8, 6))
    assert "bp-cuda[liger]" in caught.value.fix


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "smollm3"])
def test_norms_and_mlps_of_this_model_and_of_no_other_are_replaced(family, tmp_path):
    liger = pytest.importorskip("bp_cuda.liger", reason="needs the group `liger`")
    folder, words = save_tiny(tmp_path, family), torch.tensor([[5, 17, 200, 31]])
    model, other = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    before = other(words).logits
    liger.patch(model)
    forwards = {name: module.forward.__module__ for name, module in model.named_modules()}
    replaced = {name for name, where in forwards.items() if where.startswith("liger_kernel")}
    layers = model.config.num_hidden_layers
    assert sum(name.endswith(".mlp") for name in replaced) == layers
    assert sum("norm" in name for name in replaced) >= 2 * layers + 1
    assert torch.equal(other(words).logits, before)  # on the CPU, where Liger's kernels cannot run
    later = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(later(words).logits, before)


@pytest.mark.parametrize("family", ["bloom", "gpt_oss"])
def test_a_family_that_it_does_not_know_is_refused_by_name(family, tmp_path):
    liger = pytest.importorskip("bp_cuda.liger", reason="needs the group `liger`")
    model = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path, family))
    if family in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        pytest.skip(f"Liger knows {family} now")
    with pytest.raises(ModelUnusable, match=family) as caught:
        liger.patch(model)
    assert "llama" in caught.value.fix


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_a_card_computes_the_same_by_them(family, tmp_path):
    pytest.importorskip("liger_kernel")
    folder, found = save_tiny(tmp_path, family), []
    for liger in (False, True):
        rail = CudaRail()
        rail.open(Job(folder, recipe=recipe(liger=liger, dtype="bfloat16"), dtype="bfloat16"))
        loss = rail.accumulate(batch(), 0.1)
        found.append((loss, torch.cat([p.grad.flatten() for p in rail.parameters.values()])))
    (loss, gradient), (other, theirs) = found
    assert other == pytest.approx(loss, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, theirs, dim=0) > 0.99
