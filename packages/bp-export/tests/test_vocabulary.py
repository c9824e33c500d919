import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from bp_core.contract import Contract
from bp_core.errors import ModelUnusable, UnsupportedArchitecture
from bp_export import Engine
from bp_export.gguf import vocabulary
from bp_export.proof.corpus import TEXTS

CUTS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
}


@pytest.fixture
def folder(tmp_path, tiny_llama):
    """The tiny model's small files, to be changed."""
    target = tmp_path / "model"
    target.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_llama / name, target / name)
    return target


def train(cut, folder):
    """A vocabulary learnt from our own texts, cut as this kind of tokenizer cuts."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=cut == "llama-bpe"))
    steps = CUTS[cut]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS] * 3, trainer)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.mark.parametrize("cut", CUTS)
def test_llama_cpp_cuts_text_as_the_tokenizer_does(cut, folder, tiny_llama, tmp_path, helpers):
    tokenizer = train(cut, folder)
    gguf = tmp_path / "m.gguf"
    words = vocabulary.read(folder, 49152)
    assert words.pre == cut
    helpers.write_vocabulary(words, tiny_llama, gguf)
    with Engine(gguf, context=256, gpu=False) as engine:
        for text in (*TEXTS, "<|im_start|>a <tool> b<|im_end|>", "x<tool>1"):
            assert engine.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_kinds_of_tokens_and_padding(folder):
    words = vocabulary.read(folder, 49160)
    assert words.tokens[49152:49154] == ["[PAD49152]", "[PAD49153]"]
    assert (words.types[0], words.types[100], words.types[49155]) == (3, 1, 5)
    assert dict(words.ids) == {"bos": 1, "unk": 0, "pad": 2, "eos": 2}
    assert (words.add_bos, words.add_eos) == (False, False)
    with pytest.raises(ModelUnusable, match="has id"):
        vocabulary.read(folder, 40000)


def test_merges_in_both_forms_are_the_same(folder):
    pairs = vocabulary.read(folder, 49152).merges
    edit(folder, lambda t: t["model"].update(merges=[" ".join(pair) for pair in t["model"]["merges"]]))
    assert vocabulary.read(folder, 49152).merges == pairs


def test_the_contract_wins_over_the_base(folder):
    words = vocabulary.read(folder, 49152, Contract("{{ x }}", "tokenizer", (0, 2, 5), ()))
    assert (words.template, words.add_bos) == ("{{ x }}", True)
    assert (words.ids["eos"], words.ids["eot"], words.ids["eom"]) == (0, 2, 5)
    raw = vocabulary.read(folder, 49152, Contract("", "none", (), ()))
    assert "<|im_start|>" in raw.template
    assert raw.ids["eos"] == 2
    with pytest.raises(ModelUnusable, match="outside"):
        vocabulary.read(folder, 49152, Contract("", "none", (10**6,), ()))


def test_a_first_token_that_the_tokenizer_adds(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processor])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert vocabulary.read(folder, 49152).add_bos is True
    assert vocabulary.read(folder, 49152, Contract("x", "none", (2,), ())).add_bos is False
    assert vocabulary.read(folder, 49152, Contract("x", "template", (2,), ())).add_bos is True


def test_tokenizers_that_llama_cpp_would_not_reproduce(folder):
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    changes = [
        lambda t: t["model"].update(type="Unigram"),
        lambda t: t["model"].update(byte_fallback=True),
        lambda t: t.update(normalizer=json.loads(normalizers.Lowercase().__getstate__())),
        lambda t: t.update(pre_tokenizer=json.loads(pre_tokenizers.Whitespace().__getstate__())),
        lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        lambda t: t.update(pre_tokenizer=None),
    ]
    for change in changes:
        (folder / "tokenizer.json").write_text(whole, encoding="utf-8")
        edit(folder, change)
        with pytest.raises(UnsupportedArchitecture):
            vocabulary.read(folder, 49152)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelUnusable):
        vocabulary.read(folder, 49152)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelUnusable, match="missing"):
        vocabulary.read(folder, 49152)


def edit(folder, change):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    change(tokenizer)
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
