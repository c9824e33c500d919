"""The command line is derived from the settings, and quick to start."""

import ast
import dataclasses
import subprocess
import sys

import pytest

import backpropagate
from backpropagate.cli.app import Backprop, Data, Listed, Ollama, app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.cli.options import with_options
from bp_core.config import TrainConfig
from bp_core.settings import settings
from bp_export.config import ExportConfig, ServeConfig

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


def test_help_loads_nothing_heavy():
    assert loaded_by(HELP + 'exit_code_of(app, ["--help"])') == "[]"


@pytest.mark.parametrize("group", ["data", "ollama"])
def test_help_of_a_group_loads_nothing_heavy_but_what_typer_brings(group):
    assert loaded_by(HELP + f'exit_code_of(app, ["{group}", "--help"])') == "['pydantic']"


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
