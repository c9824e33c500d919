"""`backprop data`: checked, shown as the model sees it, split and converted; data on stdout, talk on stderr."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_data import ChatTokenizer, convert, prepare, read

ROOT = Path(__file__).parent.parent
FAULTS, HELD_OUT = ROOT / "examples" / "faults.jsonl", ROOT / "examples" / "faults-held-out.jsonl"
BACKPROP = [sys.executable, "-c", "from backpropagate.cli.app import main; main()"]
QUESTION = {"role": "user", "content": "Why\x1b[31m?"}
ANSWER = {"role": "assistant", "content": "Because [bold]so[/]."}


def show(*words):
    return exit_code_of(app, ["data", "show", *map(str, words)])


@pytest.fixture
def odd(tmp_path):
    """Rows with text that could steer a terminal or a printer of markup."""
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"messages": [QUESTION, ANSWER]}) + "\n" + json.dumps({"text": "é"}), encoding="utf-8")
    return path


def test_show_marks_what_is_learned_where_there_is_no_colour(odd, smollm2, capsys):
    assert show(odd, "--model", smollm2) == 0
    head, *text = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{odd}:1 · openai · ") and "(user " in head and "assistant " in head
    assert "⟦Because [bold]so[/].<|im_end|>⟧" in text
    assert "Why␛[31m?<|im_end|>" in text
    assert "é" not in text and text.index(next(line for line in text if line.startswith(f"{odd}:2 · text"))) > 6


def test_show_colours_what_is_learned(odd, smollm2):
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    environment.pop("NO_COLOR", None)
    words = [*BACKPROP, "data", "show", str(odd), "--model", str(smollm2)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", env=environment, check=True)
    assert "\x1b[1;32mBecause [bold]so[/].<|im_end|>\x1b[0m" in done.stdout
    assert "⟦" not in done.stdout and "\x1b[31m" not in done.stdout


def test_show_as_json_is_what_training_uses(rows, tiny_llama, capsys):
    assert show(rows, "--model", tiny_llama, "-n", 2, "--skip", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    tokenizer = ChatTokenizer.open(tiny_llama)
    examples = prepare(rows, tokenizer, max_length=512).examples[3:5]
    assert [row["tokens"] for row in found] == [example.tokens.tolist() for example in examples]
    assert [bytes(row["trained"]) for row in found] == [bytes(example.trained) for example in examples]
    assert [row["where"] for row in found] == [f"{rows}:4", f"{rows}:5"]
    assert "".join(found[0]["pieces"]).endswith("The answer to question 3 is 21, of course.<|im_end|>\n")
    assert [sum(part[key] for part in found[0]["parts"]) for key in ("tokens", "trained")] == [
        len(found[0]["tokens"]), sum(found[0]["trained"]),
    ]  # fmt: skip


def test_show_after_the_last_row_is_told(rows, tiny_llama, capsys):
    assert show(rows, "--model", tiny_llama, "--skip", 12) == 1
    assert "no rows after the first 12" in capsys.readouterr().err


@pytest.fixture
def named(tmp_path):
    """Rows under column names of their own."""
    path = tmp_path / "named.jsonl"
    lines = [{"query": f"Q{n}?", "reply": f"A{n}.", "id": n} for n in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


COLUMNS = ["--columns", "prompt=query,completion=reply"]


def test_columns_are_named_in_every_data_command(named, tiny_llama, tmp_path, capsys):
    assert show(named, "--model", tiny_llama, "-n", 1) == 1
    assert "--columns prompt=query,completion=reply" in capsys.readouterr().err
    assert show(named, "--model", tiny_llama, "-n", 1, *COLUMNS) == 0
    assert "⟦A0.<|im_end|>⟧" in capsys.readouterr().out
    assert exit_code_of(app, ["data", "convert", str(named), "--to", "alpaca", *COLUMNS]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"instruction": "Q0?", "input": "", "output": "A0."}
    assert exit_code_of(app, ["data", "split", str(named), "--held-out", "0.25", *COLUMNS]) == 0
    assert '"query": "Q' in (tmp_path / "named.held-out.jsonl").read_text()
    assert show(named, "--columns", "prompt") == 1
    assert "CONFIG_VALUE_INVALID" in capsys.readouterr().err


def test_training_takes_columns_and_what_to_learn(named, tiny_llama, tmp_path, capsys):
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    named.write_text(json.dumps({"query": turns[:3], "reply": turns[3:]}) + "\n" + json.dumps({"talk": turns}) + "\n")
    words = ["train", "--dry-run", "--json", "--backend", "cpu", "--model", str(tiny_llama), "--data", str(named)]
    words += ["--output", str(tmp_path / "out")]
    assert exit_code_of(app, [*words, *COLUMNS, "--samples", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["targets"] == 2
    assert exit_code_of(app, [*words, "--columns", "messages=talk"]) == 1
    assert "error" in json.loads(capsys.readouterr().out)
    named.write_text(json.dumps({"talk": turns}) + "\n")
    for choice, targets in (("assistant", 4), ("last", 2), ("all", None)):
        assert exit_code_of(app, [*words, "--columns", "messages=talk", "--train-on", choice]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["recipe"]["train_on"] == choice
        assert plan["data"]["targets"] == (targets or plan["data"]["tokens"] - 1)


def test_show_writes_both_answers_of_a_comparison(named, tiny_llama, capsys):
    named.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No."}) + "\n")
    assert show(named, "--model", tiny_llama) == 0
    out = capsys.readouterr().out
    assert "⟦So.<|im_end|>⟧" in out and "⟦No.<|im_end|>⟧" in out


def test_show_marks_only_the_last_answer_when_asked(named, tiny_llama, capsys):
    turns = [{"role": role, "content": f"{n}."} for n, role in enumerate(("user", "assistant", "user", "assistant"))]
    named.write_text(json.dumps({"messages": turns}) + "\n")
    assert show(named, "--model", tiny_llama, "--train-on", "last") == 0
    out = capsys.readouterr().out
    assert "⟦3.<|im_end|>⟧" in out and "⟦1." not in out


def test_split_says_what_it_wrote(rows, tmp_path, capsys):
    rows.write_text(rows.read_text() * 2)
    assert exit_code_of(app, ["data", "split", str(rows), "--held-out", "0.25", "--output", str(tmp_path / "o")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'o/rows.train.jsonl'}: 18 rows\n{tmp_path / 'o/rows.held-out.jsonl'}: 6 rows\n"
    assert said.err.startswith("12 rows said more than once")
    assert exit_code_of(app, ["data", "split", str(rows), "--held-out", "0.25", "--seed", "7", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["train_rows"], done["held_out_rows"], done["repeated"]) == (18, 6, 12)
    assert Path(done["train"]).parent == rows.parent and len(Path(done["held_out"]).read_text().splitlines()) == 6


def test_split_refuses_to_overwrite_and_to_leave_a_side_empty(rows, capsys):
    words = ["data", "split", str(rows), "--held-out"]
    assert exit_code_of(app, [*words, "0.01"]) == 1
    assert "nothing is held out" in capsys.readouterr().err
    assert exit_code_of(app, [*words, "0.5"]) == 0
    assert exit_code_of(app, [*words, "0.5"]) == 1
    assert "error INPUT_OUTPUT_UNUSABLE" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["openai", "sharegpt", "alpaca"])
def test_convert_writes_the_same_conversations_to_stdout_and_to_a_file(to, rows, tmp_path, capfdbinary):
    rows.write_text(json.dumps({"prompt": "é?", "completion": "漢"}, ensure_ascii=False), encoding="utf-8")
    assert exit_code_of(app, ["data", "convert", str(rows), "--to", to]) == 0
    output = capfdbinary.readouterr().out
    path = tmp_path / "out.jsonl"
    assert exit_code_of(app, ["data", "convert", str(rows), "--to", to, "--output", str(path)]) == 0
    assert path.read_bytes() == output and "漢".encode() in output
    (before,), (after,) = ([convert(row).content for row in read(file)] for file in (rows, path))
    assert before == after


def test_convert_writes_no_file_when_a_row_does_not_fit(rows, tmp_path, capsys):
    with rows.open("a") as file:
        file.write(json.dumps({"text": "raw"}) + "\n")
    path = tmp_path / "out.jsonl"
    words = ["data", "convert", str(rows), "--to", "alpaca", "--output", str(path)]
    assert exit_code_of(app, words) == 1
    assert f"{rows}:13: this is raw text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [rows]
    assert exit_code_of(app, ["data", "convert", str(rows), "--to", "openai", "--output", str(rows)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_convert_to_an_unknown_format_is_told(rows, capsys):
    assert exit_code_of(app, ["data", "convert", str(rows), "--to", "llama"]) == 1
    assert "Use one of: openai, sharegpt, alpaca." in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(rows):
    rows.write_text(rows.read_text() * 2000)
    words = [*BACKPROP, "data", "convert", str(rows), "--to", "openai"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert b"mistake" not in said and b"Traceback" not in said and b"Exception" not in said


def check(*words):
    return exit_code_of(app, ["data", "check", *map(str, words)])


def test_check_names_every_fault_and_exits_with_1(smollm2, capsys):
    assert check(FAULTS, "--model", smollm2, "--max-length", 192, "--against", HELD_OUT) == 1
    said = capsys.readouterr().out
    assert (
        f"error   secret                    1  {FAULTS}:10: turn 2: a Hugging Face token: hf_a… (37 characters)" in said
    )
    assert "28 rows (23 openai, 1 prompt), 2 not read: 9 errors, 18 warnings, 5 notes" in said
    assert "32 to 63       tokens  ████" in said and "with loss" in said and "2 rows longer than 192" in said


def test_check_of_the_quickstart_file_exits_with_0_unless_notes_fail(capsys):
    quickstart = ROOT / "examples" / "quickstart.jsonl"
    assert check(quickstart) == 0
    assert check(quickstart, "--fail-on", "warning") == 0
    assert "69 rows (69 openai): 1 note" in capsys.readouterr().out
    assert check(quickstart, "--fail-on", "note") == 1
    assert check(quickstart, "--fail-on", "note", "--no-near") == 0
    assert "nothing found" in capsys.readouterr().out


def test_check_as_json_has_every_finding_with_its_place(capsys):
    assert check(FAULTS, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["place"] == f"{FAULTS}:3" and found["kinds"]["empty-answer"]["count"] == 2
    assert sum(kind["shown"] for kind in found["kinds"].values()) == len(found["findings"])
    assert found["tokens"] is None and found["characters"]["longest"] > 200


def test_check_writes_a_repaired_copy_that_can_be_trained_on(tiny_llama, tmp_path, capsys):
    copy = tmp_path / "fixed.jsonl"
    assert check(FAULTS, "--model", tiny_llama, "--fix", copy) == 1
    assert f"{copy}: 22 rows, 3 of them cleaned" in capsys.readouterr().out
    assert prepare(copy, ChatTokenizer.open(tiny_llama), max_length=512).report.rows == 22
    assert check(FAULTS, "--fix", copy) == 1
    assert "error INPUT_OUTPUT_UNUSABLE" in capsys.readouterr().err


def test_check_shows_nothing_that_steers_the_terminal(tmp_path, capsys):
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b\x1b[31m"}) + "\n" + json.dumps({"\x1b[31m": "a"}))
    assert check(path) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_an_option_of_check_without_what_it_needs_is_refused(rows, capsys):
    assert check(rows, "--max-length", 64) == 1
    assert check(rows, "--fail-on", "never") == 1
    said = capsys.readouterr().err
    assert said.count("error CONFIG_VALUE_INVALID") == 2 and "--model" in said


def test_a_data_set_of_the_hub_is_trained_on_by_name(rows, tiny_llama, tmp_path, monkeypatch):
    """From the cache that `datasets` made when it was downloaded; here, of a local folder."""
    cache = tmp_path / "cache"
    (tmp_path / "name").mkdir()
    rows.rename(tmp_path / "name" / "train.jsonl")
    table = datasets.load_dataset(str(tmp_path / "name"), cache_dir=str(cache), split="train")
    (cache / "name").rename(cache / "owner___name")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), backend="cpu")
    plans = [trainer.plan(data) for data in ("owner/name", "owner/name:train", table)]
    assert [plan.data["rows"] for plan in plans] == [12, 12, 12]
    assert len({plan.data["sha256"] for plan in plans}) == 1
