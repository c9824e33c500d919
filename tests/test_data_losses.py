"""What of the data is not learned stands in the console, the events, the report and the JSON of a run."""

import json
from pathlib import Path

import pandas

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_core.events import Trimmed

SHORT = {"prompt": "q", "completion": "a", "hint": "h"}
LONG = {"prompt": "q", "completion": "word " * 500}
LATE = {"prompt": "word " * 500, "completion": "a"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def words(model, folder, *data):
    given = [word for path in data for word in ("--data", str(path))]
    return [
        "train",
        *given,
        "--model",
        str(model),
        "--output",
        str(folder / "out"),
        "--backend",
        "null",
        "--steps",
        "2",
    ]


def test_a_run_tells_what_it_cut_dropped_and_left_out(tiny_llama, tmp_path, capsys):
    data = write(tmp_path / "a.jsonl", SHORT, LONG, LATE)
    assert exit_code_of(app, [*words(tiny_llama, tmp_path, data), "--max-length", "64", "--json"]) == 0
    said = capsys.readouterr()
    run = json.loads(said.out)
    assert (run["counts"]["truncated"], run["counts"]["dropped"], run["counts"]["unused"]) == (2, 1, {"hint": 1})
    assert f"{data}:2" in said.err and "'hint'" in said.err and "dropped" in said.err
    folder = Path(run["folder"])
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == Trimmed.__name__]
    assert event["counts"] == {"truncated": 2, "dropped": 1, "unused": 1}
    assert event["places"]["dropped"] == [f"{data}:3"]
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "What happened" in report and "cut at 64 tokens" in report
    assert exit_code_of(app, [*words(tiny_llama, tmp_path, data), "--max-length", "64", "--dry-run", "--json"]) == 0
    assert "cut at 64 tokens" in json.loads(capsys.readouterr().out)["data"]["summary"]


def test_several_files_are_trained_on_resumed_and_replayed(tiny_llama, tmp_path, capsys):
    row = {"prompt": "q", "completion": "a"}
    files = [write(tmp_path / f"{name}.jsonl", {**row, "completion": name}) for name in "ab"]
    base = words(tiny_llama, tmp_path, *files)
    assert exit_code_of(app, [*base, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["counts"]["rows"] == 2
    lock = json.loads((Path(run["folder"]) / "run.lock").read_text())
    assert lock["data"] == [str(path) for path in files]
    assert exit_code_of(app, ["replay", run["id"], "--json"]) in (0, 1)
    capsys.readouterr()
    assert exit_code_of(app, ["resume", run["id"], "--steps", "3", "--output", str(tmp_path / "out"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["losses"]) == 3
    assert exit_code_of(app, ["list-runs"]) == 0


def test_a_table_is_trained_on_as_it_is(tiny_llama, tmp_path):
    table = pandas.DataFrame([{"prompt": f"q{n}", "completion": f"a{n}", "note": None} for n in range(4)])
    trainer = Trainer(str(tiny_llama), backend="null", output=str(tmp_path / "out"))
    assert trainer.train(table, steps=1).counts["rows"] == 4
