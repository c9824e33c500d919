"""Folders without tokenizer.json or safetensors: refused by name, and the command that is told converts them."""

import base64
import io
import json
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import tiny_families
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from bp_core.errors import ModelUnusable
from bp_data import ChatTokenizer
from bp_export.gguf.pre_tokenizers import PATTERNS
from bp_export.gguf.vocabulary import read
from bp_export.trained_tokenizer import tokenizer_folder, trained_tokenizer
from bp_export.weights.merge import open_base

sentencepiece = pytest.importorskip("sentencepiece")  # comes with mlx-lm
TEXT = "Hello, what is 12 + 30? <|im_end|>"
LINES = ["The quick brown fox jumps over the lazy dog.", "Hello, what is 12 + 30?", "Ask me anything!"] * 20


def pieces(folder):
    """SentencePiece's own file, with the settings that Llama's tokenizer has."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=made,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["<|im_end|>"],
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def tekken(folder):
    """Mistral's own file: bytes and a few words, no settings beside it."""
    words = [*(bytes([byte]) for byte in range(256)), b"he", b"ll", b" t"]
    vocabulary = [{"rank": rank, "token_bytes": base64.b64encode(word).decode()} for rank, word in enumerate(words)]
    special = ["<unk>", "<s>", "</s>", "<|im_end|>"]
    tokens = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(special)]
    config = {"pattern": PATTERNS["tekken"], "default_vocab_size": 263, "default_num_special_tokens": 4}
    whole = {"config": config, "vocab": vocabulary, "special_tokens": tokens}
    (folder / "tekken.json").write_text(json.dumps(whole), encoding="utf-8")


def run(fix):
    """Run the command at the end of a fix, as it stands."""
    words = shlex.split(fix[fix.index(": ") + 2 :])
    subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize(("kind", "name"), [(pieces, "tokenizer.model"), (tekken, "tekken.json")])
def test_a_tokenizer_that_must_be_converted_first(kind, name, tmp_path):
    kind(tmp_path)
    for reads in (ChatTokenizer.open, lambda folder: read(folder, 400), lambda folder: trained_tokenizer(None, folder)):
        with pytest.raises(ModelUnusable, match=name) as caught:
            reads(tmp_path)
        assert "tokenizer.json beside it: " in caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pieces, tekken])
def test_the_command_that_is_told_converts_it_as_transformers_does(kind, tmp_path):
    kind(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ModelUnusable) as caught:
        ChatTokenizer.open(tmp_path)
    run(caught.value.fix)
    assert all((tmp_path / file).read_bytes() == content for file, content in kept.items())
    truth = AutoTokenizer.from_pretrained(tmp_path)(TEXT, add_special_tokens=False).input_ids
    assert ChatTokenizer.open(tmp_path).encode(TEXT) == truth
    assert read(tmp_path, 400).model == ("llama" if kind is pieces else "gpt2")


def test_where_the_converter_needs_a_package_it_is_named(tmp_path, monkeypatch):
    pieces(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ModelUnusable) as caught:
        ChatTokenizer.open(tmp_path)
    assert caught.value.fix.startswith("Install sentencepiece and protobuf, then write tokenizer.json")


def test_an_adapters_own_pieces_are_not_taken_for_those_of_the_base(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_families.save_tokenizer("qwen2", base)
    adapter.mkdir()
    pieces(adapter)
    with pytest.raises(ModelUnusable, match="SentencePiece"):
        tokenizer_folder(adapter, base)
    shutil.copyfile(adapter / "tokenizer.model", base / "tokenizer.model")
    assert (tokenizer_folder(adapter, base) / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_the_command_that_is_told_converts_pickled_weights_of_a_base(tmp_path):
    base = tiny_families.save("llama32", tmp_path / "b a'se")
    weights = load_file(base / "model.safetensors")
    torch.save(weights, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelUnusable) as caught:
        open_base(base)
    run(caught.value.fix)
    target = base.with_name("b a'se-safetensors")
    assert str(target) in caught.value.fix
    converted = open_base(target)
    for name, value in weights.items():
        assert np.array_equal(converted.array(name).astype(np.float32), value.float().numpy())
    assert read(target, tiny_families.SIZE).tokens == read(base, tiny_families.SIZE).tokens


def test_a_repository_of_the_hub_without_safetensors_is_converted_by_its_name(tmp_path):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelUnusable) as caught:
        open_base(snapshot)
    assert "owner/name " in caught.value.fix and "name-safetensors" in caught.value.fix
