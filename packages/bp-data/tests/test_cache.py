import importlib
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import bp_data
from bp_core.config import DataConfig
from bp_core.settings import names
from bp_data import ChatTokenizer, Prepared, prepare
from bp_data.preparing import cache
from bp_data.preparing.prepared import read, write

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)
LASTING = {name: getattr(DataConfig, name) for name in names(DataConfig)}
LASTING |= {"max_length": 64, "samples": None, "train_on": "assistant", "text_overlap": 0, "evaluating": False}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "completion": f"a{i}"}) + "\n" for i in range(9)))
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that finds small data worth keeping too."""
    monkeypatch.setattr(cache, "WORTH", 0)
    return tmp_path / "cache"


def entries(root: Path) -> set[str]:
    return set(os.listdir(root)) if root.exists() else set()


@settings(deadline=None, max_examples=20)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12), length=st.integers(60, 99))
def test_what_is_read_back_is_what_was_prepared(
    rows: list[tuple[str, str]], length: int, smol: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = [{"prompt": question, "completion": answer} for question, answer in rows]
    prepared = prepare([*data, {"text": "x"}], smol, max_length=length)
    folder = tmp_path_factory.mktemp("entry")
    write(prepared, folder)
    assert read(folder) == prepared
    assert read(folder).packing(length) == prepared.packing(length) != prepared


@pytest.mark.parametrize("packing", [False, True])
def test_the_second_time_it_is_found_and_equal(
    path: Path, root: Path, smol: ChatTokenizer, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(root: Path | None) -> Prepared:
        return prepare(path, smol, max_length=64, packing=packing, cache=root)

    first = prepared(root)
    (entry,) = entries(root)
    monkeypatch.setattr(smol, "encode_chunk", None)  # now nothing can be tokenised
    found = prepared(root)
    assert found == first and not found.examples.tokens.flags.writeable
    assert entries(root) == {entry}
    with pytest.raises(TypeError):
        prepared(None)


def test_everything_that_changes_the_result_has_another_place(
    path: Path, root: Path, smol_folder: Path, byte_level: Callable[..., Tokenizer]
) -> None:
    smol = ChatTokenizer.open(smol_folder)

    def opened(**changes: Any) -> ChatTokenizer:
        config = json.loads((smol_folder / "tokenizer_config.json").read_text()) | changes
        file = (smol_folder / "tokenizer.json").read_text()
        tokens = {name: config[name] for name in ("bos_token", "eos_token", "pad_token")}
        return ChatTokenizer(Tokenizer.from_str(file), config["chat_template"], **tokens)

    other, suffix = path.with_name("other.jsonl"), path.with_suffix(".txt")
    other.write_text(path.read_text().replace("a3", "b3"))
    suffix.write_text(path.read_text())
    places = [cache.place(root, path, smol, LASTING)]
    for data in (other, suffix, path.parent):
        places.append(cache.place(root, data, smol, LASTING))
    for change in ({"max_length": 65}, {"samples": 8}, {"columns": "prompt=completion"}, {"train_on": "last"}):
        places.append(cache.place(root, path, smol, LASTING | change))
    for token in ("bos_token", "eos_token", "pad_token"):
        places.append(cache.place(root, path, opened(**{token: "<|endoftext|>"}), LASTING))
    places.append(cache.place(root, path, opened(chat_template=smol.template + " "), LASTING))
    places.append(cache.place(root, path, ChatTokenizer(byte_level("</s>"), smol.template), LASTING))
    assert len(set(places)) == len(places) and None not in places
    assert cache.place(root, path, opened(), LASTING) == places[0]


def test_every_setting_of_prepare_is_part_of_the_place(
    path: Path, smol: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    module = importlib.import_module("bp_data.preparing.prepare")
    monkeypatch.setattr(module, "place", lambda root, data, tokenizer, settings: given.update(settings))
    prepare(path, smol, max_length=64, cache=path.parent)
    parameters = set(inspect.signature(prepare).parameters)
    parameters = parameters - {"data", "tokenizer", "packing", "cache", "on_progress", "reading"}
    assert parameters | set(names(DataConfig)) == set(given)


def test_a_folder_is_known_by_all_its_files(path: Path, root: Path, smol: ChatTokenizer) -> None:
    before = cache.place(root, path.parent, smol, LASTING)
    (path.parent / "more.jsonl").write_text('{"text": "x"}\n')
    assert cache.place(root, path.parent, smol, LASTING) != before


def test_what_has_no_lasting_contents_is_not_kept(path: Path, root: Path, byte_level: Callable[..., Tokenizer]) -> None:
    template = "{{ strftime_now('%d') }}{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    template += "{{ '[assistant]' if add_generation_prompt }}"
    plain = ChatTokenizer(byte_level("</s>"), template.replace("strftime_now('%d')", "''"), eos_token="</s>")
    dated = ChatTokenizer(byte_level("</s>"), template, eos_token="</s>")
    for data, tokenizer in (([{"prompt": "q", "completion": "a"}], plain), (path, dated)):
        prepare(data, tokenizer, max_length=64, cache=root)
        assert entries(root) == set()
    assert cache.place(root, "-", plain, LASTING) is None
    assert cache.place(root, path.with_name("missing"), plain, LASTING) is None
    prepare(path, plain, max_length=64, cache=root)
    assert len(entries(root)) == 1


def test_small_data_is_not_kept(path: Path, tmp_path: Path, smol: ChatTokenizer) -> None:
    assert prepare(path, smol, max_length=64, cache=tmp_path / "cache").report.tokens < cache.WORTH
    assert entries(tmp_path / "cache") == set()


def test_a_file_that_changes_meanwhile_is_not_kept(path: Path, root: Path, smol: ChatTokenizer) -> None:
    prepare(
        path, smol, max_length=64, cache=root, on_progress=lambda _: path.open("a").close() or path.write_text("{}")
    )
    assert entries(root) == set()


@pytest.mark.parametrize("harm", ["cut", "alter", "remove"])
def test_a_damaged_entry_is_made_again(path: Path, root: Path, smol: ChatTokenizer, harm: str) -> None:
    first = prepare(path, smol, max_length=64, cache=root)
    (entry,) = root.iterdir()
    file = entry / "tokens.npy"
    whole = file.read_bytes()
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(whole[:-4] if harm == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cache.load(entry) is None
    assert prepare(path, smol, max_length=64, cache=root) == first
    assert file.read_bytes() == whole and cache.load(entry) == first


def test_the_oldest_entries_go_and_nothing_else(
    path: Path, root: Path, smol: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    (root / "mine.txt").write_text("keep")
    (root / "notes").mkdir()
    draft = root / f".{'a' * 64}.killed"
    draft.mkdir()
    (draft / "tokens.npy").write_bytes(bytes(9000))
    os.utime(draft, (1, 1))
    made = []
    for number, length in enumerate((60, 61, 62), 2):
        prepare(path, smol, max_length=length, cache=root)
        (new,) = entries(root) - {"mine.txt", "notes", draft.name, *made}
        made.append(new)
        os.utime(root / new, (number, number))
    cache.load(root / made[0])  # used just now, so it is not the oldest any more
    size = sum(file.stat().st_size for file in (root / made[0]).iterdir())
    monkeypatch.setattr(cache, "LIMIT", size * 2 + 100)
    prepare(path, smol, max_length=63, cache=root)
    (newest,) = entries(root) - {"mine.txt", "notes", *made}
    assert entries(root) == {"mine.txt", "notes", made[0], newest}


def test_a_cache_that_cannot_be_written_does_not_stop_the_work(path: Path, root: Path, smol: ChatTokenizer) -> None:
    root.write_text("a file, not a folder")
    assert prepare(path, smol, max_length=64, cache=root / "data").report.rows == 9
    assert root.read_text() == "a file, not a folder"


def test_code_in_any_folder_of_the_package_counts(tmp_path: Path) -> None:
    (tmp_path / "masking").mkdir()
    mask = tmp_path / "masking" / "loss_mask.py"
    mask.write_text("one")
    before = cache.code_digest(tmp_path)
    mask.write_text("another")
    assert cache.code_digest(tmp_path) != before


def test_the_cache_is_of_the_whole_package() -> None:
    assert Path(bp_data.__file__).parent == cache._PACKAGE
