"""The command line is derived from the settings, and quick to start."""

import ast
import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import backpropagate
from backpropagate.cli.app import Backprop, Data, LazyCommand, Ollama, app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.cli.options import with_options
from backpropagate.cli.tables import result
from bp_core.config import TrainConfig
from bp_core.errors import GateFailed
from bp_core.settings import Panel, settings
from bp_export.config import ExportConfig, ServeConfig
from bp_runs import Entry, Ledger

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
        listed = LazyCommand(name, place)
        assert listed.described().help == listed.loaded().help != ""


def test_public_names_are_these():
    assert set(backpropagate.__all__) == {
        "EXAMPLE_DATA", "BackpropagateError", "MultiRun", "Plan", "Run", "Trainer", "__version__",
    }  # fmt: skip
    assert all(getattr(backpropagate, name) for name in backpropagate.__all__)
    with pytest.raises(AttributeError, match="Trainr"):
        backpropagate.Trainr  # noqa: B018


@pytest.mark.parametrize(("verb", "config"), [("train", TrainConfig), ("export", ExportConfig), ("serve", ServeConfig)])
def test_every_setting_is_an_option_with_its_help(verb, config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "700")
    assert exit_code_of(app, [verb, "--help"]) == 0
    page = capsys.readouterr().out
    for setting in settings(config):
        assert f"{setting.option} " in page
        assert setting.help in page
    assert "BACKPROPAGATE_" not in page
    assert exit_code_of(app, [verb, "-h"]) == 0
    assert capsys.readouterr().out == page


def test_options_are_shown_in_panels_and_those_of_the_command_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "700")
    assert exit_code_of(app, ["train", "--help"]) == 0
    page = capsys.readouterr().out
    assert re.findall(r"╭─ (.*?) ─", page) == [panel for panel in Panel if panel != Panel.STAGES]
    for panel, first in (("Model", "--model"), ("Data", "--data"), ("Method", "--steps"), ("Adapter", "--start")):
        assert re.search(rf"╭─ {panel} .*\n.*?(--[a-z]+)", page)[1] == first
    output = page[page.index("╭─ Output") :]
    assert all(name in output for name in ("--output", "--dry-run", "--json", "--help"))


def test_backprop_alone_shows_its_help_and_how_to_begin(capsys):
    assert exit_code_of(app, ["--help"]) == 0
    page = capsys.readouterr().out
    assert exit_code_of(app, []) == 0
    shown, steps = capsys.readouterr().out.rsplit("╯", 1)
    assert page.strip() == f"{shown}╯".strip()
    assert all(f"backprop {verb}" in steps for verb in ("quickstart", "train --data", "chat"))


def test_no_variable_of_the_environment_replaces_a_command(capsys, monkeypatch):
    for name in ("VERSION", "HELP", "INSTALL_COMPLETION", "SHOW_COMPLETION", "ERRORS_HELP", "DATA_HELP"):
        monkeypatch.setenv(f"BACKPROPAGATE_{name}", "1")
    assert exit_code_of(app, ["errors", "INPUT_FILE_NOT_FOUND", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"]
    assert exit_code_of(app, ["data", "check", "/no/such/file"]) == 1
    assert "INPUT_FILE_NOT_FOUND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "text"),
    [
        (["show-run", "nobody", "--json"], "INPUT_TARGET_NOT_FOUND", 1, "nobody"),
        (["info", "--jason", "--json"], "CONFIG_VALUE_INVALID", 1, "--jason"),
        (["train", "--json"], "CONFIG_VALUE_INVALID", 1, "--data"),
        (["nonsense", "--json"], "CONFIG_VALUE_INVALID", 1, "nonsense"),
    ],
)
def test_with_json_an_error_is_json_on_stdout_and_text_on_stderr(words, code, exit_code, text, capsys):
    assert exit_code_of(app, words) == exit_code
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert error.keys() >= {"code", "message", "where", "fix"} and error["code"] == code
    assert text in error["message"] and error["message"] in said.err and f"fix: {error['fix']}" in said.err
    assert exit_code_of(app, [word for word in words if word != "--json"]) == exit_code
    assert capsys.readouterr().out == ""


def test_a_result_and_its_error_are_one_json_object(capsys):
    def command(args, **_):
        with result({"loss": 3.0}, True):
            raise GateFailed("loss is 3.")

    assert exit_code_of(command, ["--json"]) == GateFailed.exit_code
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == 3.0 and told["error"]["code"] == GateFailed.code


def test_a_mistake_of_ours_and_a_stop_are_json_too(capsys):
    def broken(args, **_):
        raise ZeroDivisionError("by zero")

    def stopped(args, **_):
        raise KeyboardInterrupt

    assert exit_code_of(broken, ["--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "BUG" and "by zero" in error["message"] and "by zero" in Path(error["where"]).read_text()
    assert exit_code_of(stopped, ["--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "RUNTIME_INTERRUPTED"


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ENOENT, "INPUT_FILE_NOT_FOUND", "this is gone"),
        (errno.EACCES, "INPUT_FILE_UNREADABLE", "cannot be used"),
        (errno.ENOSPC, "STATE_DISK_FULL", "the disk is full"),
    ],
)
def test_a_file_that_fails_in_mid_work_is_no_mistake_of_ours(number, code, text, capsys):
    def command(args, **_):
        raise OSError(number, os.strerror(number), "lora/contract.json")

    assert exit_code_of(command, ["--json"]) in (1, 2)
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code and text in error["message"] and error["where"] == "lora/contract.json"


def test_a_disk_that_fails_without_naming_the_file_is_none_either(capsys):
    def command(args, **_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert exit_code_of(command, ["--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "INPUT_FILE_UNREADABLE" and os.strerror(errno.EIO) in error["message"]


def completed(line, home):
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    environment = os.environ | {
        "_BACKPROP_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "BACKPROPAGATE_HOME": str(home),
    }
    words = [sys.executable, "-m", "backpropagate"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_the_shell_completes_commands_presets_choices_and_runs(tmp_path):
    recorded = {field.name: 0 for field in dataclasses.fields(Entry)} | {"recipe": {}, "versions": {}, "exports": ()}
    Ledger(tmp_path / "ledger.db").record(Entry(**recorded | {"id": "20261128-120000-abcd", "status": "finished"}))
    for words in ("show-run", "diff-runs 20261128-120000-abcd", "resume", "train --resume", "eval", "serve"):
        assert completed(f"backprop {words} 2026", tmp_path) == ["20261128-120000-abcd"]
    assert completed("backprop tr", tmp_path) == ["train"]
    assert completed("backprop train --model smol", tmp_path) == ["smollm2-135m", "smollm3-3b"]
    assert completed("backprop train --mode lora", tmp_path) == ["lora", "lora-8bit"]
    assert "cpu" in completed("backprop train --backend ", tmp_path)
    assert completed("backprop estimate-vram qwen2.5-1", tmp_path) == ["qwen2.5-14b"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_is_shown_for_each_shell(shell, monkeypatch, capsys):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    with pytest.raises(SystemExit) as ended:
        exit_code_of(app, ["--show-completion"])
    assert ended.value.code == 0 and "_BACKPROP_COMPLETE" in capsys.readouterr().out


def test_options_and_environment_arrive_as_settings(monkeypatch):
    @with_options(ExportConfig)
    def command(settings, name: str):
        seen.update(settings, name=name)

    seen = {}
    command(name="x", **dataclasses.asdict(ExportConfig(quantization="f16")))
    assert seen == {"name": "x", **dataclasses.asdict(ExportConfig(quantization="f16"))}
    assert {f.name for f in dataclasses.fields(ExportConfig)} < set(seen)
