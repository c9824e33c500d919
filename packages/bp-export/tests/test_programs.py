"""Where programs look for models: their folders, links, and what is never overwritten."""

import errno
import json
import os

import pytest

from bp_core.errors import BadValue, OutputUnusable
from bp_export import export
from bp_export.config import ExportConfig
from bp_export.programs import place


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home in which nothing is installed."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my model-q8_0.gguf"
    path.write_bytes(b"GGUF and weights")
    return path


def test_lm_studio_finds_a_hard_link_in_the_folder_of_its_documentation(home, file):
    (home / ".lmstudio").mkdir()
    placed = place(file, "lmstudio", 2048)
    wanted = home / ".lmstudio" / "models" / "backpropagate" / "my-model-q8_0" / file.name
    assert (placed.path, placed.installed) == (wanted, True) and wanted.samefile(file)
    assert placed.command == "lms load backpropagate/my-model-q8_0 --context-length 2048"
    assert place(file, "lmstudio").path == wanted, "the same file is there already"


def test_lm_studio_may_have_moved_its_folder(home, file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'elsewhere'}\n", encoding="utf-8")
    assert place(file, "lmstudio").path.is_relative_to(tmp_path / "elsewhere" / "models")


def test_a_disk_that_cannot_link_gets_a_copy(home, file, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another disk")

    (home / ".lmstudio").mkdir()
    monkeypatch.setattr(os, "link", refuse)
    placed = place(file, "lmstudio")
    assert placed.path.read_bytes() == file.read_bytes() and not placed.path.samefile(file)
    assert place(file, "lmstudio").path == placed.path


def test_another_file_is_never_overwritten(home, file):
    (home / ".lmstudio").mkdir()
    target = place(file, "lmstudio").path
    target.unlink()
    target.write_bytes(b"somebody else's")
    with pytest.raises(OutputUnusable, match="something lies where the program would find the model"):
        place(file, "lmstudio")
    assert target.read_bytes() == b"somebody else's"


@pytest.mark.parametrize("moved", [False, True])
def test_jan_lists_it_by_its_own_description(home, file, tmp_path, moved, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    data = tmp_path / "data of jan" if moved else home / ".local" / "share" / "Jan" / "data"
    data.mkdir(parents=True)
    if moved:
        settings = home / ".local" / "share" / "Jan" / "settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps({"data_folder": str(data)}), encoding="utf-8")
    placed = place(file, "jan")
    folder = data / "llamacpp" / "models" / "my-model-q8_0"
    assert placed.path == folder / "model.gguf" and placed.path.samefile(file) and placed.installed
    text = (folder / "model.yml").read_text(encoding="utf-8")
    assert 'model_path: "llamacpp/models/my-model-q8_0/model.gguf"' in text
    assert f"size_bytes: {file.stat().st_size}" in text


@pytest.mark.parametrize("program", ["lmstudio", "jan", "vllm"])
def test_what_is_not_installed_is_said_and_the_file_stays(home, file, program):
    placed = place(file, program)
    assert not placed.installed and placed.path is None and placed.note and file.is_file()
    assert not list(home.rglob("*.gguf"))


def test_a_program_runs_only_what_it_runs():
    assert ExportConfig(program="vllm").format == "merged"
    for program, kind in (("lmstudio", "merged"), ("jan", "lora"), ("vllm", "gguf-lora")):
        with pytest.raises(BadValue, match="does not run that format"):
            ExportConfig(program=program, format=kind)


def test_an_export_is_put_where_llama_server_and_lm_studio_find_it(home, tiny_llama, tmp_path):
    (tmp_path / "base").symlink_to(tiny_llama)
    config = ExportConfig(quantization="f16", output=str(tmp_path / "m.gguf"), program="llama-cpp", num_ctx=128)
    done = export(None, tmp_path / "base", config)
    assert done.placed.command == f"llama-server --jinja --ctx-size 128 --model {tmp_path / 'm.gguf'}"
    assert "backprop serve" in done.placed.note
    (home / ".lmstudio" / "models" / "backpropagate" / "n").mkdir(parents=True)
    (home / ".lmstudio" / "models" / "backpropagate" / "n" / "n.gguf").write_text("mine")
    taken = ExportConfig(quantization="f16", output=str(tmp_path / "n.gguf"), program="lmstudio")
    with pytest.raises(OutputUnusable, match="something lies"):
        export(None, tmp_path / "base", taken)
    assert not (tmp_path / "n.gguf").exists(), "refused before any work"
