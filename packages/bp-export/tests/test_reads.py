"""How often an export reads the small files of a model folder, and the large one that describes its tokenizer."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from bp_export import export
from bp_export.config import ExportConfig
from bp_export.weights.model_files import special_token

OPENED: list[Path] = []


def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str | Path):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(note)


@pytest.fixture
def base(tiny_llama, tmp_path):
    """A folder that no other test has read: what is asked often of a tokenizer is kept."""
    return shutil.copytree(tiny_llama, tmp_path / "base")


@pytest.fixture
def read(base, llama_adapter):
    """How often each JSON file of base and adapter was opened since the test began, by its name."""
    OPENED.clear()
    folders = (base, llama_adapter)
    return lambda: Counter(path.name for path in OPENED if path.parent in folders and path.suffix == ".json")


def test_a_gguf_export_reads_each_file_once_for_each_who_needs_it(
    read, tmp_path, base, llama_adapter, llama_reference, samples
):
    config = ExportConfig(output=str(tmp_path / "a.gguf"), system="Be kind.")
    export(llama_adapter, base, config, reference=llama_reference, samples=samples)
    merging_and_planning = 2
    assert read() == {
        "config.json": merging_and_planning,
        "tokenizer.json": 1,
        "tokenizer_config.json": 1,
        "generation_config.json": 1,
        "adapter_config.json": 1,
        "contract.json": 1,
    }


def test_a_merged_export_reads_settings_once_and_copies_the_rest(read, tmp_path, base, llama_adapter):
    export(llama_adapter, base, ExportConfig(format="merged", output=str(tmp_path / "a")))
    read_and_copied = 2
    found = read()
    assert found.pop("config.json") == found.pop("contract.json") == read_and_copied
    assert set(found.values()) == {1}, found


def test_settings_that_were_changed_are_read_again(tmp_path):
    for text in ("<a>", "<bc>"):
        (tmp_path / "tokenizer_config.json").write_text(f'{{"eos_token": "{text}"}}', encoding="utf-8")
        assert special_token(tmp_path, "eos_token") == text
