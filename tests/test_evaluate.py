"""Evaluation of a really trained tiny model: by run, folder and name, from Python and from the command line."""

import json
import math
import shutil
from itertools import pairwise

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from backpropagate import Trainer

SETTINGS = dict(backend="cpu", dtype="float32", max_length=96, report_to="none")
EVAL = ["--backend", "cpu", "--dtype", "float32"]


def quiet(event):
    return None


def turns(n):
    answer = f"The answer to question {n} is {n * 7}, of course."
    return {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": answer}]}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def data(place):
    return written(place / "rows.jsonl", map(turns, range(16)))


@pytest.fixture(scope="module")
def run(place, data, tiny_llama):
    """Trained until it answers, three rows held out."""
    trainer = Trainer(
        str(tiny_llama),
        output=str(place / "out"),
        learning_rate=8e-3,
        held_out=0.2,
        eval_every=30,
        batch_size=4,
        **SETTINGS,
    )
    result = trainer.train(data, steps=30, watch=quiet)
    trainer.close()
    return result


@pytest.fixture
def measured(backprop):
    """What `backprop eval` prints as JSON."""

    def run(*words, code=0):
        status, out, err = backprop("eval", *words, *EVAL, "--json")
        assert status == code, err
        return json.loads(out)

    return run


def test_the_held_out_rows_of_a_run_give_the_loss_that_the_run_had(run, measured):
    found = measured(run.id, "--answers", 0)
    assert found["rows"] == 3 and found["source"].startswith("held out of ")
    assert found["measures"]["loss"]["estimate"] == pytest.approx(run.eval_loss, rel=1e-5)
    assert found["measures"]["perplexity"]["estimate"] == pytest.approx(math.exp(run.eval_loss), rel=1e-5)
    assert found["answers"] == [] and found["target"] == run.id and set(found["measures"]) == {"loss", "perplexity"}


def test_training_made_the_trained_rows_surely_better(run, data, measured):
    gates = ["--gate", "loss_change<-1,f1_change>0,f1>0.5,regex>0.5", "--regex", "of course"]
    found = measured(run.folder, "--data", data, "--against", "base", "--answers", 2, *gates)
    change = found["against"]["change"]
    assert change["loss"]["high"] < -1 and change["f1"]["low"] > 0
    assert all(gate["holds"] for gate in found["gates"]) and len(found["gates"]) == 4
    assert [answer["expected"].split()[4] for answer in found["answers"]] == ["0", "8"]
    assert all("of course" in answer["answer"] and answer["against"] != answer["answer"] for answer in found["answers"])


def test_a_model_differs_from_itself_by_exactly_nothing(data, tiny_llama, measured):
    found = measured(tiny_llama, "--data", data, "--against", "base", "--answers", 1, "--max-tokens", 2, "--samples", 3)
    assert {value for part in found["against"]["change"].values() for value in part.values()} == {0.0}
    assert found["against"]["measures"] == found["measures"]


def test_the_loss_is_that_of_transformers_on_the_text_of_the_row(data, tiny_llama, place, measured):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).float()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    losses = []
    for row in map(turns, range(2)):
        ids = tokenizer.apply_chat_template(row["messages"], return_tensors="pt", return_dict=True)["input_ids"]
        prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=True)
        labels = ids.clone()
        labels[:, : len(prompt["input_ids"])] = -100
        labels[:, -1] = -100  # the line break after the end of the turn
        count = int((labels != -100).sum())
        losses.append((model(ids, labels=labels).loss.item() * count, count))
    expected = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
    found = measured(tiny_llama, "--data", data, "--samples", 2, "--answers", 0)
    assert found["measures"]["loss"]["estimate"] == pytest.approx(expected, rel=1e-4)
    assert found["tokens"] == sum(count for _, count in losses)


def test_a_gate_that_does_not_hold_is_exit_2_and_still_prints_what_was_measured(run, backprop, measured):
    words = [run.adapter, *EVAL, "--answers", 0]
    code, out, err = backprop("eval", *words, "--data", run.folder.parents[2] / "rows.jsonl", "--gate", "loss<0.0001")
    assert code == 2 and "RUNTIME_GATE_FAILED" in err and "loss<0.0001 does not hold" in err and "off by" in err
    assert "perplexity" in out and "✗ loss<0.0001" in out
    assert backprop("eval", *words, "--samples", 2, "--gate", "loss<90")[0] == 0


def test_a_python_door(run, data, tiny_llama):
    trainer = Trainer(str(tiny_llama), output=str(run.folder.parents[1]), **SETTINGS)
    found = trainer.evaluate(data, against="base", answers=2, gate="loss<0.0001", samples=4, notify=quiet)
    assert found.rows == 4 and len(found.answers) == 2 and found.against.change["loss"].excludes(0)
    assert [gate.holds for gate in found.gates] == [False]
    assert found.measures["loss"].estimate < found.against.measures["loss"].estimate - 1
    untrained = Trainer(str(tiny_llama), output=str(data.parent / "nothing"), **SETTINGS)
    alone = untrained.evaluate([turns(n) for n in range(4)], answers=0, notify=quiet)
    assert alone.measures["loss"] == found.against.measures["loss"] and alone.source == "rows given directly"


@pytest.mark.slow
def test_another_model_is_compared_on_the_same_rows(run, data, tiny_llama, measured):
    found = measured(tiny_llama, "--against", run.id, "--data", data, "--answers", 0, "--samples", 6)
    assert found["against"]["change"]["loss"]["low"] > 0 and found["against"]["name"] == run.id


@pytest.mark.slow
def test_a_model_trained_whole_is_measured_against_what_it_was(data, tiny_llama, tmp_path, measured):
    """As `--mode full` leaves it; only its last layer is another."""
    shutil.copytree(tiny_llama, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] * 0.5}, tmp_path / "model/model.safetensors")
    origin = {"run": "20260101-000000-abcd", "base": str(tiny_llama), "step": 1, "mode": "full"}
    (tmp_path / "model" / "run.json").write_text(json.dumps(origin))
    words = ["--data", data, "--answers", 0, "--samples", 3]
    found = measured(tmp_path, "--against", "base", *words)
    assert found["against"]["change"]["loss"]["estimate"] != 0
    assert found["against"]["measures"] == measured(tiny_llama, *words)["measures"]


def test_changed_data_cannot_tell_what_was_held_out(run, data, backprop):
    before = data.read_text()
    try:
        data.write_text(before.replace("of course", "indeed"))
        code, _, err = backprop("eval", run.id, *EVAL)
    finally:
        data.write_text(before)
    assert code == 1 and "INPUT_NOTHING_TO_EVALUATE" in err and "changed" in err and "--data" in err


REFUSED = {
    "INPUT_TARGET_NOT_FOUND": ["no-such-run"],
    "INPUT_ADAPTER_UNUSABLE": ["."],
    "INPUT_NOTHING_TO_EVALUATE": ["MODEL"],
    "INPUT_FILE_NOT_FOUND": ["MODEL", "--data", "nowhere.jsonl"],
    "CONFIG_VALUE_INVALID": ["MODEL", "--gate", "lss<2"],
    "CONFIG_BACKEND_UNKNOWN": ["MODEL", "--data", "DATA", "--backend", "abacus"],
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_evaluated_is_named_before_anything_loads(
    code, data, tiny_llama, backprop, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": tiny_llama, "DATA": data}
    status, out, err = backprop("eval", *(names.get(word, word) for word in REFUSED[code]))
    assert status == 1 and code in err and "fix: " in err and out == "" and "load " not in err


def test_models_that_read_text_differently_are_not_compared(data, tiny_llama, tmp_path, backprop):
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    config = json.loads((other / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("helpful", "terse")
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    code, _, err = backprop("eval", tiny_llama, "--against", other, "--data", data, *EVAL)
    assert code == 1 and "other tokenizers or chat templates" in err


def test_raw_text_has_a_loss_but_no_answers(tiny_llama, tmp_path, measured, backprop):
    prose = written(tmp_path / "prose.jsonl", [{"text": "It was a dark night."}, {"text": "The end."}])
    found = measured(tiny_llama, "--data", prose)
    assert set(found["measures"]) == {"loss", "perplexity"} and found["rows"] == 2
    code, _, err = backprop("eval", tiny_llama, "--data", prose, "--gate", "f1>0", *EVAL)
    assert code == 1 and "no row has a question" in err


@pytest.mark.slow
def test_answers_stand_side_by_side_on_the_screen_and_in_a_page(run, place, tiny_llama, backprop, tmp_path):
    trainer = Trainer(str(tiny_llama), output=str(place / "out"), **SETTINGS)
    file = trainer.export("gguf", quantization="f16", notify=quiet).path
    words = ["compare", run.id, *EVAL, "--file", file, "--max-tokens", 30]
    code, out, err = backprop(*words, "--answers", 2, "--output", tmp_path / "page.md", "--json")
    found = json.loads(out)
    assert code == 0 and found["source"].startswith("held out of ") and len(found["questions"]) == 2
    for question in found["questions"]:
        assert list(question) == ["question", "prompt", "base", "tuned", "exported", "in the data"]
        assert question["exported"] == question["tuned"] != question["base"]
        assert question["tuned"].split()[:4] == question["in the data"].split()[:4]
    page, text = ((tmp_path / name).read_text() for name in ("page.html", "page.md"))
    assert "| base | tuned | exported | in the data |" in text and page.count(">tuned</span>") == 2
    assert "page.html" in err and "<script" not in page
    code, _, err = backprop(*words, "--output", tmp_path / "page.md")
    assert code == 1 and "INPUT_OUTPUT_UNUSABLE" in err and "load " not in err
    code, _, err = backprop(*words[:-3], tmp_path / "page.md")
    assert code == 1 and "INPUT_GGUF_UNUSABLE" in err


@pytest.mark.slow
def test_a_users_own_questions_are_asked_in_the_models_template(run, tiny_llama, backprop, tmp_path):
    prompt = "<script>alert(1)</script> | `a` \x1b[31m"
    words = ["compare", run.adapter, *EVAL, "--max-tokens", 4, "--prompt", "Question 3?", "--prompt", prompt]
    code, out, _ = backprop(*words, "--output", tmp_path / "page.md")
    assert code == 0 and "tuned" in out and "exported" not in out and "\x1b" not in out and "␛[31m" in out
    assert "<script" not in (tmp_path / "page.html").read_text()
    trainer = Trainer(str(tiny_llama), output=str(run.folder.parents[1]), **SETTINGS)
    found = trainer.compare(["Question 3?", prompt], max_tokens=4, notify=quiet)
    cut = " … (cut at 4 tokens)"
    assert trainer.generate("Question 3?", limit=4) == "The answer to question"
    assert found.answers["tuned"][0] == "The answer to question" + cut
    assert found.answers["base"][0] == trainer.generate("Question 3?", limit=4, adapter=False) + cut
    assert found.questions[0].text.endswith("Question 3?<|im_end|>\n<|im_start|>assistant\n")
    trainer.close()
    assert backprop(*words, "--data", run.folder)[0] == 1


def test_a_model_as_it_came_has_one_column(tiny_llama, data, backprop):
    code, out, _ = backprop("compare", tiny_llama, *EVAL, "--data", data, "--answers", 1, "--max-tokens", 2, "--json")
    assert code == 0 and list(json.loads(out)["questions"][0]) == ["question", "prompt", "base", "in the data"]
    code, _, err = backprop("compare", tiny_llama, *EVAL)
    assert code == 1 and "INPUT_NOTHING_TO_EVALUATE" in err


def test_of_answers_that_are_compared_or_rated_the_good_ones_count(tiny_llama, tmp_path, measured):
    pairs = [{"prompt": f"Question {n}?", "chosen": f"It is {n}.", "rejected": "No idea at all."} for n in range(3)]
    good = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    rated = [row | {"label": True} for row in good] + [{"prompt": "Why?", "completion": "Go away.", "label": False}]
    files = {"pairs": pairs, "good": good, "rated": rated}
    losses = [
        measured(tiny_llama, "--data", written(tmp_path / f"{name}.jsonl", rows), "--answers", 0)["measures"]
        for name, rows in files.items()
    ]
    accuracy = losses[0].pop("accuracy")
    assert losses[0] == losses[1] == losses[2] and 0 <= accuracy["low"] <= accuracy["high"] <= 1


@pytest.mark.slow
def test_pairs_tell_how_often_the_chosen_answer_wins(tiny_llama, tmp_path, measured, backprop):
    """A run says the same as `eval` does; that TRL counts the same is shown by tests/test_parity.py."""
    words = ["amber", "basalt", "cedar", "dune", "ember", "fjord", "granite", "heath"]
    pairs = [{"prompt": f"A word? {n}", "chosen": a, "rejected": f"{b}."} for n, (a, b) in enumerate(pairwise(words))]
    data = written(tmp_path / "pairs.jsonl", pairs)
    straight = measured(tiny_llama, "--data", data, "--answers", 0)["measures"]["accuracy"]
    trainer = Trainer(
        str(tiny_llama), output=str(tmp_path / "out"), method="simpo", eval_data=str(data), learning_rate=1e-2,
        eval_every=12, batch_size=7, **SETTINGS,
    )  # fmt: skip
    run = trainer.train(data, steps=12, watch=quiet)
    trainer.close()
    gates = ["--gate", "accuracy>0.9,accuracy_change>=0"]
    found = measured(run.id, "--answers", 0, "--against", "base", *gates)
    assert found["measures"]["accuracy"]["estimate"] == run.accuracy == 1.0
    assert found["against"]["measures"]["accuracy"] == straight and straight["estimate"] < 1
    assert found["against"]["change"]["accuracy"]["estimate"] == pytest.approx(1 - straight["estimate"])
    assert "| 12 | " in (report := (run.folder / "report.md").read_text()) and "accuracy" in report
    code, out, err = backprop("eval", run.id, *EVAL, "--answers", 0)
    assert code == 0 and "accuracy: the same for all 7 pairs" in out, err


def test_a_gate_on_accuracy_needs_pairs(tiny_llama, data, backprop):
    code, _, err = backprop("eval", tiny_llama, "--data", data, "--gate", "accuracy>0", *EVAL)
    assert code == 1 and "INPUT_NOTHING_TO_EVALUATE" in err and "no pairs" in err and "load " not in err
