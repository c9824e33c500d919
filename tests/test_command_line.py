"""The command line is derived from the settings, quick to start, and keeps data on stdout."""

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ollama_server import OllamaServer

import backpropagate
from backpropagate.cli.app import Backprop, Data, Listed, Ollama, app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.cli.options import with_options
from backpropagate.cli.serve import model_file
from bp_core.config import TrainConfig
from bp_core.settings import settings
from bp_export.config import ExportConfig, ServeConfig
from bp_plan.defaults import learning_rate
from bp_plan.recipe import resolve

HEAVY = ("torch", "transformers", "peft", "numpy", "pydantic", "tokenizers", "gguf", "huggingface_hub", "httpx")


def loaded_by(code):
    """The heavy modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("code", ["import backpropagate", "import backpropagate.cli.app", "import bp_core.rail"])
def test_importing_loads_nothing_heavy(code):
    assert loaded_by(code) == "[]"


HELP = "from backpropagate.cli.app import app\nfrom backpropagate.cli.exit_codes import exit_code_of\n"


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["ollama", "--help"]])
def test_help_loads_nothing_heavy(words):
    assert loaded_by(HELP + f"exit_code_of(app, {words})") == "[]"


@pytest.mark.parametrize("command", ["train", "multi-run", "eval", "export"])
def test_help_of_a_command_loads_no_framework(command):
    loaded = loaded_by(HELP + f'exit_code_of(app, ["{command}", "--help"])')
    assert not {"torch", "transformers", "peft"} & set(ast.literal_eval(loaded))


@pytest.mark.parametrize("group", [Backprop, Data, Ollama])
def test_a_command_is_listed_with_the_help_that_it_has_itself(group):
    for name, place in group.table.items():
        listed = Listed(name, place)
        assert listed.described().help == listed.loaded().help != ""


def test_public_names_are_these():
    assert set(backpropagate.__all__) == {
        "BackpropagateError", "MultiRun", "Plan", "Run", "Trainer", "__version__",
    }  # fmt: skip
    assert all(getattr(backpropagate, name) for name in backpropagate.__all__)
    with pytest.raises(AttributeError, match="Trainr"):
        backpropagate.Trainr  # noqa: B018


@pytest.mark.parametrize(("verb", "config"), [("train", TrainConfig), ("export", ExportConfig), ("serve", ServeConfig)])
def test_every_setting_is_an_option_with_its_help_and_variable(verb, config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert exit_code_of(app, [verb, "--help"]) == 0
    page = capsys.readouterr().out
    for setting in settings(config):
        assert f"--{setting.name.replace('_', '-')} " in page
        assert setting.help in page
        assert f"BACKPROPAGATE_{verb.upper()}_{setting.name.upper()}" in page


def test_options_and_environment_arrive_as_settings(monkeypatch):
    @with_options(ExportConfig)
    def command(settings, name: str):
        seen.update(settings, name=name)

    seen = {}
    command(name="x", **dataclasses.asdict(ExportConfig(quantization="f16")))
    assert seen == {"name": "x", **dataclasses.asdict(ExportConfig(quantization="f16"))}
    assert {f.name for f in dataclasses.fields(ExportConfig)} < set(seen)


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
    assert model_file(run["folder"]) == model_file(str(tmp_path / "out")) == Path(done["path"])
    assert done["parity"]["proven"] and done["path"].endswith("tiny-llama-q8_0.gguf")
    assert exit_code_of(app, ["chat", done["path"], "--prompt", "Hi", "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ({"model_type": "llama", "hidden_size": 576}, 1.3e-3),
        ({"model_type": "llama", "hidden_size": 4096}, 2.9e-4),
        ({"model_type": "qwen2", "hidden_size": 3584}, 4.8e-4),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 2560}}, 4.1e-4),
        ({}, 2e-4),
    ],
)
def test_the_learning_rate_follows_the_width_of_the_model(model, rate):
    assert learning_rate(model, TrainConfig())[0] == rate
    assert resolve(TrainConfig(), 20, "cpu", model).learning_rate == rate
    assert resolve(TrainConfig(learning_rate=1e-5), 20, "cpu", model).learning_rate == 1e-5
