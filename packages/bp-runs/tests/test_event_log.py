import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.events import Checkpointed, Evaluated, Started, Warned
from bp_runs import EventLog, read_events
from bp_runs.event_log import LogPart, events_after


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


def test_events_are_read_from_a_place_on(tmp_path):
    path = tmp_path / "events.jsonl"
    assert events_after(tmp_path, 0) == LogPart([], 0, False)
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3')
    first = events_after(tmp_path, 0)
    assert first == LogPart([{"a": 1}, {"a": 2}], 18, False), "a line that is being written is left for later"
    path.write_bytes(path.read_bytes() + b"}\n")
    assert events_after(tmp_path, first.cursor) == LogPart([{"a": 3}], 27, False)
    assert events_after(tmp_path, 27) == LogPart([], 27, False)


def test_a_log_that_became_shorter_is_read_from_its_start(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"a": 1}\n')
    assert events_after(tmp_path, 100) == LogPart([{"a": 1}], 9, True)
    assert events_after(tmp_path, -1).reset


def test_a_part_has_whole_lines_and_an_end(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"a": 1}\n' * 10 + b'{"b": "' + b"x" * 100 + b'"}\n')
    cursor, seen = 0, 0
    for _ in range(20):
        part = events_after(tmp_path, cursor, limit=30)
        cursor, seen = part.cursor, seen + len(part.events)
    assert (seen, cursor) == (11, 90 + 110)
