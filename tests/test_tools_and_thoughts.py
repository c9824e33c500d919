"""A tiny real base without tools and thoughts learns both: trained, measured, asked, exported and served."""

import json
import os

import httpx
import pytest

from backpropagate import Trainer
from backpropagate.export.export import export
from backpropagate.models.targets import Artifact
from bp_core.contract import Contract
from bp_core.errors import BadValue, MergeRefused, TemplateUnusable
from bp_data import ChatTokenizer
from bp_data.formats.served_schema import served
from bp_export.config import ExportConfig, ServeConfig
from bp_export.llama_cpp.server import LlamaServer
from bp_export.proof.served import ServedProof
from bp_export.replies import ServedQuestion
from bp_runs.run_folder import HELD_OUT_FILE
from bp_ui import helper as page

SETTINGS = dict(backend="cpu", dtype="float32", max_length=320, report_to="none")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "default": "Oslo"}},
            "required": ["city"],
        },
    },
}


def quiet(event):
    return None


def calling(city):
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
    }
    turns = [{"role": "user", "content": f"Weather in {city}?"}, {"role": "assistant", "tool_calls": [call]}]
    return {"tools": [TOOL], "messages": turns}


def talking(text, answer):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"tools": [TOOL], "messages": turns}


def thinking(number):
    answer = {"role": "assistant", "content": f"It is {number}.", "reasoning_content": f"We count to {number}."}
    return {"messages": [{"role": "user", "content": f"Count {number}?"}, answer]}


ROWS = [calling("Lima"), talking("Thanks.", "You are welcome."), thinking(3)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tools(data):
    path = data.parent / "tools.json"
    path.write_text(json.dumps([TOOL]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trainer(data, tiny_llama):
    settings = dict(mode="full", learning_rate=3e-3, batch_size=3, tools_template="hermes", **SETTINGS)
    settings |= {"eval_data": str(data)}
    trainer = Trainer(str(tiny_llama), output=str(data.parent / "out"), **settings)
    trainer.train(data, steps=70, watch=quiet)
    trainer.close()
    return trainer


@pytest.fixture(scope="module")
def exported(trainer):
    return trainer.export("gguf", quantization="f16", notify=quiet)


@pytest.fixture(scope="module")
def file(exported):
    return exported.path


def test_what_is_added_is_said_before_training_and_kept_in_the_contract(trainer, data):
    remarks = " ".join(trainer.plan(data).remarks)
    assert "has no tools: those of hermes are added" in remarks and "has no thoughts: they are added" in remarks
    assert f"are learned without: default (2 rows); first at {data}:1. --tool-schema as-is" in remarks
    assert "the model sees another text" in " ".join(trainer.plan(data, tool_schema="as-is").remarks)
    contract = Contract.read(trainer.adapter)
    assert (contract.tools_template, contract.tool_schema, contract.adds_thoughts) == ("hermes", "served", True)
    written = (trainer.adapter / "chat_template.jinja").read_text(encoding="utf-8")
    assert written == contract.template and Artifact.find(trainer.adapter).tokenizer(trainer.config.model).knows_tools


def test_a_second_form_of_tools_is_refused(trainer):
    with pytest.raises(BadValue, match="has tools"):
        Artifact.find(trainer.adapter).tokenizer(trainer.config.model).with_tools("hermes")


def added(folder):
    contract = Contract.read(folder)
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == contract.template
    return contract.tools_template, contract.adds_thoughts, contract.template


def test_what_was_added_stays_where_later_rows_do_not_have_it(data, tiny_llama, tmp_path):
    plain = tmp_path / "plain.jsonl"
    rows = [{"prompt": f"What is after {number}?", "completion": f"{number + 1}."} for number in range(6)]
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    short = SETTINGS | {"rank": 4, "batch_size": 1}
    first = Trainer(str(tiny_llama), output=str(tmp_path / "first"), tools_template="hermes", **short)
    begun = first.train(data, steps=1, watch=quiet).adapter
    first.close()
    second = Trainer(str(tiny_llama), output=str(tmp_path / "second"), **short)
    assert added(second.train(plain, steps=1, start=begun, watch=quiet).adapter) == added(begun)
    anew = Contract.read(second.train(plain, steps=1, watch=quiet).adapter)
    assert (anew.tools_template, anew.adds_thoughts) == ("none", False)
    second.close()
    for merge in ("slao", "linear"):
        stages = Trainer(str(tiny_llama), output=str(tmp_path / merge), tools_template="hermes", **short)
        merged = stages.multi_run([data, plain], steps_per_run=1, merge=merge, watch=quiet).adapter
        stages.close()
        assert added(merged) == added(begun), merge


def test_merged_stages_that_begin_anew_keep_what_each_of_them_added(data, tiny_llama, tmp_path):
    parts = [tmp_path / "tools.jsonl", tmp_path / "thoughts.jsonl"]
    for path, rows in zip(parts, [[calling("Lima"), calling("Oslo")], [thinking(3), thinking(4)]], strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    short = SETTINGS | {"rank": 4, "batch_size": 1}
    stages = Trainer(str(tiny_llama), output=str(tmp_path / "ties"), tools_template="hermes", **short)
    merged = stages.multi_run(parts, steps_per_run=1, merge="ties", watch=quiet).adapter
    stages.close()
    both = Contract.read(merged)
    assert (both.tools_template, both.tool_schema, both.adds_thoughts) == ("hermes", "served", True)
    tokenizer = ChatTokenizer.open(tiny_llama).with_tools("hermes")
    assert both.template == tokenizer.written_by(tokenizer.template, tools=True, thoughts=True) == added(merged)[2]
    other = Trainer(
        str(tiny_llama), output=str(tmp_path / "other"), tools_template="hermes", tool_schema="as-is", **short
    )
    with pytest.raises(MergeRefused, match="the schemas of tools are served in one and as-is in the other"):
        other.train(data, steps=1, merge_with=merged, watch=quiet)
    assert not list((tmp_path / "other").glob("runs/*"))


def test_the_page_shows_a_row_with_tools_as_it_is_learned(data, tiny_llama):
    how = {"train_on": "assistant", "tools_template": "hermes", "tool_schema": "served", "skip": 0, "count": 1}
    (found,) = page.rows({"file": os.path.realpath(data), "reading": {}, "model": str(tiny_llama), **how})
    (row,) = found["rows"]
    text = "".join(part for part, _ in row["seen"][0]["stretches"])
    assert "<tools>" in text and '"city": {"type": "string"}' in text, row.get("error")


def test_without_tools_in_the_template_such_rows_are_refused(data, tiny_llama, tmp_path):
    with pytest.raises(TemplateUnusable) as refused:
        Trainer(str(tiny_llama), output=str(tmp_path), **SETTINGS).plan(data)
    assert refused.value.fix.startswith("Give it tools (--tools-template hermes)") and refused.value.where.endswith(
        ":1"
    )


def test_eval_measures_calls_and_thoughts_beside_the_base(trainer, data, backprop):
    words = ["eval", trainer.adapter, "--data", data, "--against", "base", "--backend", "cpu", "--dtype", "float32"]
    code, out, err = backprop(*words, "--json", "--gate", "tools.arguments>=0.8,tools.arguments_change>0.5")
    found = json.loads(out)
    assert code == 0, err
    for name in ("tools.parsed", "tools.name", "tools.arguments", "tools.no_call", "exact_match"):
        assert found["measures"][name]["estimate"] == 1.0, name
        assert {"low", "high"} <= found["measures"][name].keys()
    assert found["against"]["measures"]["tools.parsed"]["estimate"] == 0.0
    assert (found["tools"]["with_call"], found["tools"]["without_call"]) == (1, 1)
    assert found["tools"]["rows"][0]["answer"]["calls"] == [{"name": "get_weather", "arguments": {"city": "Lima"}}]
    assert (
        found["measures"]["thoughts.tokens"]["estimate"] > 1 and found["measures"]["thoughts.unclosed"]["estimate"] == 0
    )
    code, out, err = backprop(*words, "--max-tokens", "6", "--gate", "thoughts.unclosed<=0")
    assert code == 2 and "thoughts.unclosed<=0 does not hold: it is 0.3333" in err


def test_a_gate_without_such_rows_is_refused_before_anything_is_measured(trainer, tmp_path, backprop):
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps(thinking(3)) + "\n", encoding="utf-8")
    code, _, err = backprop("eval", trainer.adapter, "--data", plain, "--gate", "tools.name>0.5", "--backend", "cpu")
    assert code == 1 and "none has tools and has a call" in err


def test_chat_shows_calls_as_calls_and_thoughts_apart(trainer, tools, backprop):
    asked = ["chat", trainer.adapter, "--tools", tools, "--prompt"]
    code, out, err = backprop(*asked, "Weather in Lima?")
    assert (code, out) == (0, 'get_weather({"city": "Lima"})\n')
    assert backprop(*asked, "Thanks.")[1] == "You are welcome.\n"
    code, out, err = backprop("chat", trainer.adapter, "--prompt", "Count 3?")
    assert out == "It is 3.\n" and "We count to 3." in err
    code, out, err = backprop("chat", trainer.adapter, "--prompt", "Count 3?", "--json")
    assert json.loads(out)["reasoning_content"] == "We count to 3." and json.loads(out)["content"] == "It is 3."
    code, out, err = backprop("chat", trainer.adapter, "--prompt", "Count 3?", "--no-think")
    assert code == 0 and "We count" not in out + err
    code, out, err = backprop("chat", trainer.adapter, "--prompt", "Count 3?", "--max-tokens", "5")
    assert out == "" and "The thought did not end" in err


def test_a_seed_draws_the_same_answer_again(trainer, backprop):
    asked = [
        "chat",
        trainer.adapter,
        "--prompt",
        "Anything else?",
        "--max-tokens",
        "12",
        "--temperature",
        "3",
        "--json",
    ]
    same = [backprop(*asked, "--seed", "5")[1] for _ in range(2)]
    assert same[0] == same[1] != backprop(*asked, "--seed", "6")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "3"], "seed is set, but temperature is 0"),
        (["--top-p", "0.5"], "top_p is set, but temperature is 0"),
        (["--raw", "--no-think"], "think is set, but raw goes on with the text alone"),
        (["--tools", "nowhere.json"], "there is no such file"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(words, message, tiny_llama, backprop):
    code, _, err = backprop("chat", tiny_llama, "--prompt", "Hi", *words)
    assert code == 1 and message in err


def test_a_model_without_tools_takes_none(tiny_llama, tools, backprop):
    code, _, err = backprop("chat", tiny_llama, "--prompt", "Hi", "--tools", tools)
    assert code == 1 and "its chat template has no tools" in err and "--tools-template hermes" in err


def test_the_file_answers_with_the_same_calls_and_thoughts(trainer, file, tools, backprop):
    for words in (["Weather in Lima?", "--tools", tools], ["Count 3?"], ["Thanks.", "--tools", tools]):
        by_adapter, by_file = (
            backprop("chat", name, "--json", "--prompt", *words)[1] for name in (trainer.adapter, file)
        )
        ours, theirs = json.loads(by_adapter), json.loads(by_file)
        assert [call["function"] for call in theirs.get("tool_calls", [])] == [
            call["function"] for call in ours.get("tool_calls", [])
        ]
        assert theirs["content"] == ours["content"]
        assert theirs.get("reasoning_content") == ours.get("reasoning_content")


SERVED = {
    "llama-server: parsed": "1 of 1",
    "llama-server: right name": "1 of 1",
    "llama-server: right arguments": "1 of 1",
    "llama-server: no call where none is due": "1 of 1",
    "llama-server: thought apart from the answer": "1 of 1",
    "llama-server: thoughts close": "3 of 3",
    "llama-server: no thought when switched off": "1 of 1",
}


def asked(checks):
    return {name: row["measured"] for name, row in checks.items() if "llama-server" in name}


def test_an_export_asks_the_held_out_rows_and_keeps_what_came_back(exported):
    report = json.loads(exported.parity_path.read_text(encoding="utf-8"))
    checks = {row["name"]: row for row in report["checks"]}
    assert asked(checks) == SERVED
    assert checks["llama-server: parsed"]["note"] == "100% of 1 rows, 21% to 100% of all such"


def test_an_export_says_why_it_could_not_ask(trainer, exported, tmp_path):
    def rows(**settings):
        config = ExportConfig(quantization="f16", output=str(tmp_path / "again.gguf"), overwrite=True, **settings)
        checks = export(trainer.adapter, config, quiet).parity.checks
        return [check for check in checks if "llama-server" in check.name]

    assert rows(answers=0) == []
    assert [check.name for check in rows(answers=1)] == list(SERVED)[:3]
    kept = Artifact.find(trainer.adapter).run.path / HELD_OUT_FILE
    kept.rename(tmp_path / "kept.json")
    (row,) = rows()
    assert row.measured == "not asked" and row.warning and "made by an older version" in row.note
    kept.write_text("[]", encoding="utf-8")
    assert "no held-out row has tools or thoughts" in rows()[0].note
    (tmp_path / "kept.json").replace(kept)
    (row,) = ServedProof([ServedQuestion([{"role": "user", "content": "Hi"}])]).checks(kept, quiet)
    assert row.measured == "not asked" and row.passed and "GGUF" in row.note
    with pytest.raises(BadValue, match="only the format gguf is asked any"):
        ExportConfig(format="merged", answers=3)


def test_the_pages_chat_tells_thoughts_and_calls_for_adapters_as_for_files(trainer, file, monkeypatch):
    pieces = []
    monkeypatch.setattr(page, "_write", pieces.append)
    monkeypatch.setattr(page, "_is_called", lambda: False)  # nobody asks to stop
    for name in (trainer.adapter, file):
        chats = page.Chats()

        def ask(text, chats=chats, name=name, **more):
            pieces.clear()
            turns = [{"role": "user", "content": text}]
            question = {"model": {"name": str(name)}, "turns": turns, "limit": 80, "tools": [], "think": True}
            *_, last = chats(question | more)
            told = {kind: "".join(piece.get(kind, "") for piece in pieces).strip() for kind in ("thought", "text")}
            return told, last

        told, last = ask("Count 3?")
        assert told == {"thought": "We count to 3.", "text": "It is 3."} and last["closed"]
        assert last["turn"]["reasoning_content"] == "We count to 3."
        told, last = ask("Weather in Lima?", tools=[TOOL])
        (call,) = last["turn"]["tool_calls"]
        assert told["text"] == "" and call["function"] == {"name": "get_weather", "arguments": {"city": "Lima"}}
        told, last = ask("Count 3?", think=False)
        assert told["thought"] == "" and "reasoning_content" not in last["turn"]
        chats._stack.close()


def test_serve_returns_calls_and_thoughts_as_openai_does(file):
    with LlamaServer(file, ServeConfig(port=0)) as server:

        def ask(text, **more):
            body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 80, **more}
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
            return answer.raise_for_status().json()["choices"][0]

        called = ask("Weather in Lima?", tools=list(served((TOOL,))))
        assert called["finish_reason"] == "tool_calls"
        (call,) = called["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather" and json.loads(call["function"]["arguments"]) == {
            "city": "Lima"
        }
        thought = ask("Count 3?")["message"]
        assert (thought["reasoning_content"].strip(), thought["content"]) == ("We count to 3.", "It is 3.")
