"""Going on with a run: found by name, refused by name, extended, evaluated; on a tiny real model."""

import json
import os
import shutil

import pytest

from backpropagate import Trainer
from bp_core.errors import (
    BadValue,
    CheckpointUnusable,
    Interrupted,
    ResumeMismatch,
    RunAlive,
    TargetNotFound,
)
from bp_core.events import Evaluated, Started, Stepped, StoppedEarly, Warned
from bp_runs import Claim

SETTINGS = dict(
    backend="cpu", rank=4, batch_size=4, learning_rate=1e-2, max_length=64, dtype="float32", checkpoint_every=1
)


def trainer(model, output, **changes):
    return Trainer(str(model), output=str(output), **SETTINGS | changes)


class Cut(Exception):
    pass


def cut_at(step):
    def watch(event):
        if isinstance(event, Stepped) and event.step == step:
            raise Cut

    return watch


def begun(model, rows, output, step=3, steps=5, **changes):
    """A run cut off at a step; its folder."""
    with pytest.raises(Cut):
        trainer(model, output, **changes).train(rows, steps=steps, watch=cut_at(step))
    return max((output / "runs").iterdir())


def quiet(event):
    return None


def weights(output):
    return (output / "lora" / "adapter_model.safetensors").read_bytes()


def test_resume_needs_no_data_and_ends_with_the_same_bytes(tiny_llama, rows, tmp_path, backprop, monkeypatch):
    trainer(tiny_llama, tmp_path / "whole").train(rows, steps=5, watch=quiet)
    run = begun(tiny_llama, rows, tmp_path / "cut")
    monkeypatch.chdir(tmp_path)
    code, out, _ = backprop("resume", run.name[:13], "--output", "cut", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["id"] == run.name and len(found["losses"]) == 5
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished" and record["recipe"]["model"] == str(tiny_llama)


@pytest.mark.parametrize(
    "words",
    [
        ["--resume", "RUN"],
        *(pytest.param(w, marks=pytest.mark.slow) for w in (["--resume"], ["--resume", "--dtype", "float32"])),
    ],
)
def test_train_resume_takes_a_name_or_none(tiny_llama, rows, tmp_path, backprop, words):
    run = begun(tiny_llama, rows, tmp_path)
    options = {**SETTINGS, "data": rows, "model": tiny_llama, "output": tmp_path, "steps": 5}
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, _, said = backprop("train", *given, *[run.name if word == "RUN" else word for word in words])
    assert code == 0, said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]


def test_a_name_that_fits_none_or_several(tiny_llama, rows, tmp_path):
    runs = [begun(tiny_llama, rows, tmp_path, seed=seed) for seed in (1, 2)]
    assert runs[0].name < runs[1].name  # in the order of their beginning, also within a second
    tuned = trainer(tiny_llama, tmp_path)
    with pytest.raises(TargetNotFound, match="2 runs begin with '20'"):
        tuned.train(rows, steps=5, resume="20", watch=quiet)
    with pytest.raises(TargetNotFound, match="run or model 'x'"):
        tuned.train(rows, steps=5, resume="x", watch=quiet)
    (runs[1] / "run.json").write_text("{")
    with pytest.raises(CheckpointUnusable, match=r"run\.json"):
        tuned.train(rows, steps=5, resume=runs[1].name, watch=quiet)


def test_changes_are_refused_by_name_unless_allowed(tiny_llama, rows, tmp_path):
    run = begun(tiny_llama, rows, tmp_path)
    rows.write_text(rows.read_text().replace("Question 3", "Question three"))
    changed = trainer(tiny_llama, tmp_path, learning_rate=3e-3, max_temp=70.0)
    with pytest.raises(ResumeMismatch, match=r"learning_rate was 0\.01, is 0\.003; the data changed\."):
        changed.train(rows, steps=5, resume=True, watch=quiet)
    events = []
    changed.train(rows, steps=5, resume=True, allow_changes=True, watch=events.append)
    said = [event.message for event in events if isinstance(event, Warned)]
    assert said == ["going on although learning_rate was 0.01, is 0.003.", "going on although the data changed."]
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"]["learning_rate"] == 3e-3 and record["recipe"]["max_temp"] == 70.0


def test_other_weights_are_another_base(tiny_llama, rows, tmp_path):

    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    begun(model, rows, tmp_path / "out")
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-4096:] = bytes(4096)
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ResumeMismatch, match="the base changed"):
        trainer(model, tmp_path / "out").train(rows, steps=5, resume=True, watch=quiet)


def test_a_run_alive_elsewhere_is_not_taken_over(tiny_llama, rows, tmp_path):
    run = begun(tiny_llama, rows, tmp_path)
    with Claim(run), pytest.raises(RunAlive, match=f"process {os.getpid()}"):
        trainer(tiny_llama, tmp_path).train(rows, steps=5, resume=True, watch=quiet)


@pytest.mark.slow
def test_a_finished_run_is_extended_by_more_steps_only(tiny_llama, rows, tmp_path, backprop):
    run = trainer(tiny_llama, tmp_path).train(rows, steps=3, watch=quiet)
    first = weights(tmp_path)
    code, _, said = backprop("resume", run.id, "--output", tmp_path)
    assert code == 2 and "is finished" in said and "--steps larger than 3" in said
    code, out, _ = backprop("resume", run.id, "--output", tmp_path, "--steps", 6, "--json")
    assert code == 0 and len(json.loads(out)["losses"]) == 6
    assert weights(tmp_path) != first
    kept = run.folder / "lora-step-000003" / "adapter_model.safetensors"
    assert kept.read_bytes() == first


def test_the_best_evaluation_is_published_and_said(tiny_llama, rows, tmp_path):
    events, other = [], tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "Zebra quartz?", "completion": "Violin umbrella harbour."}) + "\n")
    tuned = trainer(tiny_llama, tmp_path, eval_data=str(other), eval_every=1, patience=2, learning_rate=0.1)
    run = tuned.train(rows, steps=12, watch=events.append)
    looks = [event for event in events if isinstance(event, Evaluated)]
    best = min(looks, key=lambda event: event.loss)
    assert run.published_step == best.step < looks[-1].step == best.step + 2
    assert run.eval_loss == best.loss and run.perplexity == best.perplexity
    assert [event.best_step for event in events if isinstance(event, StoppedEarly)] == [best.step]
    checkpoint = run.folder / "checkpoints" / f"step-{best.step:06d}"
    assert checkpoint.is_dir()
    origin = json.loads((run.adapter / "run.json").read_text())
    assert origin["step"] == best.step


@pytest.mark.slow
def test_an_evaluation_file_and_its_defaults(tiny_llama, rows, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "Hello?", "completion": "Yes."}) + "\n")
    tuned = trainer(tiny_llama, tmp_path / "out", eval_data=str(other))
    plan = tuned.plan(rows, steps=40)
    assert plan.recipe.eval_every == 4 and plan.data["evaluation_examples"] == 1
    assert tuned.train(rows, steps=2, watch=quiet).eval_loss > 0


@pytest.mark.parametrize("settings", [{"patience": 2}, {"eval_every": 3}, {"eval_data": "x", "held_out": 0.1}])
def test_settings_that_would_change_nothing_are_refused(settings):
    with pytest.raises(BadValue):
        Trainer(**settings)


def test_an_interrupted_run_says_how_to_go_on(tiny_llama, rows, tmp_path):
    def press(event):
        if isinstance(event, Started):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        trainer(tiny_llama, tmp_path).train(rows, steps=3, watch=press)
    (run,) = (tmp_path / "runs").iterdir()
    assert caught.value.fix.endswith(f"backprop resume {run.name} --output {tmp_path}")
