"""The chat templates of well-known families: llama.cpp's own Jinja writes what ours, and so transformers', does."""

import dataclasses
from pathlib import Path

import pytest

from bp_core.contract import Contract
from bp_export import gguf_facts
from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.proof import prompts
from bp_export.weights.merge import open_base

TEMPLATES = sorted(Path(__file__).parents[1].glob("packages/bp-data/tests/templates/*.jinja"))
WITH_TOOLS = ("llama3_2", "mistral_v3", "qwen", "qwen2_5", "qwen3")
DATED = ("llama3_1",)  # "26 Jul 2024" in transformers; its tools are there too, and differ in the date only


@pytest.mark.slow
@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_llama_cpp_renders_the_prompts_of_training(file, tiny_llama, tmp_path):
    converter = Converter(open_base(tiny_llama), tiny_llama)
    template = file.read_text(encoding="utf-8")
    words = dataclasses.replace(vocabulary.read(tiny_llama, converter.vocabulary_size), template=template)
    converter.write(tmp_path / "m.gguf", words, "m")
    facts = gguf_facts(tmp_path / "m.gguf")
    contract = Contract(template, "template", (facts.eos,), (facts.eos_token,))
    (check,) = prompts.check(tmp_path / "m.gguf", facts, tiny_llama, contract)
    assert check.passed and check.warning == (file.stem in DATED), check
    if file.stem in DATED:
        assert check.note.startswith("in the date alone: trained on 26 Jul 2024, llama.cpp writes ")
    else:
        assert check.measured.startswith("0 of ") and "three turns" in check.note
        assert ("a tool" in check.note) == (file.stem in WITH_TOOLS)
        assert ("a call and its result" in check.note) == (file.stem in WITH_TOOLS)
