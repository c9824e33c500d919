"""Files and tables as other tools write them, and files that are not what they seem."""

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, FileMissing, FileTooLarge, FileUnreadable, NoTarget
from bp_data import Row, convert, read
from bp_data.check import check
from bp_data.formats.records import Rated
from bp_data.reading.context import Remark
from bp_data.reading.files import lasting, require
from bp_data.split import split

ROWS = [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(3)]
LINES = [json.dumps(row) for row in ROWS]
TEXT = "\n".join(LINES) + "\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(data: Any, **settings: Any) -> list[Any]:
    return [dict(row.value) for row in read(data, DataConfig(**settings))]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        (["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"], ["data/train-00000-of-00001.jsonl"]),
        (["train/a.jsonl", "train/b.jsonl", "validation/a.jsonl"], ["train/a.jsonl", "train/b.jsonl"]),
        (["my_training_set.jsonl", "dev.jsonl", "other.jsonl"], ["my_training_set.jsonl"]),
        (["rows.jsonl", "rows.train.jsonl", "rows.held-out.jsonl"], ["rows.train.jsonl"]),
        (["rows.jsonl", "eval.jsonl"], ["rows.jsonl"]),
        (["test.jsonl"], ["test.jsonl"]),
        (["latest.jsonl", "contest.jsonl", "trainer.jsonl"], ["contest.jsonl", "latest.jsonl", "trainer.jsonl"]),
    ],
)
def test_of_a_folder_with_splits_the_train_part_is_read_and_the_others_are_named(
    tmp_path: Path, names: list[str], kept: list[str]
) -> None:
    for name in names:
        write(tmp_path / name, json.dumps({"text": name}))
    told: list[Remark] = []
    rows = [row.value["text"] for row in read(tmp_path, tell=told.append)]
    assert rows == kept
    others = sorted(set(names) - set(kept))
    assert all(any(str(tmp_path / name) in remark.message for remark in told) for name in others)
    assert [finding.kind for finding in check(tmp_path).findings if finding.kind == "other-split"] == [
        "other-split"
    ] * bool(others)
    pattern = str(tmp_path / "**" / "*.jsonl")
    assert [row.value["text"] for row in read(pattern)] == rows


def test_a_folder_with_evaluation_files_only_is_refused(tmp_path: Path) -> None:
    for name in ("validation.jsonl", "test.jsonl"):
        write(tmp_path / name, TEXT)
    with pytest.raises(FileUnreadable, match="none to train on"):
        values(tmp_path)


def test_a_clone_of_a_hub_repository_is_read_without_what_describes_it(tmp_path: Path) -> None:
    write(tmp_path / "data" / "rows.jsonl", TEXT)
    for name in ("README.md", "LICENSE", ".gitattributes", "dataset_infos.json", "load.py", "croissant.json"):
        write(tmp_path / name, "about")
    told: list[Remark] = []
    assert [dict(row.value) for row in read(tmp_path, tell=told.append)] == ROWS
    assert [remark.kind for remark in told] == ["left-out-file"] and "README.md" in told[0].message


def test_several_files_and_patterns(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", line) for name, line in zip("abc", LINES, strict=True)]
    assert values(paths) == ROWS and values([str(tmp_path / "[ab].jsonl"), paths[2]]) == ROWS
    assert lasting(paths) == [str(path) for path in paths]
    require([str(tmp_path / "*.jsonl")])
    with pytest.raises(FileMissing):
        require([str(tmp_path / "*.csv")])
    with pytest.raises(FileMissing):
        values(tmp_path / "*.csv")


@pytest.mark.parametrize("sign", [";", "\t", "|", ","])
def test_tables_with_other_delimiters(tmp_path: Path, sign: str) -> None:
    path = write(tmp_path / "a.csv", f'prompt{sign}completion\nq,"a{sign}b"\n'.replace("q,", f"q{sign}"))
    assert values(path) == [{"prompt": "q", "completion": f"a{sign}b"}]


def test_carriage_returns_end_lines_where_nothing_else_does(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.csv", "prompt,completion\rq0,a0\rq1,a1\rq2,a2")) == ROWS
    assert values(write(tmp_path / "a.jsonl", TEXT.replace("\n", "\r"))) == ROWS
    (row,) = read(write(tmp_path / "b.jsonl", '{"text": "a"}\r'))
    assert row.value == {"text": "a"}


def test_a_header_with_spaces_and_cells_that_keep_theirs(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.csv", "prompt, completion\nq,    a\n")) == [
        {"prompt": "q", "completion": "    a"}
    ]
    with pytest.raises(BackpropagateError, match="cell 2 has no name"):
        values(write(tmp_path / "b.csv", "prompt,,completion\nq,lost,a\n"))


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": ["q0", "q1", "q2"], "completion": ["a0", "a1", "a2"]},
        {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]},
        {str(n): row for n, row in enumerate(ROWS)},
        {"train": ROWS, "test": ROWS[:1]},
        {"version": 2, "data": ROWS},
        ROWS,
    ],
)
def test_json_documents_in_every_orientation(tmp_path: Path, value: Any) -> None:
    for indent in (None, 1):
        assert values(write(tmp_path / "a.json", json.dumps(value, indent=indent))) == ROWS


def test_a_single_row_is_a_row(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b", "history": [["c", "d"]]}
    assert values(write(tmp_path / "a.json", json.dumps(row, indent=1))) == [row]


def test_a_long_array_on_one_line_is_read_row_by_row(tmp_path: Path) -> None:
    rows = [{"text": f"{n} " * 50} for n in range(5000)]
    path = write(tmp_path / "a.json", json.dumps(rows))
    assert values(path, max_row=0.01) == rows


BROKEN = [
    ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ("a.jsonl", b"<!DOCTYPE html>\n<html></html>", "Download the file itself"),
    ("a.csv", b" <html>", "Download the file itself"),
    ("a.jsonl", gzip.compress(TEXT.encode(), mtime=0), ".gz"),
    ("a.json", b"PAR1 and more", ".parquet"),
    ("a.parquet", b"PAR1", "Download the file again"),
    ("a.jsonl.gz", gzip.compress(TEXT.encode() * 99, mtime=0)[:-20], "Download the file again"),
    ("a.xlsx", b"PK\x03\x04", "CSV"),
    ("a.xls", b"\xd0\xcf\x11\xe0", "CSV"),
    ("a.jsonl", b'{"text": "a"},\n{"text": "b"},\n', "Remove the comma at the end of the line"),
    ("a.jsonl", b'{"prompt": "first", "prompt": "second", "completion": "x"}', "Remove one of them"),
    ("a.json", b'[{"m": [{"role": "user", "role": "assistant"}]}]', "Remove one of them"),
]


@pytest.mark.parametrize(("name", "content", "way"), BROKEN)
def test_what_is_wrong_with_a_file_is_said_with_a_way_out(tmp_path: Path, name: str, content: bytes, way: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(BackpropagateError) as error:
        values(path)
    assert way in f"{error.value.message} {error.value.fix}" and str(path) in (error.value.where or "")


def test_rows_that_are_all_broken_are_not_called_missing_too(tmp_path: Path) -> None:
    kinds = [finding.kind for finding in check(write(tmp_path / "a.jsonl", "x\ny\n")).findings]
    assert kinds == ["broken-row", "broken-row"]


def test_a_key_that_is_there_twice_with_one_value_is_no_fault(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.jsonl", '{"text": "a", "text": "a"}')) == [{"text": "a"}]


TABLE = pandas.DataFrame(ROWS)
PYTHON = [
    TABLE,
    datasets.Dataset.from_list(ROWS),
    datasets.Dataset.from_list(ROWS).with_format("numpy"),
    datasets.Dataset.from_list(ROWS).with_format("pandas"),
    datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    pyarrow.table(TABLE),
    {name: list(column) for name, column in TABLE.items()},
    {name: np.array(list(column)) for name, column in TABLE.items()},
    iter(ROWS),
]


@pytest.mark.parametrize("data", PYTHON, ids=lambda data: type(data).__name__)
def test_tables_and_data_sets_given_in_python(data: Any) -> None:
    assert [{name: str(cell) for name, cell in row.items()} for row in values(data)] == ROWS


def test_what_pandas_has_for_a_missing_value_is_missing() -> None:
    table = pandas.DataFrame([{**ROWS[0], "system": "Be brief.", "label": True}, {**ROWS[1], "completion": None}])
    first, second = read(table)
    assert isinstance(convert(first), Rated)
    with pytest.raises(NoTarget, match="'completion' is null"):
        convert(second)
    (row,) = read(pandas.DataFrame({**ROWS[0], "note": [float("nan")], "when": [pandas.NaT]}).to_dict("records"))
    assert convert(row).unused == ()


def test_labels_of_numpy_and_of_formatted_data_sets_are_verdicts() -> None:
    rows = [{**ROWS[0], "label": 0.0}, {**ROWS[1], "label": 1.0}]
    for data in (datasets.Dataset.from_list(rows).with_format("numpy"), pandas.DataFrame(rows)):
        records = [convert(row) for row in read(data)]
        assert [isinstance(record, Rated) and record.desirable for record in records] == [False, True]


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    many = datasets.Dataset.from_dict({"text": [str(n) for n in range(1200)]})
    many.save_to_disk(str(tmp_path / "one"), num_shards=3)
    assert [row["text"] for row in values(tmp_path / "one")] == [str(n) for n in range(1200)]
    both = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)})
    both.save_to_disk(str(tmp_path / "both"))
    told: list[Remark] = []
    assert [dict(row.value) for row in read(tmp_path / "both", tell=told.append)] == ROWS
    assert {remark.kind for remark in told} == {"left-out-file", "other-split"}


def calling(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_the_padding_of_arrow_is_taken_out(tmp_path: Path) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
        for name, properties in (("get_w", {"city": {"type": "string"}}), ("get_t", {"tz": {"type": "string"}}))
    ]
    calls = [calling("get_w", {"city": "Paris"}), calling("get_t", {"tz": "CET"})]
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    row = {"messages": turns, "tools": tools}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    padded = pyarrow.Table.from_pylist([row]).to_pylist()
    assert '"tz": null' in json.dumps(padded)
    wanted = convert(Row(row, "f:1"))
    for data in (tmp_path / "a.parquet", datasets.Dataset.from_list([row]), pandas.DataFrame([row]), padded):
        (found,) = (convert(each) for each in read(data))
        assert (found.content, found.tools) == (wanted.content, wanted.tools)


def test_a_compressed_file_expands_no_further_than_it_may(tmp_path: Path) -> None:
    bomb = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "' + b"a" * 40_000_000 + b'"}\n' + TEXT.encode()))
    assert bomb.stat().st_size < 50_000
    with pytest.raises(FileTooLarge, match="--max-ratio 200") as error:
        values(bomb)
    assert error.value.fix.endswith("--max-ratio 2000")
    with pytest.raises(FileTooLarge, match="--max-expanded"):
        values(bomb, max_ratio=2000, max_expanded=0.01)
    faults: list[BackpropagateError] = []
    rows = list(read(bomb, DataConfig(max_ratio=2000, max_row=1), faults.append))
    assert [row.value for row in rows] == ROWS and [type(fault) for fault in faults] == [FileTooLarge]
    assert len(values(bomb, max_ratio=2000)) == 4


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".txt", ".parquet"])
def test_one_row_is_no_larger_than_it_may(tmp_path: Path, ending: str) -> None:
    text = "ab " * 20_000
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": ["ok", text]}), path)
    else:
        contents = {".jsonl": json.dumps({"text": "ok"}) + "\n" + json.dumps({"text": text}), ".txt": f"ok\n\n{text}"}
        contents |= {".json": json.dumps([{"text": "ok"}, {"text": text}]), ".csv": f"text,b\nok,1\n{text},2\n"}
        write(path, contents[ending])
    faults: list[BackpropagateError] = []
    rows = list(read(path, DataConfig(max_row=0.02), faults.append))
    assert [row.value["text"] for row in rows] == ["ok"] and len(faults) == 1
    assert len(values(path)) == 2


def test_a_parquet_file_of_one_repeated_text_is_not_expanded_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 1000] * 100_000}), path)
    with pytest.raises(FileTooLarge):
        values(path, max_expanded=0.001, max_ratio=1e9)


@pytest.mark.parametrize("is_stream", [True, False])
def test_texts_that_lie_outside_of_an_arrow_file_are_a_fault(tmp_path: Path, is_stream: bool) -> None:
    """Read without a look, they end the process."""
    table = pyarrow.table({"prompt": ["a", "bb"], "completion": ["c", "ddd"]})
    written = io.BytesIO()
    with (pyarrow.ipc.new_stream if is_stream else pyarrow.ipc.new_file)(written, table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table)
    places, wrong = np.array([0, 1, 3], np.int32).tobytes(), np.array([0, 1, 2**30], np.int32).tobytes()
    path = tmp_path / "a.arrow"
    path.write_bytes(written.getvalue().replace(places, wrong, 1))
    faults: list[BackpropagateError] = []
    assert [row.value["prompt"] for row in read(path, fault=faults.append)] == ["a", "bb"]
    assert [fault.where for fault in faults] == [f"{path}: row 1"] and "2 rows from here on" in str(faults[0])


def test_standard_input_is_split_reading_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BufferedReader(io.BytesIO(TEXT.encode()))  # type: ignore[arg-type]

    monkeypatch.setattr(sys, "stdin", Input)
    done = split("-", 0.34, folder=tmp_path)
    assert (done.train_rows, done.held_out_rows) == (2, 1)
    written = done.train.read_text().splitlines() + done.held_out.read_text().splitlines()
    assert sorted(written) == sorted(LINES) and done.train.name == "stdin.train.jsonl"


def test_of_a_folder_with_splits_another_part_is_read_to_evaluate_on(tmp_path: Path) -> None:
    for name in ("train", "test", "validation"):
        write(tmp_path / f"{name}.jsonl", json.dumps({"text": name}))
    assert [row.value["text"] for row in read(tmp_path, evaluating=True)] == ["validation"]
    document = write(tmp_path / "a" / "all.json", json.dumps({"train": ROWS, "test": ROWS[:1]}))
    assert [dict(row.value) for row in read(document, evaluating=True)] == ROWS[:1]
