"""The doctor: what it finds with NVIDIA's driver played by a small program, and what each finding says to do."""

import json
import os
import sys
from dataclasses import replace

import pytest

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.doctor import card, surroundings
from backpropagate.doctor.finding import Examination, Finding
from backpropagate.doctor.nvidia_smi import card_names, read_driver
from bp_core.rail import Probe

# Answers as the driver of an RTX 4060 Ti gives them.
ANSWERS = {
    "name": "NVIDIA GeForce RTX 4060 Ti",
    "driver_version": "560.94",
    "memory.total": "16380",
    "memory.used": "1180",
    "compute_cap": "8.9",
    "display_active": "Enabled",
    "temperature.gpu": "41",
    "power.draw": "9.61",
    "power.limit": "165.00",
    "clocks_throttle_reasons.hw_thermal_slowdown": "Not Active",
    "clocks_throttle_reasons.sw_thermal_slowdown": "Not Active",
    "pid": "4242",
    "process_name": "python3",
    "used_memory": "3072",
}
PROGRAM = """#!{python}
import json, sys
answers = json.loads({answers!r})
asked = [word.partition("=")[2] for word in sys.argv if word.startswith("--query")]
if not asked:
    print("| NVIDIA-SMI 560.94    Driver Version: 560.94    CUDA Version: {cuda} |")
elif any(name not in answers for name in asked[0].split(",")):
    sys.exit("Field is not a valid field to query.")
else:
    print(", ".join(answers[name] for name in asked[0].split(",")))
"""
CUDA = Probe(True, "card", toolkit="12.8")


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """NVIDIA's driver on this machine, with other answers where they are given; None takes one away."""
    if sys.platform == "win32":
        pytest.skip("a script cannot be called by its name alone on Windows")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def install(cuda="12.6", **changes):
        answers = {name: value for name, value in (ANSWERS | changes).items() if value is not None}
        text = PROGRAM.format(python=sys.executable, answers=json.dumps(answers), cuda=cuda)
        (tmp_path / "nvidia-smi").write_text(text)
        (tmp_path / "nvidia-smi").chmod(0o755)
        return read_driver()

    return install


def found(driver, probe=CUDA):
    return {finding.what: finding for finding in card.findings(driver, probe)}


def test_a_driver_is_read(driver):
    read = driver()
    (one,) = read.cards
    assert one.name == "NVIDIA GeForce RTX 4060 Ti" and one.memory == 16380 * 2**20 and one.used == 1180 * 2**20
    assert one.capability == (8, 9) and one.shows_screen and one.power == 9.61 and not one.too_hot
    assert read.cuda == (12, 6) and read.processes[0].memory == 3072 * 2**20
    assert card_names() == ["NVIDIA GeForce RTX 4060 Ti"]


def test_an_old_driver_that_knows_fewer_fields_is_read_too(driver):
    read = driver(**{"compute_cap": None, "display_active": None, "power.draw": "[N/A]"})
    assert read.cards[0].capability is None and read.cards[0].power is None and read.cards[0].temperature == 41
    assert found(read)["card"].message.endswith("driver 560.94.")


def test_without_a_driver_there_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_driver() is None and card_names() == []
    (finding,) = card.findings(None, CUDA)
    assert finding.verdict == "note"


def test_a_driver_that_does_not_answer_is_a_problem(driver):
    read = driver(name=None)
    assert read is None
    (finding,) = card.findings(read, CUDA)
    assert finding.verdict == "problem" and "does not reach" in finding.message


def test_what_a_card_can_do_follows_from_its_capability(driver):
    read = driver()
    assert "can do bfloat16, flash-attention, --fp8." in found(read)["card"].message
    turing = replace(read, cards=(replace(read.cards[0], capability=(7, 5)),))
    assert "cannot do bfloat16, flash-attention, --fp8" in found(turing)["card"].message
    assert "shows a screen" in found(read)["card"].message


@pytest.mark.parametrize(
    ("probe", "cuda", "verdict", "says"),
    [
        (CUDA, "12.6", "ok", "sees the card"),
        (Probe(False, "cuda", "this torch was built without CUDA"), "12.6", "problem", "built for processors only"),
        (Probe(False, "cuda", "no card", toolkit="13.0"), "12.6", "problem", "runs CUDA up to 12.6: too old"),
        (Probe(False, "cuda", "no card", toolkit="12.8"), "12.6", "problem", "A restart may be needed"),
        (None, "12.6", "problem", "is not installed"),
    ],
    ids=["fits", "processor build", "old driver", "not seen", "no backend"],
)
def test_torch_and_driver_must_fit(driver, probe, cuda, verdict, says):
    finding = found(driver(cuda), probe)["torch"]
    assert finding.verdict == verdict and says in finding.message
    assert bool(finding.command) == (verdict == "problem")


def test_heat_and_other_programs_are_told(driver):
    read = driver()
    assert found(read)["heat"].message == "NVIDIA GeForce RTX 4060 Ti: 41 °C, 10 of 165 W."
    assert "python3 (process 4242) computes on the card and holds 3.22 GB" in found(read)["process"].message
    hot = driver(**{"temperature.gpu": "91", "clocks_throttle_reasons.hw_thermal_slowdown": "Active"})
    assert found(hot)["heat"].verdict == "problem" and "slows down" in found(hot)["heat"].message


def test_a_card_that_torch_cannot_use_is_told_before_training_on_the_processor(driver):
    driver()
    told = card.idle_card(Probe(False, "cuda", "this torch was built without CUDA"))
    assert "RTX 4060 Ti" in told and "uv pip install --reinstall torch --torch-backend auto" in told
    assert "`backprop doctor` says why" in card.idle_card(Probe(False, "cuda", "no card", toolkit="13.0"))
    assert card.idle_card(CUDA) is None and card.idle_card(None) is None
    driver(name=None)
    assert card.idle_card(Probe(False, "cuda", "no card")) is None


def test_train_warns_of_it(driver, tiny_llama, rows, tmp_path):
    driver()
    if card.cuda_probe().available:
        pytest.skip("this machine has a card that is used")
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), rank=4)
    assert "RTX 4060 Ti" in trainer.plan(rows, notify=print).remarks[0]
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), rank=4, backend="cpu")
    assert not any("RTX" in remark for remark in trainer.plan(rows, notify=print).remarks)


def test_a_package_that_cannot_be_imported_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: cudaFree')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = surroundings.kernel("flash-attn")
    assert (
        finding.verdict == "problem"
        and "undefined symbol: cudaFree" in finding.message
        and "--reinstall" in finding.command
    )


def test_disks_token_and_ollama(tmp_path, monkeypatch):
    assert [finding.what for finding in surroundings.disks(tmp_path)] == ["disk (cache)", "disk (output)"]
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert surroundings.ollama().command == "ollama serve"
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    token = surroundings.hub_token()
    assert token.verdict == "ok" and "hf_" not in token.message


def test_exit_code_and_json_follow_from_the_problems(monkeypatch, capsys):
    problem = Finding("torch", "problem", "is for processors.", "uv pip install torch")
    note = Finding("Ollama", "note", "does not answer.", "ollama serve")
    for findings, code in (((note,), 0), ((note, problem), 1)):
        monkeypatch.setattr("backpropagate.cli.doctor.examine", lambda findings=findings: Examination(findings, "cpu"))
        assert exit_code_of(app, ["doctor", "--json"]) == code
        told = json.loads(capsys.readouterr().out)
        assert told["ok"] == (code == 0) and len(told["findings"]) == len(findings)
        assert exit_code_of(app, ["doctor"]) == code
        page = capsys.readouterr().out
        assert "ollama serve" in page and (("1 problem found" in page) == (code == 1))
