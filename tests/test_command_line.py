"""Commands do what they say, and keep data on stdout."""

import json
from pathlib import Path

from ollama_server import OllamaServer

import backpropagate
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.models.targets import Artifact


def test_the_environment_sets_a_default(rows, tiny_llama, capsys, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_RANK", "5")
    arguments = ["train", "--data", str(rows), "--model", str(tiny_llama), "--backend", "cpu", "--dry-run", "--json"]
    assert exit_code_of(app, arguments) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert recipe["rank"] == 5 and recipe["alpha"] == 10 and recipe["steps"] == 5


def test_version_and_info_are_data_on_stdout(capsys):
    assert exit_code_of(app, ["--version"]) == 0
    assert capsys.readouterr().out == f"backprop {backpropagate.__version__}\n"
    assert exit_code_of(app, ["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backends"]["cpu"]["available"] and found["packages"]["bp-core"]
    assert exit_code_of(app, ["info"]) == 0
    assert "backend cpu" in capsys.readouterr().out


def test_train_and_export_print_json_for_scripts(rows, tiny_llama, tmp_path, capsys, monkeypatch):
    base = ["--model", str(tiny_llama), "--output", str(tmp_path / "out"), "--backend", "cpu", "--json"]
    assert exit_code_of(app, ["train", "--data", str(rows), "--steps", "2", *base]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["adapter"] == str(tmp_path / "out" / "lora") and len(run["losses"]) == 2
    export = ["export", str(tmp_path / "out"), "--quantization", "q8_0", "--ollama-name", "mine", "--json"]
    monkeypatch.setattr("bp_export.ollama.checks._LIMIT", 16)  # the answers of a random model do not end
    with OllamaServer("0.34.1", tmp_path) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        ollama.faults["/api/create"] = [{"status": "parsing GGUF"}, {"error": "no space left on device"}]
        assert exit_code_of(app, export) == 3, "the file is there, the model in Ollama is not"
        talk = capsys.readouterr().err
        file = tmp_path / "out" / "tiny-llama-q8_0.gguf"
        assert "DEP_OLLAMA_REGISTRATION_FAILED" in talk and f"done before: {file}" in talk and file.is_file()
        ollama.faults.clear()
        assert exit_code_of(app, [*export, "--overwrite"]) == 0
        assert list(ollama.models) == ["mine:latest"]
    done = json.loads(capsys.readouterr().out)
    assert done["ollama"]["seen"]["rendered"] and done["modelfile"].endswith("tiny-llama-q8_0.Modelfile")
    found = [Artifact.find(name).require_gguf() for name in (run["folder"], str(tmp_path / "out"))]
    assert found == [Path(done["path"])] * 2
    assert done["parity"]["proven"] and done["path"].endswith("tiny-llama-q8_0.gguf")
    assert exit_code_of(app, ["chat", done["path"], "--prompt", "Hi", "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.endswith("\n")
