"""What a run will need is told before it, without loading it, and held against the run afterwards."""

import json

import pytest

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_plan.memory import GIB


@pytest.fixture
def estimated(capsys):
    def run(*words):
        assert exit_code_of(app, ["estimate-vram", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_preset_is_estimated_for_a_card_that_is_not_here(estimated):
    found = estimated("qwen2.5-7b", "--memory", 18)
    memory = found["preflight"]["memory"]
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total") <= 18 * GIB
    assert found["preflight"]["fits"] and found["recipe"]["activation_checkpointing"]
    assert found["device"] == "cuda with 18 GiB free" and found["recipe"]["dtype"] == "bfloat16"
    needs = {name for disk in found["preflight"]["disks"] for name in disk["needs"]}
    assert needs == {"checkpoints", "adapter", "the base"}


def test_a_7b_fits_a_card_of_16_gb_by_itself(estimated):
    found = estimated("qwen2.5-7b", "--memory", 15.2)
    assert found["preflight"]["fits"] and found["recipe"]["mode"] == "qlora"
    assert found["recipe"]["why"]["mode"] == "auto: bfloat16 weights would need 16.5 of 15.2 GiB, 4 bits need 13.0"


def test_each_mode_has_its_memory_and_its_disk(estimated):
    found = {mode: estimated("llama-3.2-1b", "--memory", 24, "--mode", mode) for mode in ("lora", "qlora", "full")}
    memory = {mode: one["preflight"]["memory"] for mode, one in found.items()}
    needs = {mode: one["preflight"]["disks"][-1]["needs"] for mode, one in found.items()}
    assert memory["qlora"]["weights"] < 0.45 * memory["lora"]["weights"]
    assert memory["full"]["optimizer"] > 20 * memory["lora"]["optimizer"] and memory["full"]["adapter"] == 0
    assert found["full"]["recipe"]["optimizer"] == "paged-adamw-8bit"
    parameters = 1_235_814_400
    assert needs["full"]["model"] == 2 * parameters
    assert needs["full"]["checkpoints"] == pytest.approx(4 * (2 + 2 + 8 / 256) * parameters, rel=1e-6)
    float_moments = estimated("llama-3.2-1b", "--memory", 24, "--mode", "full", "--optimizer", "adamw")
    assert float_moments["preflight"]["memory"]["optimizer"] > 3 * memory["full"]["optimizer"]


def test_what_does_not_fit_is_said_with_what_would(estimated):
    found = estimated("llama-3.1-8b", "--memory", 6)
    assert found["preflight"]["fits"] is False and found["recipe"]["mode"] == "qlora"
    assert any("6.0 are free" in remark for remark in found["remarks"])
    assert any("training would be refused" in remark and "--model" in remark for remark in found["remarks"])
    assert any("licence" in remark for remark in found["remarks"])


def test_a_model_that_mode_full_refuses_is_said_to_be_refused(estimated):
    refused, words = "training would be refused", ("--memory", 80, "--mode", "full")
    found = {name: estimated(name, *words)["remarks"] for name in ("qwen2.5-7b", "smollm3-3b")}
    assert any(refused in remark and "7.6 billion" in remark for remark in found["qwen2.5-7b"])
    assert not any(refused in remark for remark in found["smollm3-3b"])


@pytest.mark.parametrize("words", [("--rank", 64), ("--max-length", 4096), ("--dropout", 0.1), ("--dora",)])
def test_settings_change_the_estimate(estimated, words):
    common = ("llama-3.2-1b", "--memory", 80, "--micro-batch", 1)
    plain, other = (estimated(*common, "--no-activation-checkpointing", *more) for more in ((), words))
    less = estimated(*common, "--activation-checkpointing")
    plain, other, less = (found["preflight"]["memory"]["total"] for found in (plain, other, less))
    assert less < plain < other


def test_a_table_for_people(tiny_llama, capsys):
    assert exit_code_of(app, ["estimate-vram", str(tiny_llama), "--backend", "cpu"]) == 0
    page = capsys.readouterr().out
    assert "activations" in page and "GiB are free" in page and "Time: not known yet" in page


def test_a_plan_tells_what_the_run_then_shows_to_be_so(rows, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))  # no pace of another test's run
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), backend="cpu", dtype="float32")
    plan = trainer.plan(rows, steps=3)
    assert plan.preflight.fits and plan.preflight.seconds is None and plan.recipe.dtype == "float32"
    seen = []
    run = trainer.train(rows, steps=3, watch=seen.append)
    told = [event.describe() for event in seen if type(event).__name__ == "Planned"]
    assert told == [plan.preflight.message()] or "Memory: about" in told[0]
    record = json.loads((run.folder / "run.json").read_text())
    assert record["first_step"]["expected"] == record["preflight"]["memory"]["total"]
    assert record["first_step"]["peak_memory"] > 0
    again = trainer.plan(rows, steps=300)
    assert again.preflight.seconds > 0 and "Time: about" in again.preflight.message()
