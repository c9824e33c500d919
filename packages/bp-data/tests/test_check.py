"""The check as a whole: a seeded fault of every kind, any bytes, flat places, and repaired copies."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, BadValue, FileEmpty, FileMissing, NoTarget, OutputUnusable
from bp_core.events import Progress
from bp_data import ChatTokenizer
from bp_data.check import KINDS, Report, check
from bp_data.check.config import CheckConfig
from bp_data.check.findings import KEPT

EXAMPLES = Path(__file__).parents[3] / "examples"
FAULTS, HELD_OUT = EXAMPLES / "faults.jsonl", str(EXAMPLES / "faults-held-out.jsonl")
# The lines of examples/faults.jsonl on which each kind of fault was put.
SEEDED = {
    "broken-row": [2],
    "bad-encoding": [3],
    "unknown-format": [4],
    "no-answer": [5],
    "empty-answer": [6, 7],
    "template-refuses": [8],
    "role-order": [8, 13],
    "leak": [9],
    "secret": [10],
    "near-leak": [11],
    "duplicate": [12],
    "empty-turn": [14],
    "type-drift": [16],
    "too-long": [18, 19],
    "end-lost": [18],
    "no-target": [19],
    "markup": [20],
    "personal-data": [21],
    "mojibake": [22],
    "lost-character": [23],
    "control-character": [24],
    "near-duplicate": [26],
    "invisible-character": [27],
    "outer-space": [28],
    "mixed-scripts": [29],
    "mixed-formats": [30],
}
# Need folders, settings, other templates, raw texts, comparisons or tools.
ELSEWHERE = {"empty-file", "not-written", "unused-column", "missing-column", "alike-answers", "split-text"}
ELSEWHERE |= {"several-thoughts"}
ELSEWHERE |= {"made-up-id", "other-split", "left-out-file", "text-unit"}
ELSEWHERE |= {"broken-call", "unknown-tool", "wrong-arguments", "stray-result", "call-text"}
REPAIRED = [name for name, kind in KINDS.items() if kind.repair]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(prompt: str, completion: str = "Yes.") -> dict[str, object]:
    return {"prompt": prompt, "completion": completion}


def lines(report: Report) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for finding in report.findings:
        name, _, number = finding.place.rpartition(":")
        assert name == str(FAULTS)
        found[finding.kind] = sorted({*found.get(finding.kind, []), int(number)})
    return found


def seeded(smol: ChatTokenizer, **more: str) -> Report:
    return check(str(FAULTS), CheckConfig(model="smol", max_length=192, against=HELD_OUT, **more), smol)  # type: ignore[arg-type]


def test_a_fault_of_every_kind_is_found_on_its_line_and_nowhere_else(smol: ChatTokenizer) -> None:
    assert {*SEEDED, *ELSEWHERE} == set(KINDS)
    report = seeded(smol)
    assert lines(report) == SEEDED
    assert (report.rows, report.unread, report.formats) == (28, 2, {"openai": 23, "prompt": 1})
    assert all(finding.message and finding.fix for finding in report.findings)


def test_an_empty_file_in_a_folder_is_found_and_the_others_are_checked(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl", pair("Hi?"), pair("Hi?"))
    report = check(tmp_path)
    assert [(finding.kind, finding.place) for finding in report.findings] == [
        ("empty-file", str(tmp_path / "a.jsonl")),
        ("duplicate", f"{tmp_path / 'b.jsonl'}:2"),
    ]


def test_what_a_template_leaves_out_of_answers_is_found(
    tmp_path: Path, model_tokenizer: Callable[[str], ChatTokenizer]
) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    asked = {"role": "user", "content": "?"}
    tools = [{"name": "look", "parameters": {"type": "object", "properties": {}}}]
    rows = [
        {"messages": [asked, {"role": "assistant", "content": text, "tool_calls": [call]}], "tools": tools}
        for text in ("", "I look.")
    ]
    data = write(tmp_path / "a.jsonl", *rows)
    (finding,) = check(data, CheckConfig(model="llama"), model_tokenizer("llama3_1")).findings
    assert (finding.kind, finding.place) == ("not-written", f"{data}:2")


def test_comparisons_and_rated_answers_are_checked_like_demonstrations(tmp_path: Path, smol: ChatTokenizer) -> None:
    compared = {"prompt": "Which?", "chosen": "This one.", "rejected": "That <|im_end|> one."}
    rated = {"prompt": "Which?", "completion": "This one.", "label": False}
    data = write(tmp_path / "a.jsonl", compared, compared, rated, {**rated, "completion": "Mail jane@bakery.test"})
    report = check(data, CheckConfig(model="smol"), smol)
    assert report.formats == {"preference": 2, "kto": 2}
    assert [(finding.kind, finding.place.rpartition(":")[2], finding.message[:15]) for finding in report.findings] == [
        ("duplicate", "2", f"says what {data}"[:15]),
        ("markup", "1", "rejected turn 1"),
        ("markup", "2", "rejected turn 1"),
        ("personal-data", "4", "turn 2: an e-ma"),
        ("mixed-formats", "3", "kto (2), and el"),
    ]
    assert report.tokens and sum(bar.rows for bar in report.tokens.lengths.bars()) == 6


def test_columns_of_other_names_are_checked_and_keep_their_names_in_the_copy(tmp_path: Path) -> None:
    rows = [{"q": "Hi?", "a": "Yes. "}, {"q": "Ho?"}, {"q": "Hi?", "a": "Yes."}]
    data, copy = write(tmp_path / "a.jsonl", *rows), tmp_path / "copy.jsonl"
    report = check(data, CheckConfig(fix=str(copy)), reading=DataConfig(columns="prompt=q,completion=a"))
    assert report.findings.counts == {"unknown-format": 1, "duplicate": 1, "outer-space": 1}
    assert copy.read_text(encoding="utf-8") == '{"q": "Hi?", "a": "Yes."}\n'


def test_the_quickstart_file_has_no_error_and_no_warning(smol: ChatTokenizer) -> None:
    report = check(EXAMPLES / "quickstart.jsonl", CheckConfig(model="smol"), smol)
    assert report.rows == 69 and not report.fails("warning")


def test_the_copy_has_none_of_the_faults_that_a_repair_is_for(smol: ChatTokenizer, tmp_path: Path) -> None:
    before = FAULTS.read_bytes()
    report = seeded(smol, fix=str(tmp_path / "fixed.jsonl"))
    done = report.repaired
    assert done and (done.rows, done.cleaned) == (21, 3) and FAULTS.read_bytes() == before
    assert {"left out", "cleaned"} == {KINDS[name].repair for name in [*done.left_out, *done.removed]}
    changes = [json.loads(line) for line in done.changes.read_text(encoding="utf-8").splitlines()]
    assert [change["place"].rpartition(":")[2] for change in changes] == [
        "2", "3", "4", "5", "6", "7", "8", "9", "12", "24", "27", "28",
    ]  # fmt: skip
    assert done.rows + sum(done.left_out.values()) == report.rows + report.unread
    again = check(done.path, CheckConfig(model="smol", max_length=192, against=HELD_OUT), smol)
    assert again.rows == done.rows and not [name for name in REPAIRED if again.findings.counts[name]]
    assert again.findings.counts["secret"] == 1  # what only a person can decide stays


def test_nothing_is_written_over_and_nothing_if_no_row_is_left(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", {"text": " "})
    with pytest.raises(NoTarget):
        check(data, CheckConfig(fix=str(tmp_path / "b.jsonl")))
    with pytest.raises(OutputUnusable, match="exists already"):
        check(data, CheckConfig(fix=str(data)))
    with pytest.raises(BadValue, match=r"does not end in \.jsonl"):
        check(data, CheckConfig(fix=str(tmp_path / "b.csv")))
    (tmp_path / "b.changes.jsonl").write_text("mine")
    with pytest.raises(OutputUnusable, match="exists already"):
        check(data, CheckConfig(fix=str(tmp_path / "b.jsonl")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.changes.jsonl"]


def test_rows_that_can_be_read_only_once_are_not_repaired(tmp_path: Path) -> None:
    for data in ("-", iter([pair("Hi?")])):
        with pytest.raises(BadValue, match="read once"):
            check(data, CheckConfig(fix=str(tmp_path / "b.jsonl")))


def test_more_findings_than_are_kept_are_counted(tmp_path: Path) -> None:
    rows = [pair("Hi?")] * (2 * KEPT) + [pair(f"{n} a\x07") for n in range(KEPT + 5)]
    report = check(write(tmp_path / "a.jsonl", *rows), CheckConfig(near=False))
    kinds = report.as_dict()["kinds"]
    assert kinds["duplicate"] == {"severity": "warning", "count": 2 * KEPT - 1, "shown": KEPT}
    assert kinds["control-character"] == {"severity": "warning", "count": KEPT + 5, "shown": KEPT}
    assert len(report.findings.of("control-character")) == KEPT
    json.dumps(report.as_dict(), default=str)


def test_without_a_model_lengths_are_characters_and_with_one_tokens(tmp_path: Path, smol: ChatTokenizer) -> None:
    data = write(tmp_path / "a.jsonl", pair("1234"), pair("12345678"))
    report = check(data)
    assert report.tokens is None and report.characters.as_dict()["histogram"] == [{"from": 8, "to": 15, "rows": 2}]
    tokens = check(data, CheckConfig(model="smol"), smol).tokens
    assert tokens and 0 < tokens.trained < tokens.lengths.total and tokens.max_length == 2048


def test_what_a_message_quotes_of_the_data_holds_no_secret(tmp_path: Path) -> None:
    token = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
    data = write(tmp_path / "a.jsonl", {"prompt": [token], "completion": "x"}, {token: 1}, pair(f"It is {token}."))
    report = check(data)
    assert report.findings.counts.keys() >= {"broken-row", "unknown-format", "secret"}
    assert token not in json.dumps(report.as_dict())


def test_rows_given_in_python_and_compressed_files_are_checked_too(tmp_path: Path) -> None:
    assert [finding.place for finding in check([pair("Hi?"), pair("Hi?")]).findings] == ["row 2"]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(pair("a\x07")) + "\n{\n").encode()))
    assert [finding.place for finding in check(path).findings] == [f"{path}:2", f"{path}:1"]


def test_a_row_nested_without_end_is_checked_and_copied(tmp_path: Path) -> None:
    deep = '{"text": "a", "more": ' + "[" * 900 + "]" * 900 + "}\n"
    (tmp_path / "a.jsonl").write_text(deep + '{"more": ' + "[" * 900 + "]" * 900 + "}\n")
    report = check(tmp_path / "a.jsonl", CheckConfig(fix=str(tmp_path / "b.jsonl")))
    assert report.findings.counts.keys() == {"unknown-format"}
    assert (tmp_path / "b.jsonl").read_text() == deep


def test_a_file_that_is_not_there_or_has_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        check(tmp_path / "a.jsonl")
    with pytest.raises(FileEmpty):
        check(write(tmp_path / "a.jsonl"))
    with pytest.raises(BackpropagateError, match=r"held.jsonl:1"):
        check([pair("Hi?")], CheckConfig(against=str(write(tmp_path / "held.jsonl", {"text": 3}))))


def test_a_length_without_a_model_is_refused() -> None:
    with pytest.raises(BadValue, match="without a model"):
        CheckConfig(max_length=64)


def test_progress_is_told_when_it_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    data = write(tmp_path / "a.jsonl", *(pair(f"{n}?") for n in range(1500)))
    check(data, on_progress=told.append)
    assert told == []
    monkeypatch.setattr("bp_data.check.progress.QUIET", 0.0)
    check(data, on_progress=told.append)
    assert told == [Progress("check", n, 1500) for n in (512, 1024, 1500)]


TEXTS = st.text(st.sampled_from("aB \n\x07\u200b\u00e9\ufeff\u0e01\u0430"), max_size=4)
VALUES = st.one_of(TEXTS, st.none(), st.integers(0, 2))
TURNS = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system ", "x"]), "content": VALUES})
ROWS = st.one_of(
    st.fixed_dictionaries({"messages": st.lists(TURNS, max_size=4)}, optional={"id": VALUES}),
    st.fixed_dictionaries({"prompt": VALUES, "completion": VALUES}),
    st.fixed_dictionaries({"instruction": VALUES, "input": VALUES, "output": VALUES}),
    st.fixed_dictionaries({"text": VALUES}),
)
RAW = st.binary(max_size=20) | ROWS.map(lambda row: json.dumps(row, ensure_ascii=False).encode())
FILES = st.lists(RAW, max_size=8).map(b"\n".join)
SLOW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(st.sampled_from([".jsonl", ".json", ".csv", ".txt", ".parquet", ""]), FILES | st.binary(max_size=60))
def test_any_bytes_give_findings_or_one_of_our_errors(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"any{ending}"
    path.write_bytes(content)
    try:
        report = check(path)
    except BackpropagateError as error:
        assert error.where and error.fix
    else:
        assert report.findings.counts.total() == sum(kind["count"] for kind in report.as_dict()["kinds"].values())
        assert report.rows or report.unread
        assert all(finding.place.startswith(str(path)) for finding in report.findings)


@SLOW
@given(FILES)
def test_every_row_is_in_the_copy_or_among_the_changes_and_a_second_repair_changes_nothing(
    tmp_path: Path, content: bytes
) -> None:
    path, copy = tmp_path / "any.jsonl", tmp_path / "copy.jsonl"
    path.write_bytes(content)
    for old in tmp_path.glob("copy.*"):
        old.unlink()
    try:
        report = check(path, CheckConfig(fix=str(copy)))
    except BackpropagateError:
        assert not copy.exists()
        return
    assert report.repaired and not report.repaired.left_out.keys() & {"secret"}
    assert report.rows + report.unread == report.repaired.rows + sum(report.repaired.left_out.values())
    again = check(copy)
    assert again.rows == report.repaired.rows and not [name for name in REPAIRED if again.findings.counts[name]]
