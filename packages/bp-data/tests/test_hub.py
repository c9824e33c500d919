"""Data sets by name, from a hub over HTTP and from the cache without one; and objects of `datasets`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from bp_core.errors import BadValue, FileMissing, PackageMissing
from bp_data import Row, read
from bp_data.reading.files import require
from bp_data.reading.hub import HubName, named
from bp_data.split import split

SERVER = Path(__file__).with_name("hub_server.py")
ASK = """
import json, sys
from bp_core.errors import BackpropagateError
from bp_data import read
for name in sys.argv[1:]:
    try:
        print(json.dumps([[row.where, row.value["prompt"]] for row in read(name)]))
    except BackpropagateError as error:
        print(json.dumps(error.as_dict()))
"""
NAMES = [
    "owner/splits:train",
    "owner/configs:de",
    "owner/configs:de:train",
    "owner/splits",
    "owner/splits:tran",
    "owner/configs",
    "owner/nothing:train",
]
Answers = dict[str, dict[str, str] | list[list[str]]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


def ask(names: list[str], cache: Path, **environment: str) -> Answers:
    """What reading these names gives, in a process of its own: `datasets` reads its settings when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    words = [sys.executable, "-c", ASK, *names]
    done = subprocess.run(
        words, env={**kept, "HF_HOME": str(cache), **environment}, capture_output=True, text=True, check=True
    )
    return {name: json.loads(line) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


@pytest.fixture(scope="module")
def online(cache: Path) -> Iterator[Answers]:
    with subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = server.stdout.readline().strip()
        try:
            yield ask(NAMES, cache, HF_ENDPOINT=f"http://127.0.0.1:{port}")
        finally:
            server.terminate()


def test_a_split_of_a_config_is_downloaded(online: Answers) -> None:
    rows = [[f"owner/splits:train: row {number}", "train?"] for number in (1, 2)]
    assert online["owner/splits:train"] == rows
    assert online["owner/configs:de:train"] == [[f"owner/configs:de:train: row {number}", "de?"] for number in (1, 2)]


def test_what_there_is_to_choose_from_is_said(online: Answers) -> None:
    for name, words in {
        "owner/splits": ["several splits", "train, test", "such as owner/splits:train"],
        "owner/splits:tran": ["no split 'tran'", "train, test"],
        "owner/configs": ["'fr', 'de'", "owner/configs:config:split"],
        "owner/configs:de": ["'fr', 'de'", "owner/configs:config:split"],
    }.items():
        error = online[name]
        assert isinstance(error, dict) and error["code"] == "CONFIG_VALUE_INVALID"
        assert all(word in error["message"] + error["fix"] for word in words), error


def test_a_name_that_the_hub_does_not_have_is_a_missing_file(online: Answers) -> None:
    error = online["owner/nothing:train"]
    assert isinstance(error, dict) and error["code"] == "INPUT_FILE_NOT_FOUND" and "hub" in error["message"]


def test_without_the_hub_what_was_downloaded_is_read_and_the_rest_is_an_error(online: Answers, cache: Path) -> None:
    answers = ask(["owner/splits:train", "owner/other:train"], cache, HF_HUB_OFFLINE="1")
    assert answers["owner/splits:train"] == online["owner/splits:train"]
    error = answers["owner/other:train"]
    assert isinstance(error, dict) and error["code"] == "DEP_HUB_UNREACHABLE" and "download" in error["fix"]


def test_without_its_package_a_name_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PackageMissing) as caught:
        list(read("owner/name:train"))
    assert "bp-data[hub]" in caught.value.fix


def test_a_name_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named("owner/name") == HubName("owner/name", None, None)
    assert named("owner/name-1.5:train_sft") == HubName("owner/name-1.5", None, "train_sft")
    assert str(named("owner/name:all:train")) == "owner/name:all:train"
    for path in ("rows", "./a/b", "/a/b", "a/b/c", "data/rows.jsonl", "data/rows.CSV.gz", "rows:train", "a\\b", "-"):
        assert named(path) is None
    assert named(Path("owner/name")) is None
    (tmp_path / "owner").mkdir()
    assert named("owner/name") is None and named("owner/name:train")
    (tmp_path / "owner" / "name").write_text("")
    assert named("owner/name") is None


def test_what_is_neither_there_nor_a_name_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in ("owner/name", "-", [{"text": "a"}]):
        require(data)
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(FileMissing, match="Did you mean 'rows"):
        require("row.jsonl")


def test_a_split_into_two_files_of_a_data_set_goes_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("name.train.held-out.jsonl").write_text("mine")
    with pytest.raises(Exception, match=r"^name\.train\.held-out\.jsonl: this exists already"):
        split("owner/name:train", 0.5)


def test_objects_of_datasets_are_rows() -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    expected = [Row(row, f"row {number}") for number, row in enumerate(rows, 1)]
    table = datasets.Dataset.from_list(rows)
    assert list(read(table)) == expected
    assert list(read(table.to_iterable_dataset())) == expected
    with pytest.raises(BadValue, match="holds 'train', 'test', not rows"):
        list(read(datasets.DatasetDict({"train": table, "test": table})))  # type: ignore[arg-type]
