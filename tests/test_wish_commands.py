"""A run is paused, continued, stopped and named from another terminal."""

import json
import os
import subprocess
import sys
import time

import pytest

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_core.events import Started, Stepped
from bp_runs import read_events
from bp_runs.wishes import Wish, read_wish


@pytest.fixture
def backprop(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = exit_code_of(app, [str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def train(backprop, tiny_llama, rows, tmp_path):
    def run(watch=lambda event: None, **settings):
        trainer = Trainer(
            str(tiny_llama), output=tmp_path / "out", backend="null", report_to="none", rank=4, **settings
        )
        return trainer.train(rows, steps=4, watch=watch)

    return run


def test_a_run_is_named_and_has_a_note(train, backprop):
    run = train(name="bakery, first try")
    assert backprop("note", run.id)[1] == f"run {run.id} has no note.\n"
    assert backprop("note", run.id, "the one to beat")[0] == 0
    assert json.loads(backprop("note", run.id, "--json")[1]) == {"run": run.id, "note": "the one to beat"}
    assert "bakery, first try" in backprop("list-runs")[1]
    assert "the one to beat" in backprop("show-run", run.id)[1]


def test_events_are_printed_from_a_place_on(train, backprop):
    run = train()
    lines = backprop("events", run.id)[1].splitlines()
    assert [json.loads(line)["event"] for line in lines].count("Stepped") == 4
    part = json.loads(backprop("events", run.id, "--json")[1])
    assert len(part["events"]) == len(lines)
    assert json.loads(backprop("events", run.id, "--after", part["cursor"], "--json")[1])["events"] == []


@pytest.mark.parametrize("verb", ["pause", "continue", "stop"])
def test_a_run_that_has_ended_cannot_be_wished_anything(train, backprop, verb):
    run = train()
    code, _, said = backprop(verb, run.id)
    assert code == 1 and "INPUT_RUN_NOT_RUNNING" in said


def test_what_was_wished_of_an_earlier_sitting_is_forgotten(train, tmp_path):
    def watch(event):
        if isinstance(event, Stepped) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(BaseException, match="left at once"):
        train(watch)
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    (folder / "wish.json").write_text('{"wish": "stop"}', encoding="utf-8")
    trainer = Trainer(output=tmp_path / "out", backend="null")
    done = trainer.train(tmp_path / "rows.jsonl", resume=folder.name, watch=lambda event: None)
    assert len(done.losses) == 4 and read_wish(folder) == Wish.NONE


def test_another_process_pauses_continues_and_stops_a_run(backprop, tiny_llama, rows, tmp_path):
    words = ["train", "--data", rows, "--model", tiny_llama, "--output", "out", "--backend", "null", "--rank", 4]
    words += ["--report-to", "none", "--steps", 200000, "--batch-size", 1]
    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "backpropagate", *map(str, words)], stdout=said, stderr=said, env=os.environ
        )
    try:
        (folder,) = _until(lambda: [path for path in tmp_path.glob("out/runs/*") if _kinds(path).get("Stepped")])
        for verb, event in (("pause", "Paused"), ("continue", "Continued"), ("stop", "Failed")):
            assert backprop(verb, folder.name)[0] == 0
            _until(lambda event=event: _kinds(folder).get(event))
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert Started.__name__ in _kinds(folder)
    assert list((folder / "checkpoints").iterdir())


def _kinds(folder):
    return {event["event"]: event for event in read_events(folder)}


def _until(look, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")
