"""Every way to train, on a tiny real model from settings to proven file."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from backpropagate import Trainer
from backpropagate.export.chat import speaker
from backpropagate.export.export import samples_of
from backpropagate.models.targets import Artifact
from bp_core.contract import Contract
from bp_core.errors import AdapterUnusable, BadValue, ModelTooLarge
from bp_core.folders import damage

SETTINGS = dict(backend="cpu", batch_size=4, learning_rate=5e-3, max_length=64, dtype="float32", report_to="none")
METHODS = {
    "rslora": dict(rslora=True, rank=32),
    "dora": dict(dora=True),
    "orthogonal": dict(init="orthogonal"),
    "pissa": dict(init="pissa", learning_rate=1e-3),
    "olora": dict(init="olora", learning_rate=1e-3),
    "named layers": dict(target_modules="q_proj,v_proj,down_proj"),
    "qlora": dict(mode="qlora"),
    "loftq": dict(mode="qlora", init="loftq"),
    "8-bit base": dict(mode="lora-8bit"),
    "full": dict(mode="full", learning_rate=2e-3),
}
WORDS = [3, 500, 1200, 77, 9]


QUANTIZED = {"qlora": "nf4", "8-bit base": "int8"}


def quiet(event):
    return None


def trainer(model, output, **changes):
    return Trainer(str(model), output=str(output), **SETTINGS | changes)


QUICK = ("qlora",)  # the others take their time in the slow tier
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("method", EACH)
def test_every_method_is_trained_exported_and_proven(method, tiny_llama, rows, tmp_path):
    tuned = trainer(tiny_llama, tmp_path / "out", **METHODS[method])
    run = tuned.train(rows, steps=6, watch=quiet)
    assert run.losses[-1] < run.losses[0] - 0.5
    done = tuned.export("gguf", quantization="q8_0", notify=quiet)
    assert done.parity.proven and done.parity.compared_with == "model"
    assert done.parity.losses["base"] > done.parity.losses["final"] + 0.5
    assert {*done.parity.losses} & {*QUANTIZED.values()} == ({QUANTIZED[method]} if method in QUANTIZED else set())
    assert done.path == tmp_path / "out" / "tiny-llama-q8_0.gguf"


@pytest.fixture
def full(tiny_llama, rows, tmp_path):
    tuned = trainer(tiny_llama, tmp_path / "out", mode="full", learning_rate=2e-3)
    run = tuned.train(rows, steps=3, watch=quiet)
    yield tuned, run
    tuned.close()


def test_a_full_fine_tune_leaves_an_ordinary_model(full, tiny_llama, tmp_path):
    tuned, run = full
    assert run.adapter == tuned.adapter == tmp_path / "out" / "model" == Artifact.find(tmp_path / "out").folder
    assert damage(run.adapter) is None and not (tmp_path / "out" / "lora").exists()
    assert (run.adapter / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert Contract.read(run.adapter).stop == ("<|im_end|>",)
    expected = tuned._rail.logits(WORDS)
    model = AutoModelForCausalLM.from_pretrained(run.adapter)
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor([WORDS])).logits[0].numpy(), expected, atol=1e-5)


def test_left_open_the_number_format_keeps_trained_weights_in_float32_on_the_host(tiny_llama, rows, tmp_path):
    tuned = trainer(tiny_llama, tmp_path / "out", mode="full", dtype="auto")
    recipe = tuned.plan(rows).recipe
    assert recipe.dtype == "auto" and "float32" in recipe.why["dtype"]
    run = tuned.train(rows, steps=1, watch=quiet)
    tuned.close()
    assert AutoModelForCausalLM.from_pretrained(run.adapter).dtype == torch.float32


def test_before_and_after_a_full_fine_tune_can_be_asked(full, tiny_llama, rows, tmp_path):
    tuned, run = full
    untrained = trainer(tiny_llama, tmp_path / "other").generate("Question 3?", limit=5)
    after = tuned.generate("Question 3?", limit=5)
    assert tuned.generate("Question 3?", limit=5, adapter=False) == untrained
    tuned.close()
    assert tuned.generate("Question 3?", limit=5) == after
    with speaker(str(tmp_path / "out")) as model:
        assert isinstance(model.answer([{"role": "user", "content": "Question 3?"}], 5, quiet), str)
    assert samples_of(Artifact.find(run.adapter), tiny_llama) != []


def test_a_whole_model_is_exported_as_a_folder_but_not_as_an_adapter(full, tmp_path):
    tuned, run = full
    done = tuned.export("merged", notify=quiet)
    weights = "model.safetensors"
    assert (done.path / weights).read_bytes() == (run.adapter / weights).read_bytes()
    with pytest.raises(AdapterUnusable, match="no adapter"):
        tuned.export("lora", notify=quiet)


def test_without_its_base_a_whole_model_is_still_proven(full, tmp_path):
    tuned, run = full
    origin = json.loads((run.adapter / "run.json").read_text())
    for path in (run.adapter / "run.json", run.adapter / "manifest.json"):
        path.unlink()
    done = tuned.export("gguf", quantization="f16", output=str(tmp_path / "x.gguf"), notify=quiet)
    assert origin["base"] and done.parity.proven and "base" not in done.parity.losses


def test_another_run_moves_a_whole_model_and_loses_nothing(full, rows, tmp_path):
    tuned, first = full
    before = (first.adapter / "model.safetensors").read_bytes()
    second = tuned.train(rows, steps=1, watch=quiet)
    assert (first.folder / "model" / "model.safetensors").read_bytes() == before
    assert (
        Artifact.find(first.folder).folder == first.folder / "model"
        and Artifact.find(second.folder).folder == second.adapter
    )


@pytest.mark.slow
def test_a_resumed_full_fine_tune_ends_with_the_same_weights(tiny_llama, rows, tmp_path):
    class Cut(Exception):
        pass

    def cut(event):
        if getattr(event, "step", 0) == 3:
            raise Cut

    options = dict(mode="full", dtype="bfloat16", checkpoint_every=1, learning_rate=1e-3)
    whole = trainer(tiny_llama, tmp_path / "whole", **options).train(rows, steps=4, watch=quiet)
    with pytest.raises(Cut):
        trainer(tiny_llama, tmp_path / "cut", **options).train(rows, steps=4, watch=cut)
    again = trainer(tiny_llama, tmp_path / "cut", **options).train(rows, steps=4, resume=True, watch=quiet)
    read = [(run.adapter / "model.safetensors").read_bytes() for run in (whole, again)]
    assert read[0] == read[1]


def test_a_model_too_large_to_train_whole_is_refused_from_its_headers(rows, tiny_llama, tmp_path):
    giant = tmp_path / "giant"
    giant.mkdir()
    for path in tiny_llama.iterdir():
        if path.suffix == ".json":
            (giant / path.name).write_bytes(path.read_bytes())
    # A sparse file: a header that promises 4.1 billion numbers, and a hole.
    count = 4_100_000_000
    header = {"a": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}}
    text = json.dumps(header).encode()
    with (giant / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * count)
    with pytest.raises(ModelTooLarge, match=r"4\.1 billion") as caught:
        trainer(giant, tmp_path / "out", mode="full").train(rows, steps=1, watch=quiet)
    assert re.search(r"up to 4 billion, and the \S+ GiB free here would hold about \S+ billion", str(caught.value))
    assert "--mode lora" in caught.value.fix and "llama-3.2-1b" in caught.value.fix
    assert "qwen2.5-7b" not in caught.value.fix
    assert list((tmp_path / "out").iterdir()) == []


def test_settings_of_adapters_are_refused_with_mode_full():
    with pytest.raises(BadValue) as caught:
        Trainer(mode="full", rslora=True, dora=True, rank=8, init="pissa", target_modules="q_proj", alpha=3.0)
    for name in ("rslora", "dora", "rank", "init", "target_modules", "alpha"):
        assert f"{name} is a setting of adapters" in str(caught.value)
