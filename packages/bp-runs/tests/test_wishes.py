import json

import pytest

from bp_core.errors import RunNotRunning
from bp_runs import RunFolder
from bp_runs.claim import Owner
from bp_runs.notes import read_note, write_note
from bp_runs.wishes import Wish, WishReader, forget_wish, read_wish, wish


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "20260101-000000-abcd")
    folder.path.mkdir(parents=True)
    folder.write(id=folder.id, status="running", owner=vars(Owner.this()))
    return folder


@pytest.mark.parametrize("what", [Wish.PAUSE, Wish.CONTINUE, Wish.STOP])
def test_a_wish_is_read_by_whoever_trains(run, what):
    reader = WishReader(run.path)
    assert reader() == ""
    wish(run, what)
    assert read_wish(run.path) == what
    assert WishReader(run.path)() == what
    forget_wish(run.path)
    assert read_wish(run.path) == Wish.NONE


def test_the_disk_is_asked_now_and_then_only(run, monkeypatch):
    times = iter([0.0, 0.1, 0.2, 0.9])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    reader = WishReader(run.path)
    assert reader() == ""
    wish(run, Wish.STOP)
    assert [reader(), reader(), reader()] == ["", "", "stop"]


@pytest.mark.parametrize("record", [{"status": "finished"}, {"owner": {"host": Owner.this().host, "pid": 2**22 + 1}}])
def test_nothing_is_wished_of_a_run_that_nobody_trains(run, record):
    run.write(**record)
    with pytest.raises(RunNotRunning, match="not being trained"):
        wish(run, Wish.PAUSE)
    assert not (run.path / "wish.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", '{"wish": "explode"}', '{"wish": 3}', "{"])
def test_a_damaged_wish_is_none(run, text):
    (run.path / "wish.json").write_text(text, encoding="utf-8")
    assert read_wish(run.path) == Wish.NONE


def test_a_note_is_kept_without_secrets(run, monkeypatch):
    assert read_note(run) == ""
    monkeypatch.setenv("MY_TOKEN", "sesame-open-please")
    write_note(run, "better with\nsesame-open-please")
    assert read_note(run) == "better with\n[redacted]"
    assert json.loads((run.path / "run.json").read_text(encoding="utf-8"))["id"] == run.id
