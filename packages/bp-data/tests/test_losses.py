"""What is cut, dropped, split or changed is counted and told; long texts are split, and learned once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bp_core.config import DataConfig
from bp_data import ChatTokenizer, prepare
from bp_data.check import check
from bp_data.check.config import CheckConfig
from bp_data.preparing import cache
from bp_data.preparing.losses import trimmed

SHORT = {"prompt": "q", "completion": "a"}
LONG = {"prompt": "q", "completion": "word " * 500}
LATE = {"prompt": "word " * 500, "completion": "a"}


def test_cut_and_dropped_rows_are_one_event_with_counts_and_places(smol: ChatTokenizer) -> None:
    report = prepare([SHORT, LONG, LATE, LONG], smol, max_length=64).report
    told = trimmed(report)
    assert told and told.counts == {"truncated": 3, "dropped": 1}
    assert told.places == {"truncated": ["row 2", "row 3", "row 4"], "dropped": ["row 3"]}
    assert "4 rows; 3 cut at 64 tokens, by " in told.message and "(row 2, row 3, row 4)" in told.message
    assert "1 dropped, 1 with nothing to learn within 64 tokens (row 3)" in told.message
    assert report.tokens_cut == report_tokens(smol, [LONG, LATE, LONG]) - 3 * 64
    assert json.loads(json.dumps(told.as_dict()))["counts"] == told.counts


def report_tokens(tokenizer: ChatTokenizer, rows: list[dict[str, str]]) -> int:
    return prepare(rows, tokenizer, max_length=100_000).report.tokens


def test_where_nothing_is_lost_nothing_is_told(smol: ChatTokenizer) -> None:
    assert trimmed(prepare([SHORT], smol, max_length=64).report) is None


def test_unused_columns_and_what_was_not_read_are_told(smol: ChatTokenizer, tmp_path: Path) -> None:
    rows = [{**SHORT, "hint": f"h{n}"} for n in range(3)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps(SHORT))
    report = prepare(tmp_path, smol, max_length=64).report
    told = trimmed(report)
    assert report.examples == 3 and told and told.counts == {"unused": 3}
    assert f"column 'hint' of 3 rows is not learned ({tmp_path / 'train.jsonl'}:1)" in told.message
    assert f"only the train part is read, not {tmp_path / 'test.jsonl'}" in told.message


def test_the_report_comes_back_from_the_cache_as_it_was(
    smol: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "WORTH", 0)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "hint": "h"}) + "\n" for row in (SHORT, LONG, LATE)))
    first, again = (prepare(tmp_path / "a.jsonl", smol, max_length=64, cache=tmp_path / "cache") for _ in range(2))
    assert first.report == again.report and trimmed(first.report) == trimmed(again.report)


@pytest.fixture(params=["smol", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> ChatTokenizer:
    """One that writes no BOS by itself, and one that does."""
    found: ChatTokenizer = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("overlap", [0, 1, 7, 32])
def test_a_long_text_is_split_and_every_token_is_learned_once(tokenizer: ChatTokenizer, overlap: int) -> None:
    text = " ".join(f"word{n}" for n in range(400))
    whole = prepare([{"text": text}], tokenizer, max_length=100_000)
    split = prepare([{"text": text}], tokenizer, max_length=64, text_overlap=overlap)
    (one,) = whole.examples
    learned = [t for example in split.examples for t, on in zip(example.tokens, example.trained, strict=True) if on]
    assert learned == [t for t, on in zip(one.tokens, one.trained, strict=True) if on]
    assert all(len(example.tokens) <= 64 for example in split.examples)
    assert split.report.targets == whole.report.targets
    prefix = len(tokenizer.prefix)
    for before, after in zip(split.examples, split.examples[1:], strict=False):
        assert list(after.tokens[:prefix]) == list(tokenizer.prefix)
        if overlap:
            assert list(after.tokens[prefix : prefix + overlap]) == list(before.tokens[-overlap:])
    report = split.report
    assert (report.rows, report.split, report.dropped, report.truncated) == (1, 1, 0, 0)
    assert report.examples == len(split.examples) > 5
    told = trimmed(report)
    assert told and told.counts == {"split": 1} and told.places == {"split": ["row 1"]}


def test_a_text_that_fits_is_one_example(tokenizer: ChatTokenizer) -> None:
    report = prepare([{"text": "short"}], tokenizer, max_length=64).report
    assert (report.examples, report.split) == (1, 0)


def test_a_text_file_without_blank_lines_is_learned_whole(smol: ChatTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a line of words\n" * 2000)
    for unit, rows in (("document", 1), ("paragraph", 1), ("line", 2000)):
        reading = DataConfig(text_unit=unit)  # type: ignore[arg-type]
        report = prepare(path, smol, max_length=128, reading=reading).report
        assert report.rows == rows and report.dropped == report.truncated == 0
        assert any(f"{path}: one row is" in remark for remark in report.remarks)
        findings = check(path, CheckConfig(model="smol", max_length=128), smol, reading).findings
        assert findings.counts["split-text"] == (unit != "line") and not findings.counts["too-long"]
        assert findings.counts["text-unit"] == 1


def test_raw_text_with_markup_inside_is_told(smol: ChatTokenizer) -> None:
    row = {"text": "Templates write <|im_start|>user before a question."}
    told = trimmed(prepare([row], smol, max_length=64).report)
    assert told and told.counts == {"markup": 1} and check([row]).findings.counts["markup"] == 1


def tool_row(**call: Any) -> dict[str, Any]:
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}, **call}]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "r", **({"tool_call_id": call["id"]} if call else {})},
        {"role": "assistant", "content": "b"},
    ]
    return {"messages": turns, "tools": [{"type": "function", "function": function}]}


@pytest.mark.parametrize("call", [{}, {"id": "call_9f2"}])
def test_ids_that_the_template_wants_are_made_up_and_told(
    call: dict[str, Any], model_tokenizer: Callable[..., ChatTokenizer]
) -> None:
    mistral = model_tokenizer("mistral_v3")
    row = tool_row(**call)
    prepared = prepare([row, tool_row(id="abcdefghi")], mistral, max_length=512)
    assert prepared.report.ids_made_up == 1 and prepared.report.places["ids_made_up"] == ("row 1",)
    told = trimmed(prepared.report)
    assert told and told.counts["ids_made_up"] == 1
    assert prepare([row], mistral, max_length=512).examples == prepare([row], mistral, max_length=512).examples
    findings = check([row], CheckConfig(model="m"), mistral).findings
    assert findings.counts["made-up-id"] == 1 and not findings.counts["template-refuses"]
