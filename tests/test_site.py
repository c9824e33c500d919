"""The documentation site is built, without a warning, from pages whose commands are run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.cli.version_1 import COMMANDS, OPTIONS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
STEPS = ("--steps", "--checkpoint-every")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("uv sync --group docs brings mkdocs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_link_of_the_site_leads_somewhere_and_it_loads_nothing_of_others(site):
    assert (site / "index.html").is_file()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?://[^"]+)"', text)
        assert [address for address in loaded if "canonical" not in address] == [], page
        assert 'data-md-component="source"' not in text, "this part of the theme asks GitHub on every visit"


def test_the_api_page_documents_what_is_public(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("train", "plan", "export", "generate", "multi_run", "push", "evaluate"):
        assert f"Trainer.{name}" in text


def test_every_page_is_in_the_menu():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = {page for part in config["nav"] for pages in part.values() for page in _names(pages)}
    assert named == {path.name for path in DOCS.glob("*.md")}


def _names(pages):
    return [next(iter(page.values())) if isinstance(page, dict) else page for page in pages]


def test_what_version_1_called_otherwise_is_refused_with_what_there_is_now(capsys):
    for command, options in OPTIONS.items():
        for option, instead in options.items():
            assert option not in _options(command), (command, option)
            assert exit_code_of(app, [*command.split(), option]) == 1
            assert f"{option} is of version 1: {instead}." in capsys.readouterr().err
            _require_known(instead, command)
    for words, instead in COMMANDS.items():
        assert exit_code_of(app, words.split()) == 1
        assert f"{words} is of version 1: {instead}." in capsys.readouterr().err
        _require_known(instead, "train")


def _require_known(instead, command):
    """What is told to use is there: an option of the command that is named with it, else of the same one."""
    for text in re.findall(r"`([^`]+)`", instead):
        words = list(takewhile(lambda word: not word.startswith("--"), text.split()))
        if words and words[0] not in get_command(app).commands:  # another program, or a value
            continue
        known = _options(" ".join(words) or command)
        assert set(re.findall(r"--[a-z-]+", text)) <= known, (command, instead)


def _options(words):
    command = get_command(app)
    for word in words.split():
        command = command.get_command(None, word)
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the recipes name."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    rows = (ROOT / "examples" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for number, day in enumerate(("monday", "tuesday")):
        (tmp_path / f"{day}.jsonl").write_text("".join(rows[number::2]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["recipes.md", "first-run.md"])
def test_the_commands_run_as_they_stand(page, place, tiny_llama, capsys):
    for number, block in enumerate(blocks(page, "bash")):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] != "backprop":
                continue
            words = [str(tiny_llama) if word == "smollm2-135m" else word for word in words[1:]]
            words = ["2" if before in STEPS else word for before, word in zip(["", *words], words, strict=False)]
            if words[0] == "resume":
                words[-1] = "4"
            if words[0] == "multi-run":
                words += ["--output", "stages"]
            assert exit_code_of(app, words) == 0, (number, line, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["recipes.md", "api.md"])
def test_the_python_runs_as_it_stands(page, place, tiny_llama):
    (code,) = blocks(page, "python")
    code = code.replace('"smollm2-135m"', repr(str(tiny_llama))).replace("steps=8", "steps=1")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and done.stdout, done.stderr
