"""From somebody's GGUF to a proven one of one's own, by the command line; a file without a template."""

import json

import pytest
import tiny_families

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_core.model_files import read_json
from bp_export.gguf.convert import Converter
from bp_export.gguf.vocabulary import read
from bp_export.weights.merge import open_base


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A small file of Gemma 3's kind, without a chat template."""
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    base = tiny_families.save("gemma3", tmp_path / "gemma3")
    config = read_json(base / "tokenizer_config.json")
    del config["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    converter = Converter(open_base(base), base)
    converter.write(tmp_path / "small.gguf", read(base, converter.vocabulary_size), "small")
    return tmp_path / "small.gguf"


def run(capsys, *words):
    code = exit_code_of(app, [str(word) for word in words])
    return code, capsys.readouterr()


def test_a_gguf_is_trained_exported_and_verified(gguf, tmp_path, capsys):
    rows = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."} for n in range(24)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    output = tmp_path / "output"
    train = [
        "train",
        "--data",
        data,
        "--model",
        gguf,
        "--steps",
        3,
        "--output",
        output,
        "--max-length",
        128,
        "--backend",
        "cpu",
    ]
    assert run(capsys, *train)[0] == 0
    code, said = run(capsys, "export", output, "--quantization", "AUTO", "--max-size", "1GB", "--json")
    done = json.loads(said.out)
    assert (code, done["parity"]["proven"]) == (0, True), said.err
    assert done["parity"]["importance_tokens"] > 0 and done["parity"]["trials"][-1]["kept"]
    assert run(capsys, "verify", done["path"], "--adapter", output / "lora")[0] == 0


def test_without_a_template_a_file_goes_on_with_a_text(gguf, capsys):
    asked = ["chat", gguf, "--prompt", "Once upon a time", "--max-tokens", 3]
    code, said = run(capsys, *asked)
    assert code == 1 and f"backprop chat {gguf} --raw" in said.err.replace("\n", "")
    code, said = run(capsys, *asked, "--raw")
    assert code == 0 and said.out.strip()
    assert run(capsys, *asked, "--raw", "--system", "Be brief.")[0] == 1
