"""The package by itself: its example, and that the server loads nothing heavy."""

import re
import subprocess
import sys
from pathlib import Path

import bp_ui

ROOT = Path(__file__).parents[1]


def test_the_readme_example_runs(home, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "['/runs']\n"


def test_the_server_needs_neither_torch_nor_numpy(home):
    code = """
import sys
import bp_ui.serve
heavy = {"torch", "transformers", "numpy", "pydantic", "tokenizers", "huggingface_hub", "typer"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_what_is_vendored_comes_with_its_licence_and_its_place():
    static = Path(bp_ui.__file__).parent / "static"
    for folder in (static / "uplot", Path(__file__).parent / "axe"):
        assert (folder / "LICENSE").is_file() and "npm" in (folder / "ORIGIN.txt").read_text(encoding="utf-8")


def test_sharing_without_a_password_or_tls_is_refused(home, monkeypatch):
    words = [sys.executable, "-m", "backpropagate", "ui", "--share", "--no-open"]
    monkeypatch.delenv("BACKPROPAGATE_UI_AUTH", raising=False)
    refused = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert refused.returncode == 1 and "CONFIG_UI_AUTH_REQUIRED" in refused.stderr
    monkeypatch.setenv("BACKPROPAGATE_UI_AUTH", "ada:correct horse battery")
    plain = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert plain.returncode == 1 and "TLS" in plain.stderr and "horse" not in plain.stderr + plain.stdout
    monkeypatch.setenv("BACKPROPAGATE_UI_AUTH", "ada:short")
    short = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert short.returncode == 1 and "shorter than 8" in short.stderr and "ada:short" not in short.stderr
