import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import batch, opened, save_tiny
from transformers import AutoModelForCausalLM

from bp_cuda import adapter, initialization

KINDS = {
    "rslora": dict(rslora=True, rank=8),
    "dora": dict(dora=True),
    "dora with rslora": dict(dora=True, rslora=True),
    "orthogonal": dict(init="orthogonal"),
    "pissa": dict(init="pissa"),
    "pissa, iterated": dict(init="pissa_niter_16"),
    "pissa with rslora": dict(init="pissa", rslora=True),
    "olora": dict(init="olora"),
    "named layers": dict(target_modules="q_proj, down_proj"),
}
WORDS = [5, 17, 200, 31, 8]


def go(rail, seeds, rate=5e-3):
    for seed in seeds:
        rail.accumulate(batch(seed=seed), 0.05)
        rail.update(rate)


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([WORDS])).logits[0].numpy()


OTHERS = [(family, kind) for family in ("qwen2", "gemma3_text", "phi3") for kind in ("dora", "pissa")]


@pytest.mark.parametrize(("family", "kind"), [*(("llama", kind) for kind in KINDS), *OTHERS])
def test_peft_reads_what_was_trained_on_the_untouched_base(kind, family, tmp_path):
    folder = save_tiny(tmp_path / family, family)
    rail = opened(folder, **KINDS[kind])
    np.testing.assert_allclose(rail.logits(WORDS), logits(base_model(folder)), atol=5e-5)  # starts as the base
    go(rail, range(3))
    (tmp_path / "lora").mkdir()
    rail.write_adapter(tmp_path / "lora")
    read = PeftModel.from_pretrained(base_model(folder), tmp_path / "lora")
    np.testing.assert_allclose(logits(read), rail.logits(WORDS), atol=5e-5)
    merged = logits(read.merge_and_unload())
    np.testing.assert_allclose(merged, rail.logits(WORDS), atol=2e-4)
    assert np.abs(merged - logits(base_model(folder))).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_run_ends_with_the_same_bytes(kind, tiny, tmp_path):
    def written(rail, name):
        (tmp_path / name).mkdir()
        rail.write_adapter(tmp_path / name)
        return [(tmp_path / name / file).read_bytes() for file in ("adapter_model.safetensors", "adapter_config.json")]

    straight, first = opened(tiny, **KINDS[kind]), opened(tiny, **KINDS[kind])
    go(straight, range(4))
    go(first, range(2))
    (tmp_path / "state").mkdir()
    first.save(tmp_path / "state")
    second = opened(tiny, seed=99, **KINDS[kind])  # it would start elsewhere
    second.restore(tmp_path / "state")
    go(second, range(2, 4))
    assert written(second, "resumed") == written(straight, "straight")


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_base_alone_is_the_base_and_looking_at_it_changes_no_training(init, tiny):
    looked, not_looked = opened(tiny, init=init), opened(tiny, init=init)
    go(looked, range(2))
    go(not_looked, range(2))
    np.testing.assert_allclose(looked.logits(WORDS, adapter=False), logits(base_model(tiny)), atol=5e-5)
    assert {n for n, p in looked.model.named_parameters() if p.requires_grad} == looked.parameters.keys()
    go(looked, [2])
    go(not_looked, [2])
    assert all(torch.equal(p, not_looked.parameters[n]) for n, p in looked.parameters.items())


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_training_beside_the_base_equals_pefts_training_on_what_is_left_of_it(init, tiny):
    rail = opened(tiny, init=init)
    theirs = get_peft_model(
        base_model(tiny),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=init, task_type="CAUSAL_LM"),
    )
    parameters = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    assert parameters.keys() == rail.parameters.keys()
    for name, parameter in rail.parameters.items():
        torch.testing.assert_close(parameter, parameters[name], atol=1e-6, rtol=1e-4)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.0)
    b = batch((14,))
    for _ in range(5):
        labels = torch.where(torch.tensor(b.trained), torch.tensor(b.tokens).long(), -100)
        count = int((labels >= 0).sum())
        theirs(input_ids=torch.tensor(b.tokens).long()[None], labels=labels[None]).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rail.accumulate(b, 1 / count)
        rail.update(1e-3)
    np.testing.assert_allclose(rail.logits(WORDS), logits(theirs), atol=2e-3)
    assert np.abs(rail.logits(WORDS) - logits(base_model(tiny))).max() > 0.1


@pytest.mark.filterwarnings("ignore:OLoRA changes the base weights")
def test_the_settings_are_those_that_peft_writes_when_it_converts(tiny, tmp_path):
    for name, options in {"plain": {}, "rslora": {"use_rslora": True}}.items():
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights="olora", **options)
        theirs, ours = tmp_path / name / "theirs", tmp_path / name / "ours"
        model = get_peft_model(base_model(tiny), config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(theirs / "start")
        model.peft_config["default"].init_lora_weights = "olora"
        model.save_pretrained(theirs, path_initial_model_for_weight_conversion=theirs / "start")
        ours.mkdir()
        opened(tiny, init="olora", rslora=bool(options), target_modules="q_proj").write_adapter(ours)
        read = [json.loads((folder / "adapter_config.json").read_text()) for folder in (theirs, ours)]
        for key in ("r", "lora_alpha", "use_rslora", "init_lora_weights"):
            assert read[0][key] == read[1][key], (name, key)


def test_orthogonal_factors_are_pefts():
    layer = get_peft_model(torch.nn.Sequential(torch.nn.Linear(24, 16)), LoraConfig(r=6, target_modules=["0"]))
    theirs = layer.base_model.model[0]
    torch.manual_seed(5)
    theirs.orthogonal_init("default")
    torch.manual_seed(5)
    a, b = initialization.orthogonal(16, 24, 6)
    assert torch.equal(theirs.lora_A["default"].weight, a) and torch.equal(theirs.lora_B["default"].weight, b)
    assert (b @ a).abs().max() < 1e-6 < a.abs().max()


def test_named_layers_only(tiny):
    rail = opened(tiny, target_modules="q_proj,down_proj")
    assert {name.split(".")[-4] for name in rail.parameters} == {"q_proj", "down_proj"}
    assert not adapter.frozen(rail.model)


def test_dropout_leaves_the_frozen_part_alone(tiny):
    rail = opened(tiny, init="pissa", dropout=0.5)
    layer = next(module for module in rail.model.modules() if isinstance(module, adapter.LoraLayer))
    assert layer.lora_dropout["default"].p == 0.5
    assert not isinstance(layer.lora_dropout["start"], torch.nn.Dropout)
