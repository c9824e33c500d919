import json

import numpy as np
import pytest
import tiny_families
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from bp_core import folders
from bp_core.errors import GgufUnusable, OutputUnusable, UnsupportedArchitecture
from bp_export import Engine, unpack_gguf
from bp_export.gguf.convert import Converter
from bp_export.gguf.pre_tokenizers import SPLIT_AT_MARKS
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.to_huggingface import SOURCE
from bp_export.gguf.vocabulary import read
from bp_export.proof.corpus import TEXTS
from bp_export.proof.samples import has_marks
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


def test_truncated_and_foreign_files(tmp_path, gguf_source):
    (tmp_path / "cut.gguf").write_bytes(gguf_source.read_bytes()[:5_000_000])
    with pytest.raises(GgufUnusable, match="ends before"):
        unpack_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    foreign = bytearray(gguf_source.read_bytes())
    place = foreign.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    foreign[place : place + 5] = b"mamba"
    (tmp_path / "mamba.gguf").write_bytes(foreign)
    with pytest.raises(UnsupportedArchitecture, match="cannot unpack a mamba model; these can be: llama,"):
        unpack_gguf(tmp_path / "mamba.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_and_unpack_are_inverse(tmp_path, tiny_llama, helpers):
    gguf = helpers.write_gguf(open_base(tiny_llama), tiny_llama, tmp_path / "m.gguf")
    unpack_gguf(gguf, tmp_path / "back")
    before, after = open_base(tiny_llama), open_base(tmp_path / "back")
    assert set(before.names()) == set(after.names())
    for name in before.names():
        assert np.array_equal(before.array(name), after.array(name)), name


def float_file(name, folder, type_):
    """A tiny model of the family as a GGUF, and the folder it was made of."""
    base = tiny_families.save(name, folder / name)
    converter = Converter(open_base(base), base, type_)
    converter.write(folder / "m.gguf", read(base, converter.vocabulary_size), name)
    return base, folder / "m.gguf"


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_every_family_computes_what_llama_cpp_computes_of_its_file(name, tmp_path, helpers):
    _, gguf = float_file(name, tmp_path, "f16")
    unpack_gguf(gguf, tmp_path / "back")
    tokenizer = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    with Engine(gguf, context=256, gpu=False) as engine:
        for text in TEXTS:
            if GgufFile(gguf).field("tokenizer.ggml.pre") in SPLIT_AT_MARKS and has_marks(text):
                continue  # llama.cpp cuts these otherwise than the tokenizer that the model was trained with
            assert tokenizer.encode(text, add_special_tokens=False).ids == engine.tokenize(text), text
            assert not text or tokenizer.encode(text).ids == engine.tokenize(text, add_special=True), text
        tokens = engine.tokenize(TEXTS[0] + TEXTS[3])
        theirs = engine.logits(tokens)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    with torch.no_grad():
        ours = model(torch.tensor([tokens])).logits[0].numpy()
    assert helpers.mean_kl(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", ["llama31", "qwen3.5", "phi4-mini", "gemma3"])
def test_a_file_in_the_models_own_floats_is_unpacked_exactly(name, tmp_path):
    base, gguf = float_file(name, tmp_path, "bf16")
    unpack_gguf(gguf, tmp_path / "back")
    before, after = open_base(base), open_base(tmp_path / "back")
    assert set(before.names()) == set(after.names())
    for tensor in before.names():
        assert after.dtype(tensor) == before.dtype(tensor), tensor
        assert np.array_equal(before.array(tensor), after.array(tensor)), tensor


def test_an_unpacked_model_is_written_as_the_same_file_again(tmp_path):
    _, gguf = float_file("gemma3", tmp_path, "bf16")
    unpack_gguf(gguf, tmp_path / "back")
    converter = Converter(open_base(tmp_path / "back"), tmp_path / "back", "bf16")
    converter.write(tmp_path / "again.gguf", read(tmp_path / "back", converter.vocabulary_size), "gemma3")
    first, second = GgufFile(gguf), GgufFile(tmp_path / "again.gguf")
    assert first.tensors.keys() == second.tensors.keys()
    assert all(np.array_equal(first.raw(tensor), second.raw(tensor)) for tensor in first.tensors)
    same = [key for key in first.fields if not key.startswith("tokenizer.ggml.scores")]
    assert {key: second.fields.get(key) for key in same} == {key: first.fields[key] for key in same}


def test_what_was_quantised_is_named_so(smol, tmp_path):
    assert json.loads((smol / SOURCE).read_text(encoding="utf-8"))["dequantized_from"] == ["Q4_1", "Q8_0"]
    _, gguf = float_file("qwen3", tmp_path, "f16")
    unpack_gguf(gguf, tmp_path / "back")
    assert json.loads((tmp_path / "back" / SOURCE).read_text(encoding="utf-8"))["dequantized_from"] == []
