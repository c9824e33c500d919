"""Runs are remembered: list, show, compare, do again, export; also when the ledger was lost."""

import csv
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_core.errors import ERRORS
from bp_runs.history import ledger

SETTINGS = dict(
    backend="null", rank=4, batch_size=4, learning_rate=1e-2, max_length=64, dtype="float32", report_to="none"
)  # fmt: skip


def quiet(event):
    return None


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def backprop(own_home, capsys):
    """Run the command line; exit code, stdout, stderr."""

    def run(*words):
        code = exit_code_of(app, [str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def train(own_home, tiny_llama, rows, tmp_path):
    def run(name="out", data=rows, steps=3, **changes):
        trainer = Trainer(str(tiny_llama), output=str(tmp_path / name), **SETTINGS | changes)
        made = trainer.train(data, steps=steps, watch=quiet)
        trainer.close()
        return made

    return run


def weights(run):
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def test_a_run_is_in_the_ledger_and_shown(train, backprop, rows):
    run = train()
    code, out, _ = backprop("list-runs", "--json")
    (entry,) = json.loads(out)["runs"]
    assert code == 0 and entry["id"] == run.id and entry["status"] == "finished" and entry["data"] == str(rows)
    assert entry["first_loss"] == run.losses[0] and entry["last_loss"] == run.losses[-1]
    assert (
        entry["tokens"] == run.tokens
        and entry["step"] == entry["steps"] == 3
        and entry["peak_memory"] == run.peak_memory
    )
    assert entry["tokens_per_second"] == pytest.approx(run.tokens / run.seconds, rel=1e-6)
    assert run.id in backprop("list-runs")[1] and run.id not in backprop("list-runs", "--status", "failed")[1]
    for name in (run.id, run.id[:-2], run.folder):
        assert json.loads(backprop("show-run", name, "--json")[1])["id"] == run.id
    assert "recipe rank" in backprop("show-run", run.id)[1]


def test_what_is_not_known_is_told(train, backprop):
    code, _, err = backprop("list-runs", "--status", "runing")
    assert code == 1 and "interrupted" in err
    assert "INPUT_TARGET_NOT_FOUND" in backprop("show-run", "1999")[2]
    first, second = train(steps=1), train(steps=1)
    code, _, err = backprop("show-run", first.id[:4])
    assert code == 1 and first.id in err and second.id in err
    assert backprop("export-runs", "--format", "xlsx")[0] == 1


def test_two_runs_side_by_side_show_only_what_differs(train, backprop):
    first, second = train("a", seed=1), train("b", seed=2, steps=4)
    found = json.loads(backprop("diff-runs", first.id, second.id, "--json")[1])
    assert found["recipe seed"] == {first.id: 1, second.id: 2}
    assert "recipe rank" not in found and "data_sha256" not in found and "version torch" not in found
    assert "last_loss" in found
    table = backprop("diff-runs", first.id, second.id)[1]
    assert "recipe seed" in table and "recipe rank" not in table


def test_a_replay_ends_with_the_same_bytes(train, backprop, tmp_path):
    run = train(steps=5, backend="cpu")
    before = weights(run)
    code, out, err = backprop("replay", run.id, "--set", f"output={tmp_path / 'again'}", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert again["id"] != run.id and "warning" not in err
    assert (tmp_path / "again" / "lora" / "adapter_model.safetensors").read_bytes() == before
    code, _, err = backprop("replay", run.folder / "run.lock", "--set", "seed=7", "--set", "steps=5")
    assert code == 0 and weights(run) != before


def test_a_replay_names_what_changed_before_it_writes_anything(train, backprop, rows):
    run = train()
    runs = sorted(run.folder.parent.iterdir())
    content = rows.read_text()
    rows.write_text(content.replace("Question 3", "Question three"))
    code, _, err = backprop("replay", run.id)
    assert code == 2 and "STATE_REPLAY_MISMATCH" in err and "the data changed" in err and "base" not in err
    rows.unlink()
    assert "the data is gone" in backprop("replay", run.id)[2]
    rows.write_text(content)
    assert sorted(run.folder.parent.iterdir()) == runs


def test_a_replay_on_another_base_is_refused(backprop, rows, tiny_llama, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    trainer = Trainer(str(model), output=str(tmp_path / "out"), **SETTINGS)
    run = trainer.train(rows, steps=1, watch=quiet)
    trainer.close()
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + "\n")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    code, _, err = backprop("replay", run.id)
    assert code == 2 and "the tokenizer changed" in err and "the base changed" in err


def test_other_versions_are_a_warning(train, backprop):
    run = train(steps=1)
    lock = json.loads((run.folder / "run.lock").read_text())
    lock["packages"]["torch"] = "0.4.1"
    (run.folder / "run.lock").write_text(json.dumps(lock))
    code, _, err = backprop("replay", run.folder)
    assert code == 0 and "warning: torch was 0.4.1, is 2" in err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["rnak=3"], "did you mean 'rank'"),
        (["rank"], "name=value"),
        (["rank=zero"], "must be of type int"),
        (["rank=0"], "must be at least 1"),
    ],
)
def test_settings_of_a_replay_are_checked_like_any(train, backprop, words, problem):
    run = train(steps=1)
    code, _, err = backprop("replay", run.id, *[part for word in words for part in ("--set", word)])
    assert code == 1 and "CONFIG_VALUE_INVALID" in err and problem in err


def test_rows_given_in_python_cannot_be_replayed_and_that_is_said(train, backprop, rows):
    run = train(data=[json.loads(line) for line in rows.read_text().splitlines()], steps=1)
    code, _, err = backprop("replay", run.id)
    assert code == 1 and "INPUT_RUN_NOT_REPLAYABLE" in err and "Python rows" in err


def test_a_lock_that_was_damaged_is_told(train, backprop):
    run = train(steps=1)
    (run.folder / "run.lock").write_text('{"version": 1, "run"')
    assert "INPUT_RUN_NOT_REPLAYABLE" in backprop("replay", run.folder)[2]
    (run.folder / "run.lock").unlink()
    assert "no run.lock" in backprop("replay", run.id)[2]


def test_a_lost_or_damaged_ledger_is_rebuilt_from_the_folders(train, backprop, own_home):
    runs = [train("a"), train("b"), train("b")]
    before = ledger().entries()
    assert len(before) == 3
    for path in own_home.glob("ledger.db*"):
        path.unlink()
    rebuilt = ledger().entries()
    comparable = [{**e.as_dict(), "heartbeat": 0} for e in before]
    assert [{**e.as_dict(), "heartbeat": 0} for e in rebuilt] == comparable
    (own_home / "ledger.db").write_bytes(b"\0" * 5000)
    assert {e.id for e in ledger().entries()} == {run.id for run in runs}
    (aside,) = own_home.glob("ledger-damaged-*.db")
    assert aside.read_bytes() == b"\0" * 5000


@pytest.mark.slow
def test_exports_are_noted_with_the_run(train, backprop, tmp_path):
    run = train(backend="cpu")
    code, out, err = backprop("export", tmp_path / "out", "--quantization", "q8_0", "--json")
    assert code == 0, err
    (export,) = json.loads(backprop("show-run", run.id, "--json")[1])["exports"]
    assert export == json.loads((run.folder / "exports.jsonl").read_text())
    assert export["path"] == json.loads(out)["path"] and export["proven"] is True and len(export["sha256"]) == 64
    report = (run.folder / "report.md").read_text()
    assert "q8\\_0" in report and export["sha256"] in report and "parity.json" in report
    for path in tmp_path.glob("home/ledger.db*"):
        path.unlink()
    assert json.loads(backprop("show-run", run.id, "--json")[1])["exports"] == [export]


def test_runs_are_exported_as_tables(train, backprop, tmp_path):
    first, second = train("a"), train("b")
    out = backprop("export-runs")[1]
    assert [json.loads(line)["id"] for line in out.splitlines()] == [second.id, first.id]
    assert backprop("export-runs", "--format", "csv", "--output", tmp_path / "runs.csv")[0] == 0
    table = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert [row["id"] for row in table] == [second.id, first.id]
    assert json.loads(table[0]["recipe"])["rank"] == 4 and float(table[1]["last_loss"]) == first.losses[-1]
    assert backprop("export-runs", "--output", tmp_path / "runs.csv")[0] == 1
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))) == 2


def test_with_no_runs_at_all(backprop):
    assert json.loads(backprop("list-runs", "--json")[1]) == {"runs": []}
    assert "no runs" in backprop("list-runs")[1]
    assert backprop("export-runs")[:2] == (0, "")
    assert backprop("export-runs", "--format", "csv")[1].startswith("id,folder,status")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on Windows")
@pytest.mark.slow
def test_a_killed_run_shows_as_interrupted_until_it_is_resumed(backprop, rows, tiny_llama, tmp_path):
    words = [sys.executable, "-c", "from backpropagate.cli.app import main; main()", "train", "--data", str(rows)]
    words += ["--model", str(tiny_llama), "--output", str(tmp_path / "out"), "--steps", "30", "--checkpoint-every", "1"]
    words += ["--backend", "cpu", "--batch-size", "4"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("out/runs/*/checkpoints/step-*"))) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    assert [e.status_now() for e in ledger().entries()] == ["running"]
    process.kill()
    process.communicate()
    (entry,) = ledger().entries()
    assert entry.status == "running" and entry.status_now() == "interrupted"
    assert json.loads(backprop("list-runs", "--status", "interrupted", "--json")[1])["runs"][0]["id"] == entry.id
    assert backprop("resume", "--output", tmp_path / "out")[0] == 0
    (entry,) = ledger().entries()
    assert entry.status_now() == "finished" and entry.step == 30
    events = (tmp_path / "out" / "runs" / entry.id / "events.jsonl").read_text().splitlines()
    assert {json.loads(line)["run"] for line in events} == {entry.id}


def test_a_run_killed_after_its_end_is_finished_all_the_same(train, backprop):
    trained = train()
    (entry,) = [entry for entry in ledger().entries() if entry.id == trained.id]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    ledger().record(dataclasses.replace(entry, status="running", pid=child.pid, pid_began=1.0))
    assert json.loads(backprop("list-runs", "--json")[1])["runs"][0]["status"] == "finished"
    assert json.loads(backprop("show-run", trained.id, "--json")[1])["status"] == "finished"


@pytest.mark.skipif(os.name == "nt", reason="Windows permissions work otherwise")
def test_a_home_that_cannot_be_written_never_stops_training(rows, tiny_llama, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("this is a file")
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    events = []
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), **SETTINGS)
    run = trainer.train(rows, steps=3, watch=events.append)
    trainer.close()
    assert len(run.losses) == 3 and (run.folder / "report.md").is_file()
    told = [event.describe() for event in events if "ledger" in event.describe()]
    assert len(told) == 1
    assert (tmp_path / "home").read_text() == "this is a file"


def test_every_error_can_be_looked_up(backprop):
    for code, kind in ERRORS.items():
        (told,) = json.loads(backprop("errors", code.lower(), "--json")[1])["errors"]
        assert told == {"code": code, "exit": kind.exit_code, "what": kind.__doc__, "fix": kind.fix}
    out = backprop("errors")[1]
    assert all(f"{code} (exit " in out for code in ERRORS)
    code, _, err = backprop("errors", "RUNTIME_GPU_OM")
    assert code == 1 and "RUNTIME_GPU_OOM" in err
