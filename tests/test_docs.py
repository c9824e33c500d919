"""What the docs say is run: Python blocks, command lines, and the pages that are generated."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from tokenizers import Tokenizer
from typer.main import get_command

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "data.md"
METHODS, SEVERAL, EVALUATE, MANY = (
    ROOT / "docs" / f"{name}.md" for name in ("methods", "several-gpus", "evaluate", "multi-run")
)
READMES = sorted([*ROOT.glob("packages/*/README.md"), *ROOT.glob("apps/*/README.md")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *READMES]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def run(code, folder, monkeypatch):
    script = folder / "block.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(folder)
    runpy.run_path(str(script), run_name="__main__")


def python_block(package):
    (code,) = blocks(ROOT / "packages" / package / "README.md", "python")
    return code


def test_the_three_lines_of_the_readme(tmp_path, monkeypatch, smollm2):
    (code,) = blocks(ROOT / "README.md", "python")
    assert "steps=48" in code
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run(code.replace("steps=48", "steps=1").replace("q4_k_m", "q8_0"), tmp_path, monkeypatch)
    assert (tmp_path / "output" / "smollm2-135m-q8_0.gguf").is_file()


def test_the_door(tmp_path, monkeypatch, rows, tiny_llama, capsys):
    run(python_block("backpropagate").replace('"smollm2-135m"', repr(str(tiny_llama))), tmp_path, monkeypatch)
    assert "tiny-llama-q8_0.gguf" in capsys.readouterr().out


def test_the_floor(tmp_path, monkeypatch, capsys):
    run(python_block("bp-core"), tmp_path, monkeypatch)
    assert capsys.readouterr().out == "weights.bin was altered\n"


def test_the_loop(tmp_path, monkeypatch, capsys):
    run(python_block("bp-resilience"), tmp_path, monkeypatch)
    assert capsys.readouterr().out.endswith("20 steps, micro-batch 2\n")


def test_the_torch_rail(tmp_path, monkeypatch, tiny_llama, capsys):
    (tmp_path / "model").symlink_to(tiny_llama)
    run(python_block("bp-cuda"), tmp_path, monkeypatch)
    assert "(3, 49152)" in capsys.readouterr().out


@pytest.mark.skipif(find_spec("mlx") is None, reason="there is no MLX for this machine")
def test_the_mlx_rail(tmp_path, monkeypatch, tiny_llama, capsys):
    (tmp_path / "model").symlink_to(tiny_llama)
    run(python_block("bp-mlx"), tmp_path, monkeypatch)
    assert "(3, 49152)" in capsys.readouterr().out


def test_the_data_page(tmp_path, monkeypatch, smollm2, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (code,) = blocks(DATA, "python")
    run(code, tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines() == [line[2:] for line in code.splitlines() if line.startswith("# ")]
    for line in "".join(blocks(DATA, "bash")).splitlines():
        words, _, says = line.partition("#")
        assert exit_code_of(app, shlex.split(words)[1:]) == ("exits with 1" in says), capsys.readouterr().err
    written = {path.name for path in tmp_path.rglob("*.jsonl")} - {path.name for path in (ROOT / "examples").iterdir()}
    assert written == {
        "fixed.jsonl", "fixed.changes.jsonl", "quickstart.train.jsonl", "quickstart.held-out.jsonl", "alpaca.jsonl",
    }  # fmt: skip


def test_the_methods_page(monkeypatch, tiny_llama, capsys):
    monkeypatch.chdir(ROOT)
    lines = "".join(blocks(METHODS, "bash")).splitlines()
    for line in lines:
        words = [*shlex.split(line)[1:], "--model", str(tiny_llama), "--dry-run"]
        assert exit_code_of(app, words) == 0, capsys.readouterr().err
    assert len(lines) == 4


# The parts of an R1 distill's template that matter here.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
    "{% set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
    "{% endif %}{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
R1_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]


def test_the_template_of_an_r1_distill_is_changed_as_the_methods_page_says(tmp_path, monkeypatch, smollm2, capsys):
    folder = tmp_path / "DeepSeek-R1-Distill-Qwen-1.5B"
    folder.mkdir()
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    tokenizer.add_special_tokens(R1_TOKENS)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": R1_TOKENS[0], "eos_token": R1_TOKENS[1], "chat_template": R1}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    shutil.copyfile(smollm2 / "config.json", folder / "config.json")
    show = ["data", "show", str(ROOT / "examples" / "traces.jsonl"), "--model", str(folder), "--rows", "1"]
    assert exit_code_of(app, show) == 1
    assert "docs/methods.md" in capsys.readouterr().err
    (code,) = blocks(METHODS, "python")
    run(code, tmp_path, monkeypatch)
    assert exit_code_of(app, show) == 0
    assert "<｜Assistant｜>" in capsys.readouterr().out


def test_the_page_on_tools_and_thoughts(monkeypatch, tiny_llama, capsys):
    monkeypatch.chdir(ROOT)
    *looks, train, traces, measure, prove = "".join(blocks(ROOT / "docs" / "tools.md", "bash")).splitlines()
    for line in (*looks, f"{train} --dry-run", f"{traces} --dry-run"):
        words = [word.replace("smollm2-135m", str(tiny_llama)) for word in shlex.split(line)[1:]]
        model = [] if "--model" in words else ["--model", str(tiny_llama)]
        assert exit_code_of(app, [*words, *model]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "those of hermes are added" in said and "<tools>" in said
    # Both are done in test_tools_and_thoughts.py.
    assert measure.startswith("backprop eval output") and prove.startswith("backprop export output")


@pytest.mark.slow
def test_the_evaluating_page(tmp_path, monkeypatch, tiny_llama, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    more = {
        "train": ["--model", str(tiny_llama), "--steps", "8", "--learning-rate", "5e-3"],
        "eval": ["--answers", "1"],
    }
    for line in "".join(blocks(EVALUATE, "bash")).splitlines():
        words = shlex.split(line)[1:]
        assert exit_code_of(app, words + more.get(words[0], ["--answers", "1", "--max-tokens", "8"])) == 0, line
    (code,) = blocks(EVALUATE, "python")
    run(code.replace('"smollm2-135m"', repr(str(tiny_llama))), tmp_path, monkeypatch)
    assert capsys.readouterr().out.endswith("True\n") and (tmp_path / "answers.html").is_file()


@pytest.mark.slow
def test_the_page_on_many_stages(tmp_path, monkeypatch, tiny_llama, capsys):
    rows = (ROOT / "examples" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for number, month in enumerate(("january", "february", "march")):
        (tmp_path / f"{month}.jsonl").write_text("".join(rows[number::3]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for line in blocks(MANY, "bash")[0].splitlines():
        words = shlex.split(line, comments=True)[1:]
        more = ["--model", str(tiny_llama), "--report-to", "none"] if words[0] == "multi-run" else []
        words = ["2" if word == "100" else word for word in words]
        assert exit_code_of(app, words + more) == 0, (line, capsys.readouterr().err)
    assert (tmp_path / "output" / "tiny-llama-q4_k_m.gguf").is_file()
    (code,) = blocks(MANY, "python")
    code = code.replace('"smollm2-135m", output="output"', f"{str(tiny_llama)!r}, output='again', report_to='none'")
    run(code.replace("steps_per_run=100", "steps_per_run=1"), tmp_path, monkeypatch)
    transfer, report = capsys.readouterr().out.splitlines()[-2:]
    assert "'estimate'" in transfer and Path(report).is_file()


def command_lines():
    for page in PAGES:
        for code in [*blocks(page, "bash"), *re.findall(r"`(backprop [^`]+)`", page.read_text(encoding="utf-8"))]:
            for line in code.splitlines():
                if match := re.search(r"(?:\bbackprop|-m backpropagate)\b(.*)", line.split("#")[0]):
                    yield pytest.param(shlex.split(match[1]), id=line[:60])


@pytest.mark.parametrize("words", list(command_lines()))
def test_command_lines_in_the_docs_exist(words):
    command = get_command(app)
    while words and isinstance(command, typer.core.TyperGroup) and not words[0].startswith("-"):
        command, *words = command.get_command(None, words[0]), *words[1:]
    assert isinstance(command, typer.core.TyperCommand | typer.core.TyperGroup)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.slow
@pytest.mark.parametrize("line", blocks(SEVERAL, "bash")[0].splitlines(), ids=["accelerate", "torchrun"])
def test_launching_two_processes(tmp_path, line, tiny_llama):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    words = [*shlex.split(line.split("#")[0]), "--backend", "cpu", "--model", str(tiny_llama), "--steps", "2"]
    words[0] = str(Path(sys.executable).parent / words[0])
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("checkpoint after step 2") == 1 and done.stdout.count("peak memory") == 1
    assert '"device": "2 × cpu"' in next(tmp_path.glob("output/runs/*/run.lock")).read_text(encoding="utf-8")


def test_generated_pages_are_fresh():
    words = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    assert subprocess.run(words).returncode == 0


def test_the_readme_names_every_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path.relative_to(ROOT).as_posix() for place in ("packages", "apps") for path in (ROOT / place).iterdir()]
    assert all(folder in text for folder in folders)
