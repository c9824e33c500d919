import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bp_core.config import DataConfig
from bp_core.errors import BrokenJson, NoTarget, TemplateUnusable
from bp_core.events import Progress
from bp_data import ChatTokenizer, prepare


def rows(count: int, words: int = 3) -> list[dict[str, object]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i} " + "word " * words} for i in range(count)]


def test_every_row_becomes_an_example_and_is_counted(smol: ChatTokenizer) -> None:
    data = [*rows(3), {"text": "raw"}, {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant")]}]
    prepared = prepare(data, smol, max_length=512)
    report = prepared.report
    assert report.formats == {"prompt": 3, "text": 1, "openai": 1}
    assert (report.rows, report.examples, report.truncated, report.dropped, report.terminators_lost) == (5, 5, 0, 0, 0)
    assert report.tokens == sum(len(example.tokens) for example in prepared.examples)
    assert report.targets == sum(example.trained_tokens for example in prepared.examples)
    assert report.longest == max(len(example.tokens) for example in prepared.examples)
    assert json.loads(json.dumps(report.as_dict()))["rows"] == 5


def test_a_file_gives_what_the_same_rows_give(tmp_path: Path, smol: ChatTokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\r\n\n" for row in rows(4)), encoding="utf-8")
    assert prepare(path, smol, max_length=64) == prepare(rows(4), smol, max_length=64)


def test_a_broken_line_is_named(tmp_path: Path, smol: ChatTokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{', encoding="utf-8")
    with pytest.raises(BrokenJson) as caught:
        prepare(path, smol, max_length=64)
    assert caught.value.where == f"{path}:2"


def test_cutting_is_at_the_end_and_counted(smol: ChatTokenizer) -> None:
    short, long, late = {"prompt": "q", "completion": "a"}, rows(1, 200)[0], {"prompt": "q " * 200, "completion": "a"}
    whole = prepare([short, long, late], smol, max_length=1000)
    cut = prepare([short, long, late], smol, max_length=64)
    assert [list(example.tokens) for example in cut.examples] == [
        list(example.tokens)[:64] for example in whole.examples[:2]
    ]
    report = cut.report
    assert (report.truncated, report.turns_cut, report.terminators_lost) == (2, 2, 1)
    assert (report.dropped, report.places["dropped"], report.examples) == (1, ("row 3",), 2)
    assert report.longest == whole.report.longest
    assert report.tokens == sum(len(example.tokens) for example in cut.examples)


LONG = "word " * 60
TALK = [
    {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 3, [*"abcd", LONG, LONG], strict=True)
]


def test_a_cut_falls_after_the_last_answer_that_fits(smol: ChatTokenizer) -> None:
    prepared = prepare([{"messages": TALK}], smol, max_length=120)
    (example,) = prepared.examples
    whole = prepare([{"messages": TALK[:4]}], smol, max_length=120).examples[0]
    assert list(example.tokens) == list(whole.tokens)[:-1]  # less the line end, which follows the answer
    assert smol.decode(example.tokens).endswith("d<|im_end|>")
    report = prepared.report
    assert (report.truncated, report.turns_cut, report.terminators_lost, report.dropped) == (1, 1, 0, 0)


def test_a_first_answer_that_does_not_fit_is_cut_within(smol: ChatTokenizer) -> None:
    prepared = prepare([{"messages": [TALK[0], TALK[5], *TALK[:2]]}], smol, max_length=50)
    assert len(prepared.examples[0].tokens) == 50
    assert prepared.examples[0].trained[-1] == 1
    report = prepared.report
    assert (report.truncated, report.turns_cut, report.terminators_lost) == (1, 2, 1)


def test_rows_left_without_a_target_are_counted_and_the_first_are_named(smol: ChatTokenizer) -> None:
    late = {"prompt": LONG, "completion": "a"}
    report = prepare([late, *rows(1), *[late] * 6], smol, max_length=50).report
    assert (report.rows, report.examples, report.dropped) == (8, 1, 7)
    assert report.places["dropped"] == ("row 1", "row 3", "row 4", "row 5", "row 6")


@pytest.mark.parametrize("max_length", [40, 90, 120])
def test_no_answer_is_kept_without_its_end_if_one_before_it_fits(max_length: int, smol: ChatTokenizer) -> None:
    talks = [[turn for _ in range(n) for turn in (TALK[0], TALK[1])] + TALK[4:] for n in range(1, 7)]
    prepared = prepare([{"messages": talk} for talk in talks], smol, max_length=max_length)
    assert all(example.tokens[-1] == smol.token("<|im_end|>") for example in prepared.examples)
    assert prepared.report.terminators_lost == 0


def test_formats_but_the_most_frequent_are_named_by_their_first_row(smol: ChatTokenizer) -> None:
    report = prepare([{"text": "raw"}, *rows(3), {"text": "more"}], smol, max_length=64).report
    assert report.mixed == {"text": "row 1"}
    assert prepare(rows(3), smol, max_length=64).report.mixed == {}


def test_what_is_learned_can_be_the_last_answer_or_everything(smol: ChatTokenizer) -> None:
    targets = {
        choice: prepare([{"messages": TALK[:4]}], smol, max_length=120, train_on=choice).report.targets
        for choice in ("assistant", "last", "all")
    }
    assert targets["assistant"] == 2 * targets["last"] == 4
    assert targets["all"] == prepare([{"messages": TALK[:4]}], smol, max_length=120).report.tokens - 1


def test_parts_of_answers_that_the_template_leaves_out_are_counted(
    model_tokenizer: Callable[..., ChatTokenizer],
) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    turns = [TALK[0], {"role": "assistant", "content": "I look.", "tool_calls": [call]}]
    tools = [{"name": "look", "parameters": {"type": "object", "properties": {}}}]
    rows = [{"messages": turns, "tools": tools}] * 2
    assert prepare(rows, model_tokenizer("llama3_1"), max_length=400).report.left_out == 2


def test_the_contract_holds_the_template_that_was_used(byte_level: Callable[..., Tokenizer]) -> None:
    plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    plain += "{{ '[assistant]' if add_generation_prompt }}"
    with_tools = "{{ tools | tojson }}" + plain
    tokenizer = ChatTokenizer(byte_level("</s>"), {"default": plain, "tool_use": with_tools}, eos_token="</s>")
    calling = {**rows(1)[0], "tools": [{"name": "f"}]}
    for data, template in ((rows(1), plain), ([calling], with_tools), ([calling, *rows(1)], plain)):
        assert prepare(data, tokenizer, max_length=200).contract.template == template


def test_a_terminator_just_past_the_cut_is_lost_and_one_just_before_is_not(smol: ChatTokenizer) -> None:
    (row,) = rows(1)
    length = prepare([row], smol, max_length=1000).report.longest  # ends: …, terminator, line end
    reports = [prepare([row], smol, max_length=length - less).report for less in (0, 1, 2)]
    assert [report.terminators_lost for report in reports] == [0, 0, 1]
    assert [report.truncated for report in reports] == [0, 1, 1]


def test_nothing_left_after_cutting_is_an_error(smol: ChatTokenizer) -> None:
    with pytest.raises(NoTarget, match="max_length 8"):
        prepare(rows(3), smol, max_length=8)


def test_the_first_rows_are_used_when_so_many_are_asked_for(smol: ChatTokenizer) -> None:
    assert prepare(rows(9), smol, max_length=64, samples=4) == prepare(rows(4), smol, max_length=64)


def test_rows_past_those_asked_for_are_not_read(tmp_path: Path, smol: ChatTokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "hi", "a": "yo"}\n{broken', encoding="utf-8")
    reading = DataConfig(columns="prompt=q,completion=a")
    prepared = prepare(path, smol, max_length=64, samples=1, reading=reading)
    assert prepared == prepare([{"prompt": "hi", "completion": "yo"}], smol, max_length=64)


def test_a_turn_without_loss_changes_the_hash(smol: ChatTokenizer) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    silent = [turns[0], {**turns[1], "train": False}, *turns[2:]]
    one, two = (prepare([{"messages": messages}], smol, max_length=64).report for messages in (turns, silent))
    assert one.sha256 != two.sha256
    assert one.targets == 2 * two.targets


def test_progress_ends_at_the_total(smol: ChatTokenizer) -> None:
    told: list[Progress] = []
    prepare(rows(1100, 0), smol, max_length=64, on_progress=told.append)
    assert told == [Progress("tokenise", done, 1100) for done in (512, 1024, 1100)]


def test_the_hash_is_of_the_contents(tmp_path: Path, smol: ChatTokenizer) -> None:
    def digest(data: object) -> str:
        return prepare(data, smol, max_length=64).report.sha256  # type: ignore[arg-type]

    pretty = tmp_path / "a.json"
    pretty.write_text(json.dumps(rows(2), indent=2), encoding="utf-8")
    assert digest(pretty) == digest(rows(2))
    assert digest(rows(2)) != digest(rows(3))
    assert digest(rows(2)) != digest(rows(2)[::-1])
    assert digest([{"text": "ab"}, {"text": "c"}]) != digest([{"text": "a"}, {"text": "bc"}])


def test_the_contract_says_how_text_became_tokens(smol: ChatTokenizer, llama: ChatTokenizer) -> None:
    contract = prepare(rows(2), smol, max_length=64).contract
    assert contract.template == smol.template
    assert (contract.bos, contract.terminators, contract.stop) == ("template", (2,), ("<|im_end|>",))
    assert prepare(rows(2), llama, max_length=64).contract.stop == ("<|eot_id|>",)
    raw = prepare([{"text": "a"}], llama, max_length=64).contract
    assert (raw.template, raw.bos, raw.stop) == ("", "tokenizer", ("<|eot_id|>",))
    assert prepare([{"text": "a"}], smol, max_length=64).contract.bos == "none"
    assert prepare([{"text": "a"}, *rows(1)], llama, max_length=64).contract.bos == "template"


def test_a_bos_in_some_rows_only_cannot_be_promised(byte_level: Callable[..., Tokenizer]) -> None:
    template = "{{ bos_token if messages[0].role == 'system' }}{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>"
    template += "{% endfor %}{{ '[assistant]' if add_generation_prompt }}"
    tokenizer = ChatTokenizer(byte_level("<s>", "</s>"), template, bos_token="<s>", eos_token="</s>")
    with pytest.raises(TemplateUnusable, match="some rows"):
        prepare([*rows(1), {**rows(1)[0], "system": "x"}], tokenizer, max_length=64)
