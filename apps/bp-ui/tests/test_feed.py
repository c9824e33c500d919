"""A run as the page shows it: its status, its events from a place on, its curve in a list."""

import json

import pytest
from page_runs import written_run

from bp_core.events import Continued, MemoryShrunk, Paused, Started, Stepped
from bp_core.rail import Memory
from bp_runs import EventLog
from bp_runs.claim import Owner
from bp_ui.feed import Curve, Runs, compact, rows_after, status_of, thinned


def step(number, loss=1.0):
    return Stepped(number, loss, 1e-3, 1.0, 40, 20, 0.5, Memory(1, 2, 3))


@pytest.fixture
def alive(run):
    """A run whose process is this one."""
    run.write(status="running", owner=vars(Owner.this()))
    return run


def test_a_run_is_what_its_record_and_its_process_say(alive):
    assert status_of(alive, False) == "running"
    assert status_of(alive, True) == "paused"
    (alive.path / "wish.json").write_text('{"wish": "pause"}', encoding="utf-8")
    assert status_of(alive, False) == "pausing" and status_of(alive, True) == "paused"
    (alive.path / "wish.json").write_text('{"wish": "stop"}', encoding="utf-8")
    assert status_of(alive, False) == "stopping"
    alive.write(owner=vars(Owner.this()) | {"pid": 2**22 + 1})
    assert status_of(alive, False) == "interrupted"
    alive.write(status="failed")
    assert status_of(alive, False) == "failed"
    alive.write(status="finished")
    assert status_of(alive, False) == "finished"
    (alive.path / "run.json").write_text("{", encoding="utf-8")
    assert status_of(alive, False) == "failed"


def test_events_are_asked_for_from_a_place_on(run):
    first = rows_after(run.path, 0)
    assert [row[0] for row in first["rows"]] == ["b", *"s" * 20, "e"] and not first["more"]
    EventLog(run.path).watch(step(21, 0.25))
    second = rows_after(run.path, first["cursor"])
    assert second["rows"] == [["s", 21, 0.25, 1e-3, 1.0, 0.5, 40, 1, 3, None]]
    assert rows_after(run.path, second["cursor"])["rows"] == []
    assert rows_after(run.path, 10**9)["reset"] is True


def test_what_people_should_read_is_in_words_and_the_rest_is_left_out():
    told = compact(MemoryShrunk(4, 2).as_dict() | {"says": MemoryShrunk(4, 2).describe(), "time": 1.0})
    assert told[:3] == ["n", 4, "MemoryShrunk"] and "Memory ran out" in told[4]
    assert compact({"event": "Checkpointed", "step": 3, "folder": "x"}) is None
    assert compact(Paused(3, "as wished").as_dict()) == ["p", 3, "as wished"]
    assert compact(Continued(3, 1.0).as_dict()) == ["c", 3]


def test_a_long_curve_is_thinned_and_keeps_its_peaks():
    rows = [["b", 0, 9000], *(["s", n, 5.0 if n == 4567 else 1.0, 0, 0, 0, 0, 0, 0, None] for n in range(9000))]
    few = thinned(rows, 2000)
    assert len(few) < 3100 and few[0] == rows[0] and few[-1] == rows[-1]
    assert max(row[2] for row in few if row[0] == "s") == 5.0


def test_steps_that_were_done_again_count_once():
    curve = Curve()
    curve.add(
        [compact(event.as_dict()) for event in (Started(0, 9), step(1), step(2), step(3), Started(1, 9), step(2, 0.5))]
    )
    assert curve.losses == [(1, 1.0), (2, 0.5)] and (curve.step, curve.steps) == (2, 9)
    assert curve.seconds_left == pytest.approx(3.5)


def test_a_list_knows_a_run_at_once_and_its_curve(home, tmp_path):
    runs = Runs()
    assert runs.entries() == [] and runs.find("20260101-000000-abcd") is None
    run = written_run(tmp_path / "work" / "output")
    assert runs.find(run.id) == run
    curve = runs.curve(runs.entry(run.id))
    assert curve.step == 20 and len(curve.sparkline().split()) == 20
    log = run.path / "events.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + json.dumps(step(21).as_dict())[:20], encoding="utf-8")
    assert runs.curve(runs.entry(run.id)).step == 20, "half a line is no event"
