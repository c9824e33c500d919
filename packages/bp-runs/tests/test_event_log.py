import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.events import Checkpointed, Evaluated, Started, Warned
from bp_runs import EventLog, read_events


def told(folder):
    return [(event["event"], event["step"]) for event in read_events(folder)]


def test_what_a_resumed_run_did_again_is_told_once(tmp_path):
    for event in (Started(0, 9), Warned(1, "a"), Warned(2, "b"), Started(1, 9), Warned(2, "c")):
        EventLog(tmp_path).watch(event)
    assert told(tmp_path) == [("Started", 0), ("Warned", 1), ("Started", 1), ("Warned", 2)]
    assert list(read_events(tmp_path))[-1]["message"] == "c"


@settings(deadline=None)
@given(cut=st.integers(0, 200), text=st.text(max_size=20))
def test_a_crash_in_the_middle_of_a_line_costs_that_line_only(tmp_path_factory, cut, text):
    folder = tmp_path_factory.mktemp("run")
    log = EventLog(folder)
    for step in range(4):
        log.watch(Warned(step, text))
    path = folder / "events.jsonl"
    whole = path.read_bytes()
    kept = whole[: min(cut, len(whole))]
    path.write_bytes(kept)
    EventLog(folder).watch(Checkpointed(9, text))
    assert [step for _, step in told(folder)] == [*range(kept.count(b"\n")), 9]
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    EventLog(tmp_path).watch(Evaluated(1, float("nan"), float("inf"), 3, False))
    (event,) = read_events(tmp_path)
    assert event["loss"] is None and event["perplexity"] is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_on_a_full_disk_events_wait_for_room(tmp_path, monkeypatch):
    log = EventLog(tmp_path)
    log.watch(Warned(1, "a"))
    path = log._path
    real = type(path).open
    monkeypatch.setattr(type(path), "open", lambda self, *words: real(type(self)("/dev/full"), *words))
    log.watch(Warned(2, "b"))
    log.watch(Warned(3, "c"))
    monkeypatch.undo()
    assert told(tmp_path) == [("Warned", 1)]
    log.watch(Warned(4, "d"))
    assert told(tmp_path) == [("Warned", 1), ("Warned", 2), ("Warned", 3), ("Warned", 4)]
