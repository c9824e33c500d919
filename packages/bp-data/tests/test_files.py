import json
from pathlib import Path

import pytest

from bp_core.errors import BackpropagateError, BadRow, BrokenJson, FileEmpty, FileMissing, FileUnreadable
from bp_data import Row, read

ROW = {"text": "é漢👩"}


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_keep_their_numbers_past_blank_lines_and_a_byte_order_mark(tmp_path: Path, bom: bytes, end: str) -> None:
    line = json.dumps(ROW, ensure_ascii=False)
    path = write(tmp_path, "a.jsonl", bom + end.join([line, "", "  ", line, ""]).encode())
    assert read(path) == [Row(ROW, f"{path}:1"), Row(ROW, f"{path}:4")]
    assert read(str(path)) == read(path)


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a\u2028b\u0085c"}\n')
    assert read(path)[0].value == {"text": "a\u2028b\u0085c"}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_counts_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, json.dumps([ROW, ROW], indent=1))
    assert read(path)[1] == Row(ROW, f"{path}: row 2")


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
    assert read(path) == [Row({"text": "# One\nmore"}, f"{path}:2"), Row({"text": "two"}, f"{path}:6")]


def test_python_rows_are_numbered_from_one() -> None:
    assert read([ROW, ROW])[1] == Row(ROW, "row 2")
    with pytest.raises(BadRow, match="row 2: this is a string, not a dict"):
        read([ROW, "x"])  # type: ignore[list-item]


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
        read(path)
    assert caught.value.where == f"{path}:{line}"
    assert hint in caught.value.message


def test_a_broken_array_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[\n{"text": "a"},\n{"text": }\n]')
    with pytest.raises(BrokenJson) as caught:
        read(path)
    assert caught.value.where == f"{path}:3"


FAILURES: list[tuple[str, bytes, type[BackpropagateError], str]] = [
    ("a.jsonl", b"", FileEmpty, "no rows"),
    ("a.json", b" \n", FileEmpty, "no rows"),
    ("a.json", b"[]", FileEmpty, "no rows"),
    ("a.txt", b"\n\n", FileEmpty, "no rows"),
    ("a.json", b"3", BrokenJson, "a single value"),
    ("a.json", b"[3]", BrokenJson, "a single value"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', FileUnreadable, "not UTF-8 text"),
    ("a.jsonl", '{"text": "a"}'.encode("utf-16"), FileUnreadable, "UTF-16"),
    ("a.csv", b"a,b\n1,2", FileUnreadable, ".csv"),
]


@pytest.mark.parametrize(("name", "content", "error", "message"), FAILURES)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes, error: type[BackpropagateError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        read(write(tmp_path, name, content))
    assert caught.value.where is not None and name in caught.value.where


def test_bad_bytes_name_their_line(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable) as caught:
        read(write(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}'))
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:2"


def test_a_missing_file_suggests_a_near_name(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(FileMissing, match="Did you mean 'train"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(FileMissing):
        read(tmp_path / "nowhere" / "a.jsonl")


def test_a_folder_is_refused_with_a_file_to_name(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(FileUnreadable, match="folder") as caught:
        read(tmp_path)
    assert "train.jsonl" in caught.value.fix
