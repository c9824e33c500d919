"""A run reports to trackers that are installed; what they write is read back with their own libraries."""

import json
import sqlite3
import subprocess
import sys
import time

import pytest

from backpropagate import Trainer
from bp_core.errors import TrackerMissing
from bp_runs import tracker_processes
from bp_runs.trackers import KINDS


def quiet(event):
    return None


@pytest.fixture
def reported(tiny_llama, rows, tmp_path):
    """Train on the null rail with a tracker; the run, and what its watcher was told."""

    def run(report_to, **changes):
        told = []
        trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), backend="null", report_to=report_to, **changes)
        return trainer.train(rows, steps=4, watch=lambda event: told.append(event.describe())), told

    return run


def log_of(run, name):
    return (run.folder / "trackers" / f"{name}.log").read_text()


def test_tensorboard_gets_every_loss(reported):
    run, told = reported("tensorboard", held_out=0.2, eval_every=2)
    assert not any("tensorboard" in text for text in told), log_of(run, "tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    found = accumulator(str(run.folder / "tensorboard"))
    found.Reload()
    tensors = {tag: found.Tensors(tag) for tag in found.Tags()["tensors"]}
    losses = [(event.step, event.tensor_proto.float_val[0]) for event in tensors["train/loss"]]
    assert losses == [(step, pytest.approx(loss)) for step, loss in enumerate(run.losses, 1)]
    assert [event.step for event in tensors["eval/loss"]] == [0, 2, 4]
    assert {"train/learning_rate", "train/grad_norm", "train/memory_used", "train/tokens_per_second"} <= set(tensors)


def test_wandb_offline_leaves_a_run_to_sync(reported, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, _ = reported("wandb")
    (folder,) = (run.folder / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    assert run.id in record.name and b"train/loss" in record.read_bytes(), log_of(run, "wandb")


@pytest.mark.filterwarnings("ignore")  # reading back with MLflow's own dependencies is not ours to keep quiet
def test_mlflow_keeps_parameters_losses_and_the_end(reported, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run, _ = reported("mlflow")
    client = mlflow.tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("backpropagate").experiment_id])
    assert found.info.run_name == run.id and found.info.status == "FINISHED" and found.data.params["rank"] == "16"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == list(enumerate(run.losses, 1))


def test_trackio_keeps_losses_in_its_local_database(reported, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run, _ = reported("trackio")
    (path,) = (tmp_path / "trackio").rglob("backpropagate.db")
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT metrics FROM metrics WHERE run_name = ? ORDER BY step", [run.id]).fetchall()
    db.close()
    assert [json.loads(row)["train/loss"] for (row,) in found] == list(run.losses)


def test_a_tracker_that_is_missing_is_told_before_anything_is_written(reported, tmp_path):
    missing = next((name for name in KINDS if not tracker_processes._installed(name)), None)
    if missing is None:
        pytest.skip("every tracker is installed")
    with pytest.raises(TrackerMissing):
        reported(missing)
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A tensorboard package, put before the real one, whose Writer does as the test says."""

    def make(code):
        package = tmp_path / "broken" / "tensorboard"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "summary.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return make


def test_a_tracker_that_fails_never_stops_a_run(reported, broken):
    token = "hf_" + "x1Y2" * 9
    broken(f"class Writer:\n    def __init__(self, *_): raise OSError('no route, token {token}')\n")
    run, told = reported("tensorboard")
    assert len(run.losses) == 4
    (warning,) = [text for text in told if "tensorboard" in text]
    assert "no route" in warning and token not in warning
    assert json.loads((run.folder / "run.json").read_text())["status"] == "finished"
    assert "no route" in (run.folder / "report.md").read_text()


def test_a_tracker_that_hangs_holds_up_only_the_end_and_not_for_long(reported, broken, monkeypatch):
    monkeypatch.setattr(tracker_processes, "_SECONDS_TO_END", {True: 1.0, False: 1.0})
    broken("import time\nclass Writer:\n    def __init__(self, *_): time.sleep(20)\n")
    began = time.monotonic()
    run, told = reported("tensorboard")
    assert len(run.losses) == 4 and time.monotonic() - began < 15
    assert any("still sending" in text for text in told)
    for process in tracker_processes._LEFT:
        process.kill()
        process.wait()


def test_a_tracker_ends_when_its_training_process_is_killed(tmp_path, reported):
    run, _ = reported("none")
    words = [sys.executable, "-m", "bp_runs.trackers", "tensorboard", str(run.folder), "0"]
    code = f"import subprocess, os, signal; subprocess.Popen({words!r}, stdin=subprocess.PIPE); os._exit(9)"
    subprocess.run([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not list(run.folder.glob("tensorboard/events*")):
        assert time.monotonic() < until
        time.sleep(0.1)
