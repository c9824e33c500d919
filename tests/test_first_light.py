"""The main job on a tiny real model: train, prove, export, chat."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from backpropagate import Trainer
from backpropagate.export.chat import speaker
from backpropagate.export.export import samples_of
from backpropagate.models.targets import Artifact
from bp_core.contract import Contract
from bp_core.errors import NothingToResume, ResumeMismatch
from bp_core.events import Finished, MemoryShrunk, Opened, Planned, Started, Stepped
from bp_core.folders import damage
from bp_cuda import device as devices

SETTINGS = dict(backend="cpu", rank=8, batch_size=4, learning_rate=1e-2, max_length=64, dtype="float32")
SETTINGS["report_to"] = "none"  # a tracker costs a process a run
WORDS = [3, 500, 1200, 77, 9]


def trainer(model, output, **changes):
    return Trainer(str(model), output=str(output), **SETTINGS | changes)


def quiet(event):
    return None


@pytest.fixture
def trained(tiny_llama, rows, tmp_path):
    tuned = trainer(tiny_llama, tmp_path / "out")
    run = tuned.train(rows, steps=8, watch=quiet)
    yield tuned, run
    tuned.close()


def test_training_leaves_a_whole_adapter_and_a_record(trained, tiny_llama):
    _, run = trained
    assert len(run.losses) == 8 and run.losses[-1] < run.losses[0]
    assert damage(run.adapter) is None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (run.adapter / name).read_bytes() == (tiny_llama / name).read_bytes()
    contract = Contract.read(run.adapter)
    assert contract.stop == ("<|im_end|>",) and "<|im_start|>" in contract.template
    record = json.loads((run.folder / "run.json").read_text())
    assert record["status"] == "finished" and record["recipe"]["alpha"] == 16.0
    assert record["recipe"]["why"]["alpha"] == "2 × rank"
    events = [json.loads(line)["event"] for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert events[:2] == ["Planned", "Started"] and events.count("Stepped") == 8 and events[-1] == "Finished"
    assert list((run.folder / "checkpoints").iterdir())


def test_peft_loads_the_adapter_with_the_trained_models_logits(trained, tiny_llama):
    tuned, run = trained
    expected = tuned._rail.logits(WORDS)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        plain = base(torch.tensor([WORDS])).logits[0].numpy()
        logits = PeftModel.from_pretrained(base, run.adapter)(torch.tensor([WORDS])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(logits - plain).max() > 0.1


def test_the_exported_file_is_proven_and_answers(trained, tmp_path):
    tuned, _ = trained
    done = tuned.export("gguf", quantization="q4_k_m", overwrite=True, notify=quiet)
    assert done.path == tmp_path / "out" / "tiny-llama-q4_k_m.gguf" and done.parity.proven
    assert done.parity.compared_with == "model"
    assert set(done.parity.losses) == {"base", "adapter", "merged", "final"}
    assert done.parity.losses["merged"] == pytest.approx(done.parity.losses["adapter"], abs=1e-3)
    assert json.loads(done.parity_path.read_text())["proven"] is True
    assert "Q4_K" in done.parity.types
    with speaker(str(done.path)) as model:
        said = []
        answer = model.answer([{"role": "user", "content": "Question 3?"}], 12, said.append)
    assert answer == "".join(said)


@pytest.mark.slow
def test_an_independent_llama_cpp_answers_from_the_file(trained):
    done = trained[0].export("gguf", quantization="q4_k_m", overwrite=True, notify=quiet)
    code = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
server = xllamacpp.Server(params)
request = {"messages": [{"role": "user", "content": "Question 3?"}], "max_tokens": 8}
answer = server.handle_chat_completions(request)
print("ANSWER", json.dumps(answer["usage"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(done.path)], capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("ANSWER")), None)
    assert line, done.stderr[-2000:]
    assert json.loads(line.removeprefix("ANSWER "))["completion_tokens"] > 0


def test_merged_weights_are_an_ordinary_model(trained):
    tuned, _ = trained
    expected = tuned._rail.logits(WORDS)
    done = tuned.export("merged", notify=quiet)
    model = AutoModelForCausalLM.from_pretrained(done.path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([WORDS])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=0.02)  # the merged weights are float16, as the base's


def test_chat_through_the_adapter_streams_what_it_answers(trained):
    trained[0].close()
    with speaker(str(trained[1].adapter.parent)) as model:
        said = []
        answer = model.answer([{"role": "user", "content": "Question 3?"}], 12, said.append)
    assert answer == "".join(said) and len(said) <= 12


def test_a_second_run_moves_the_first_adapter_and_loses_nothing(trained, tiny_llama, rows, tmp_path):
    first = trained[1]
    before = (first.adapter / "adapter_model.safetensors").read_bytes()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    second = trainer(tiny_llama, tmp_path / "out", seed=7).train(rows, steps=2, watch=quiet)
    assert second.adapter == first.adapter and second.id != first.id
    assert (first.folder / "lora" / "adapter_model.safetensors").read_bytes() == before
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert (
        Artifact.find(first.folder).folder == first.folder / "lora"
        and Artifact.find(second.folder).folder == second.adapter
    )
    assert samples_of(Artifact.find(first.id), tiny_llama) == samples_of(Artifact.find(second.id), tiny_llama) != []


def test_an_adapter_from_elsewhere_is_moved_aside(tiny_llama, rows, tmp_path):
    foreign = tmp_path / "out" / "lora"
    foreign.mkdir(parents=True)
    (foreign / "adapter_config.json").write_text("{}")
    trainer(tiny_llama, tmp_path / "out").train(rows, steps=1, watch=quiet)
    (kept,) = (tmp_path / "out").glob("lora-until-*")
    assert (kept / "adapter_config.json").read_text() == "{}"


def test_micro_batches_of_one_train_like_the_whole_batch(tiny_llama, rows, tmp_path):
    plain = trainer(tiny_llama, tmp_path / "plain").train(rows, steps=3, watch=quiet)
    small = trainer(tiny_llama, tmp_path / "small", micro_batch=1).train(rows, steps=3, watch=quiet)
    np.testing.assert_allclose(small.losses, plain.losses, rtol=1e-4)


BACKPROP = [sys.executable, "-c", "from backpropagate.cli.app import main; main()"]


def arguments(model, rows, output):
    options = {**SETTINGS, "model": model, "data": rows, "output": output, "steps": 20, "checkpoint_every": 1}
    return ["train", *(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value)))]


def weights(output):
    return (output / "lora" / "adapter_model.safetensors").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on Windows")
@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bytes(tiny_llama, rows, tmp_path):
    whole = subprocess.run(
        [*BACKPROP, *arguments(tiny_llama, rows, tmp_path / "whole"), "--json"], capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    assert len(json.loads(whole.stdout)["losses"]) == 20
    process = subprocess.Popen(
        [*BACKPROP, *arguments(tiny_llama, rows, tmp_path / "cut")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(lambda: len(list((tmp_path / "cut").glob("runs/*/checkpoints/step-*"))) >= 2, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "cut" / "lora").exists()
    resumed = subprocess.run(
        [*BACKPROP, *arguments(tiny_llama, rows, tmp_path / "cut"), "--resume"], capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def wait_for(happened, process):
    until = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < until, "the run ended or hung"
        time.sleep(0.02)


def test_resume_refuses_other_work_by_name(tiny_llama, rows, tmp_path):
    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, Stepped) and event.step == 3:
            raise Cut

    tuned = trainer(tiny_llama, tmp_path / "out", checkpoint_every=1)
    with pytest.raises(NothingToResume):
        tuned.train(rows, steps=5, resume=True, watch=quiet)
    with pytest.raises(Cut):
        tuned.train(rows, steps=5, watch=cut)
    with pytest.raises(ResumeMismatch, match="rank was 8, is 4"):
        trainer(tiny_llama, tmp_path / "out", rank=4, alpha=16.0).train(rows, steps=5, resume=True, watch=quiet)
    with pytest.raises(ResumeMismatch, match="train_on was 'assistant', is 'all'"):
        trainer(tiny_llama, tmp_path / "out", train_on="all").train(rows, steps=5, resume=True, watch=quiet)
    rows.write_text(rows.read_text().replace("Question 3", "Question three"))
    with pytest.raises(ResumeMismatch, match="the data changed"):
        tuned.train(rows, steps=5, resume=True, watch=quiet)


def test_a_plan_explains_itself_and_writes_nothing(tiny_llama, rows, tmp_path):
    plan = trainer(tiny_llama, tmp_path / "out").plan(rows, epochs=2)
    assert plan.recipe.steps == 6 and "2 epochs" in plan.recipe.why["steps"]
    assert plan.data["rows"] == 12 and plan.device == "cpu"
    assert not (tmp_path / "out").exists()


def test_on_a_card_it_is_told_what_computes(tiny_llama, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "card", lambda device: "GPU-of-this-test")  # the processor plays one
    events = []
    run = trainer(tiny_llama, tmp_path / "out").train(rows, steps=1, watch=events.append)
    (told,) = [event.describe() for event in events if isinstance(event, Opened)]
    assert told.endswith(": attention by torch, example by example, layers in groups, losses in chunks.")
    assert json.loads((run.folder / "run.json").read_text())["opened"]["computed_by"] in told


def test_events_reach_whoever_watches(tiny_llama, rows, tmp_path):
    events = []
    trainer(tiny_llama, tmp_path / "out").train(rows, steps=2, watch=events.append)
    kinds = [type(event) for event in events]
    assert (
        kinds[:2] == [Planned, Started]
        and kinds.count(Stepped) == 2
        and kinds[-1] is Finished
        and MemoryShrunk not in kinds
    )


def test_rows_given_in_python_train_like_a_file(tiny_llama, rows, tmp_path):
    given = [json.loads(line) for line in Path(rows).read_text().splitlines()]
    from_file = trainer(tiny_llama, tmp_path / "a").train(rows, steps=2, watch=quiet)
    from_list = trainer(tiny_llama, tmp_path / "b").train(given, steps=2, watch=quiet)
    assert from_file.losses == from_list.losses
    assert os.listdir(tmp_path / "b" / "lora") == os.listdir(tmp_path / "a" / "lora")
