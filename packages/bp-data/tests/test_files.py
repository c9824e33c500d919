import csv
import gzip
import io
import itertools
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bp_core.config import DataConfig
from bp_core.errors import (
    BackpropagateError,
    BadRow,
    BadValue,
    BrokenJson,
    FileEmpty,
    FileMissing,
    FileUnreadable,
    PackageMissing,
    UnknownFormat,
)
from bp_data import Row, convert, read
from bp_data.reading.columns import columns_in
from bp_data.reading.context import Remark

ROW = {"text": "é漢👩"}


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_may_be_given_as_one_line() -> None:
    assert columns_in("") == {}
    assert columns_in("prompt=q, completion=a b") == {"prompt": "q", "completion": "a b"}
    for wrong in ("prompt", "prompt=", "=q", "prompt=q,prompt=r", "prompt=q,"):
        with pytest.raises(BadValue, match="must be pairs"):
            columns_in(wrong)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_keep_their_numbers_past_blank_lines_and_a_byte_order_mark(tmp_path: Path, bom: bytes, end: str) -> None:
    line = json.dumps(ROW, ensure_ascii=False)
    path = write(tmp_path, "a.jsonl", bom + end.join([line, "", "  ", line, ""]).encode())
    assert list(read(path)) == [Row(ROW, f"{path}:1"), Row(ROW, f"{path}:4")]
    assert list(read(str(path))) == list(read(path))


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a\u2028b\u0085c"}\n')
    assert next(read(path)).value == {"text": "a\u2028b\u0085c"}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_counts_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, json.dumps([ROW, ROW], indent=1))
    assert list(read(path))[1] == Row(ROW, f"{path}: row 2")


def test_an_object_with_one_list_gives_the_list(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps({"version": 1, "data": [ROW, ROW]}, indent=1))
    assert [row.value for row in read(path)] == [ROW, ROW]


def test_one_conversation_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    value = {"messages": [{"role": "user", "content": "hi"}]}
    assert [row.value for row in read(write(tmp_path, "a.json", json.dumps(value)))] == [value]


def test_json_lines_under_the_name_json_are_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '{"text": "a"}\n{"text": "b"}\n')
    assert [row.where for row in read(path)] == [f"{path}:1", f"{path}:2"]


def test_paragraphs_of_a_text_file_are_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.md", "\r\n# One\r\nmore\r\n \r\n\r\ntwo \r\n")
    assert list(read(path)) == [Row({"text": "# One\nmore"}, f"{path}:2"), Row({"text": "two"}, f"{path}:6")]


def test_python_rows_are_numbered_from_one() -> None:
    assert list(read([ROW, ROW]))[1] == Row(ROW, "row 2")
    with pytest.raises(BadRow, match="row 2: this is a string, not a dict"):
        list(read([ROW, "x"]))  # type: ignore[list-item]


BROKEN = [
    ('{"text": "a"}\n{"text": \'b\'}', 2, "double quotes"),
    ('{"text": "a",}', 1, "comma"),
    ('{"text": "a"}\n\n{"text":\n"b"}', 3, "one line"),
    ('{"text": "a', 1, "one line"),
    ('{"text": "a"}{"text": "b"}', 1, "line of its own"),
    ('{"text": "a"}\n["b"]', 2, "a list, not an object"),
    ('{"text": "a"}\nnull', 2, "null, not an object"),
    ('{"text": ' + "[" * 100_000, 1, ""),
    ('{"text": ' + "1" * 10_000 + "}", 1, "digits"),
]


@pytest.mark.parametrize(("content", "line", "hint"), BROKEN)
def test_broken_json_names_the_line_and_what_to_do(tmp_path: Path, content: str, line: int, hint: str) -> None:
    path = write(tmp_path, "a.jsonl", content)
    with pytest.raises(BrokenJson) as caught:
        list(read(path))
    assert caught.value.where == f"{path}:{line}"
    assert hint in caught.value.message


def test_a_broken_array_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[\n{"text": "a"},\n{"text": }\n]')
    with pytest.raises(BrokenJson) as caught:
        list(read(path))
    assert caught.value.where == f"{path}:3"


FAILURES: list[tuple[str, bytes, type[BackpropagateError], str]] = [
    ("a.jsonl", b"", FileEmpty, "no rows"),
    ("a.json", b" \n", FileEmpty, "no rows"),
    ("a.json", b"[]", FileEmpty, "no rows"),
    ("a.txt", b"\n\n", FileEmpty, "no rows"),
    ("a.json", b"3", BrokenJson, "a single value"),
    ("a.json", b"[3]", BrokenJson, "a single value"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', FileUnreadable, "not UTF-8 text"),
    ("a.jsonl", '{"text": "a"}'.encode("utf-16")[:-1], FileUnreadable, "UTF-16"),
    ("a.xlsx", b"a,b\n1,2", FileUnreadable, ".xlsx"),
    ("a.parquet", b"PAR1", FileUnreadable, "cannot be read"),
    ("a.jsonl.gz", b"{}", FileUnreadable, "cannot be read"),
    ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], FileUnreadable, "cannot be read"),
    ("a.jsonl.zst", b"{}", FileUnreadable, "cannot be read"),
    ("a.csv", b"a,b\n", FileEmpty, "no rows"),
    ("a.csv", b"a,b\n1,2\n3\n", BadRow, "1 cells, the header 2"),
    ("a.csv", b'a,b\n1,"2\n3,4\n', BadRow, "not a row of cells"),
    ("a.csv", b"a,a\n1,2\n", BadRow, "'a' more than once"),
]


@pytest.mark.parametrize(("name", "content", "error", "message"), FAILURES)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes, error: type[BackpropagateError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        list(read(write(tmp_path, name, content)))
    assert caught.value.where is not None and name in caught.value.where


def test_bad_bytes_name_their_line(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable) as caught:
        list(read(write(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}')))
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:2"


def test_a_missing_file_suggests_a_near_name(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(FileMissing, match="Did you mean 'train"):
        list(read(tmp_path / "trian.jsonl"))
    with pytest.raises(FileMissing):
        list(read(tmp_path / "nowhere" / "a.jsonl"))


VALUES = [{"prompt": 'é, "x"', "completion": "1\n2"}, {"prompt": "q\t", "completion": " yo "}]
LINES = "".join(json.dumps(value) + "\n" for value in VALUES)


def values(data: Path | str) -> list[object]:
    return [row.value for row in read(data)]


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_have_their_columns_from_the_header(tmp_path: Path, suffix: str, delimiter: str, end: str) -> None:
    cells = [["prompt", "completion"], [], *(list(value.values()) for value in VALUES)]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(cells)
    path = write(tmp_path, f"a{suffix}", text.getvalue())
    assert list(read(path)) == [Row(VALUES[0], f"{path}:3"), Row(VALUES[1], f"{path}:5")]


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    assert values(write(tmp_path, "a.csv", "text\n" + "x" * 200_000)) == [{"text": "x" * 200_000}]


def test_a_parquet_file_gives_nested_values_too(tmp_path: Path) -> None:
    turns = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(1100)]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(turns), path)
    assert values(path) == turns
    assert list(read(path))[-1].where == f"{path}: row 1100"


def test_compressed_files_are_read_as_what_is_inside(tmp_path: Path) -> None:
    whole = zstandard.compress(LINES.encode()) + zstandard.compress(b"\n" + LINES.encode())
    path = write(tmp_path, "a.jsonl.zst", whole)
    assert [row.where for row in read(path)] == [f"{path}:{line}" for line in (1, 2, 4, 5)]
    assert values(write(tmp_path, "a.jsonl.gz", gzip.compress(LINES.encode()))) == VALUES
    assert values(write(tmp_path, "a.csv.gz", gzip.compress(b"text\nhi\n"))) == [{"text": "hi"}]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_without_its_package_a_file_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(PackageMissing) as caught:
        list(read(write(tmp_path, name, b"")))
    assert f"bp-data[{name.rpartition('.')[2]}]" in caught.value.fix


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv"])
def test_utf_16_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str, name: str) -> None:
    text = {"a.txt": "é漢👩\r\n", "a.csv": "text\r\né漢👩\r\n"}.get(name, json.dumps(ROW, ensure_ascii=False))
    assert values(write(tmp_path, name, ("\ufeff" + text).encode(encoding))) == [ROW]


def test_standard_input_is_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES.encode())))
    assert [row.where for row in read("-")] == ["stdin:1", "stdin:2"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    with pytest.raises(BrokenJson, match="stdin:1"):
        list(read("-"))


def test_a_folder_is_its_files_in_order_and_those_below_without_the_hidden(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path, "b/1.jsonl", '{"text": "3"}')
    write(tmp_path, "a2.csv", "text\n2")
    write(tmp_path, "a1.jsonl.gz", gzip.compress(b'{"text": "1"}'))
    write(tmp_path, ".DS_Store", b"\x00")
    assert values(tmp_path) == [{"text": "1"}, {"text": "2"}, {"text": "3"}]


def test_a_folder_skips_nothing_in_silence(tmp_path: Path) -> None:
    with pytest.raises(FileEmpty):
        list(read(tmp_path))
    write(tmp_path, "rows.jsonl", LINES)
    write(tmp_path, "README.md", "about the rows")
    told: list[Remark] = []
    assert [row.value for row in read(tmp_path, tell=told.append)] == VALUES
    assert [(remark.kind, remark.message) for remark in told] == [
        ("left-out-file", "not read, for they describe data: README.md")
    ]
    write(tmp_path, "notes.md", "about the rows")
    with pytest.raises(FileUnreadable, match=r"may only describe them: notes.md"):
        list(read(tmp_path))
    write(tmp_path, "a.xlsx", "")
    with pytest.raises(FileUnreadable, match=r"not data: a.xlsx") as error:
        list(read(tmp_path))
    assert "CSV" in error.value.fix


def test_columns_of_other_names_are_renamed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,question,reply\n7,hi,yo\n")
    (row,) = read(path, DataConfig(columns="prompt=question,completion=reply"))
    assert row == Row({"prompt": "hi", "completion": "yo", "id": "7"}, f"{path}:2")
    with pytest.raises(UnknownFormat, match=r"columns are 'id', 'question', 'reply'. Did you mean 'question'") as error:
        list(read(path, DataConfig(columns="prompt=qestion")))
    assert error.value.where == f"{path}:2"


def test_rows_come_before_the_file_has_been_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", LINES + "{broken")
    assert [row.value for row in itertools.islice(read(path), 2)] == VALUES
    with pytest.raises(BrokenJson):
        list(read(path))


ENDINGS = [".jsonl", ".json", ".csv", ".tsv", ".txt", ".md", ".parquet", ".gz", ".jsonl.gz", ".csv.zst", ".bin", ""]
PIECES = [
    b"{",
    b"}",
    b"[",
    b'"text"',
    b":",
    b",",
    b'"',
    b"\n",
    b"\r",
    b"\t",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"a",
]
BYTES = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ENDINGS), BYTES, st.sampled_from([None, "gz", "zst"]))
def test_random_bytes_give_rows_or_one_of_our_errors(
    tmp_path: Path, ending: str, content: bytes, packed: str | None
) -> None:
    if packed and ending.endswith(packed):
        content = gzip.compress(content) if packed == "gz" else zstandard.compress(content)
    try:
        for row in read(write(tmp_path, f"a{ending}", content)):
            convert(row)
    except BackpropagateError as error:
        assert error.where and error.fix
