import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from bp_core import folders
from bp_core.errors import GgufUnusable, OutputUnusable, UnsupportedArchitecture
from bp_export import Engine, unpack_gguf
from bp_export.proof.corpus import TEXTS
from bp_export.weights.merge import open_base


@pytest.fixture(scope="module")
def engine(gguf_source):
    with Engine(gguf_source, context=256, gpu=False) as engine:
        yield engine


def test_tokenises_as_transformers_and_llama_cpp_do(smol, gguf_source, engine):
    ours = Tokenizer.from_file(str(smol / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(gguf_source.parent, gguf_file=gguf_source.name)
    chat = "<|im_start|>user\nIs 1024 > 99?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|endoftext|>"
    for text in (*TEXTS, chat):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == engine.tokenize(text), text
        if "½" not in text:  # transformers drops the splitting of digits; the other numerals show it
            assert ids == theirs.encode(text, add_special_tokens=False), text
        assert ours.decode(ids, skip_special_tokens=False) == text


def test_computes_what_the_gguf_computes(smol, engine, helpers):
    tokens = engine.tokenize("The capital of France is Paris, and that of Japan is Tokyo.")
    model = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32)
    with torch.no_grad():
        truth = model(torch.tensor([tokens])).logits[0].numpy()
    # the engine computes in the file's own 4-bit blocks, with 8-bit activations
    assert helpers.mean_kl(truth, engine.logits(tokens)) < 0.02


def test_the_folder_is_whole_and_says_what_it_is(smol):
    assert folders.damage(smol) is None
    assert open_base(smol).dtype("model.norm.weight") == np.float16
    config = json.loads((smol / "config.json").read_text(encoding="utf-8"))
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is True
    tokenizer = AutoTokenizer.from_pretrained(smol)
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n")


def test_reports_progress_and_refuses_a_folder_in_use(tmp_path, gguf_source):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(OutputUnusable):
        unpack_gguf(gguf_source, tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_truncated_and_foreign_files(tmp_path, gguf_source, tiny_qwen2, helpers):
    (tmp_path / "cut.gguf").write_bytes(gguf_source.read_bytes()[:5_000_000])
    with pytest.raises(GgufUnusable, match="ends before"):
        unpack_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    other = helpers.write_gguf(open_base(tiny_qwen2), tiny_qwen2, tmp_path / "qwen.gguf")
    with pytest.raises(UnsupportedArchitecture, match="qwen2"):
        unpack_gguf(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_and_unpack_are_inverse(tmp_path, tiny_llama, helpers):
    gguf = helpers.write_gguf(open_base(tiny_llama), tiny_llama, tmp_path / "m.gguf")
    unpack_gguf(gguf, tmp_path / "back")
    before, after = open_base(tiny_llama), open_base(tmp_path / "back")
    assert set(before.names()) == set(after.names())
    for name in before.names():
        assert np.array_equal(before.array(name), after.array(name)), name
