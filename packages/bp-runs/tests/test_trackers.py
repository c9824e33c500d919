"""Which trackers are meant, and what they read of a run."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.errors import TrackerMissing, UnknownTracker
from bp_core.events import Evaluated, Failed, Finished, Started, Stepped
from bp_core.rail import Memory
from bp_runs import tracker_processes
from bp_runs.tracker_processes import TrackerProcesses, chosen
from bp_runs.trackers import KINDS, events, numbers, status_after


def test_what_keeps_its_files_here_is_used_by_itself_and_the_others_by_name(monkeypatch):
    monkeypatch.setattr(tracker_processes, "_installed", lambda name: name in ("tensorboard", "mlflow"))
    assert chosen("auto") == ["tensorboard"] and chosen("none") == []
    assert chosen("mlflow, tensorboard,mlflow") == ["mlflow", "tensorboard"]
    with pytest.raises(TrackerMissing, match="pip install wandb"):
        chosen("wandb")
    with pytest.raises(UnknownTracker, match="did you mean 'tensorboard'"):
        chosen("tensorbord")


def test_lines_are_read_as_they_are_written(tmp_path):
    path, closed, seen = tmp_path / "events.jsonl", threading.Event(), []
    reader = threading.Thread(target=lambda: seen.extend(events(path, 0, closed)))
    reader.start()
    with path.open("a") as file:
        for part in ('{"n": 1}\n{"n"', ": 2}\n", '{"n": 3}\n', '{"torn": '):
            file.write(part)
            file.flush()
            time.sleep(0.05)
    closed.set()
    reader.join(10)
    assert seen == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_reading_begins_where_a_resumed_run_does(tmp_path):
    path, closed = tmp_path / "events.jsonl", threading.Event()
    closed.set()
    path.write_text('{"n": 1}\n{"n": 2}\n')
    assert list(events(path, len('{"n": 1}\n'), closed)) == [{"n": 2}]


def test_only_numbers_of_steps_and_evaluations_are_curves():
    stepped = Stepped(3, 2.0, 0.1, float("nan"), 10, 4, 0.5, Memory(5, 6, 7)).as_dict() | {"time": 1.0, "run": "x"}
    assert numbers(stepped) == {
        "train/loss": 2.0, "train/learning_rate": 0.1, "train/tokens": 10, "train/targets": 4, "train/seconds": 0.5,
        "train/memory_used": 5, "train/memory_peak": 6, "train/memory_total": 7, "train/tokens_per_second": 20.0,
    }  # fmt: skip
    assert numbers(Evaluated(3, 1.0, 2.7, 9, True).as_dict())["eval/loss"] == 1.0
    assert numbers(Started(0, 9).as_dict()) == {}


@given(st.lists(st.sampled_from(["Started", "Stepped", "Finished", "Failed", "Stopped"])))
def test_a_run_has_ended_as_its_last_end_says(kinds):
    made = {
        "Started": Started(0, 1), "Stepped": Stepped(1, 1.0, 1.0, 1.0, 1, 1, 1.0, Memory(1, 1, 1)),
        "Finished": Finished(1, 1.0, 1, 1, 1.0, 1), "Failed": Failed(1, "RUNTIME_DIVERGED", "x", None),
        "Stopped": Failed(1, "RUNTIME_INTERRUPTED", "x", None),
    }  # fmt: skip
    status = "interrupted"
    for kind in kinds:
        status = status_after(made[kind].as_dict(), status)
    last = [kind for kind in kinds if kind != "Stepped"][-1:]
    assert status == {"Finished": "finished", "Failed": "failed"}.get("".join(last), "interrupted")


def test_a_tracker_learns_how_a_failed_run_ended(tmp_path):
    assert set(KINDS) == {"tensorboard", "wandb", "mlflow", "trackio"}
    reporter = TrackerProcesses([], tmp_path)
    assert list(reporter.failures()) == list(reporter.close(patient=True)) == [] and not list(tmp_path.iterdir())
