import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bp_core.errors import LedgerUnusable
from bp_runs import Entry, Ledger, Owner


def entry(number, **changes):
    here = Owner.this()
    values = dict(
        id=f"run-{number:04d}", folder=f"/out/runs/run-{number:04d}", status="running", model="m", data="/d.jsonl",
        data_sha256="ab", recipe={"rank": 4, "why": {"rank": "as set"}}, versions={"torch": "2"}, host=here.host,
        pid=here.pid, pid_began=here.began, started=1000.0 + number, heartbeat=2000.0, step=3, steps=10, first_loss=2.0,
        last_loss=1.0, best_loss=0.5, eval_loss=None, tokens=30, targets=20, seconds=1.5, tokens_per_second=20.0,
        peak_memory=7, error_code=None, error_message=None,
    )  # fmt: skip
    return Entry(**values | changes)


def test_what_is_recorded_is_read_back_newest_first(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.entries() == []
    for number in (1, 2):
        ledger.record(entry(number))
    ledger.record(entry(1, step=9, last_loss=None))
    assert ledger.entries() == [entry(2), entry(1, step=9, last_loss=None)]


def test_a_row_can_be_read_by_any_sqlite_program(tmp_path):
    Ledger(tmp_path / "ledger.db").record(entry(1, status="failed", error_code="RUNTIME_DIVERGED"))
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        assert db.execute("SELECT id, status, best_loss, error_code FROM runs").fetchall() == [
            ("run-0001", "failed", 0.5, "RUNTIME_DIVERGED")
        ]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_exports_stay_when_the_run_is_recorded_again(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record(entry(1))
    ledger.add_export("run-0001", {"path": "/a.gguf", "sha256": "1"})
    ledger.add_export("run-0001", {"path": "/b.gguf", "sha256": "2"})
    ledger.add_export("run-0001", {"path": "/a.gguf", "sha256": "3"})
    ledger.add_export("nobody", {"path": "/c.gguf"})
    ledger.record(entry(1, step=10))
    (found,) = ledger.entries()
    assert found.step == 10
    assert list(found.exports) == [{"path": "/b.gguf", "sha256": "2"}, {"path": "/a.gguf", "sha256": "3"}]


WRITER = """
import sys
from pathlib import Path
from bp_runs import Entry, Ledger
from test_ledger import entry
ledger, me = Ledger(Path(sys.argv[1])), int(sys.argv[2])
sys.stdin.read(1)
for n in range(25):
    ledger.record(entry(me * 100 + n))
    ledger.add_export("run-0000", {"path": f"/{me}-{n}"})
"""


def writers(path, count):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    pipes = dict(stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)], **pipes) for n in range(count)]
    for process in processes:
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    Ledger(tmp_path / "ledger.db").record(entry(0))
    writers(tmp_path / "ledger.db", 4)
    entries = Ledger(tmp_path / "ledger.db").entries()
    assert {e.id for e in entries} == {f"run-{me * 100 + n:04d}" for me in range(4) for n in range(25)}
    assert len(entries[-1].exports) == 100 - sum(1 for e in entries if e.id == "") and not list(
        tmp_path.glob("*damaged*")
    )


def test_processes_that_find_a_damaged_file_make_one_new_one(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"this was a ledger once" * 200)
    writers(tmp_path / "ledger.db", 4)
    assert len(Ledger(tmp_path / "ledger.db").entries()) == 100
    (aside,) = tmp_path.glob("ledger-damaged-*.db")
    assert aside.read_bytes().startswith(b"this was a ledger once")


def test_threads_share_a_ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    threads = [threading.Thread(target=lambda n=n: ledger.record(entry(n))) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(ledger.entries()) == 8


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A ledger of fifty runs in one file, its log written back."""
    path = tmp_path_factory.mktemp("full") / "ledger.db"
    for number in range(50):
        Ledger(path).record(entry(number))
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_kept_aside_and_rebuilt_from_what_is_known(full, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(full.read_bytes())
    how = data.draw(st.sampled_from(["cut", "header", "page", "garbage"]))
    if how == "cut":
        del content[data.draw(st.integers(1, len(content) - 1)) :]
    elif how == "garbage":
        content[:] = data.draw(st.binary(min_size=1, max_size=9000))
    else:
        start = 0 if how == "header" else data.draw(st.integers(4096, len(content) - 4096))
        content[start : start + 600] = os.urandom(600)
    (folder / "ledger.db").write_bytes(content)
    ledger = Ledger(folder / "ledger.db", lambda: [entry(n) for n in range(50)])
    found = ledger.entries()
    aside = [path.read_bytes() for path in folder.glob("ledger-damaged-*.db")]
    assert aside in ([], [bytes(content)])
    if aside:
        assert found == [entry(n) for n in reversed(range(50))]
    else:  # what was hit may be free space, or the text of a column
        assert {e.id for e in found} == {f"run-{n:04d}" for n in range(50)}
    ledger.record(entry(99))
    assert ledger.entries()[0] == entry(99)
    shutil.rmtree(folder)


def test_an_empty_file_begins_with_the_known_runs(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"")
    assert Ledger(tmp_path / "ledger.db", lambda: [entry(1)]).entries() == [entry(1)]
    assert not list(tmp_path.glob("*damaged*"))


def test_the_log_of_a_damaged_file_does_not_reach_the_new_one(tmp_path, full):
    """A process that was killed leaves ledger.db-wal behind."""
    path = tmp_path / "ledger.db"
    shutil.copyfile(full, path)
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        "db.execute('UPDATE runs SET step = 77'); db.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    log = path.with_name("ledger.db-wal").read_bytes()
    assert log
    with path.open("r+b") as file:
        file.write(b"x" * 100)
    assert Ledger(path, lambda: [entry(1)]).entries() == [entry(1)]
    (aside,) = tmp_path.glob("ledger-damaged-*.db")
    assert aside.with_name(aside.name + "-wal").read_bytes() == log


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path):
    Ledger(tmp_path / "ledger.db").record(entry(1))
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerUnusable, match="version 99"):
        Ledger(tmp_path / "ledger.db").record(entry(2))
    assert not list(tmp_path.glob("*damaged*"))


def test_a_ledger_locked_for_long_is_told_and_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("bp_runs.ledger._BUSY_SECONDS", 0.2)
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record(entry(1))
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnusable, match="locked"):
        ledger.record(entry(2))
    other.execute("ROLLBACK")
    other.close()
    assert ledger.entries() == [entry(1)]


def test_a_home_that_is_a_file_cannot_hold_a_ledger(tmp_path):
    (tmp_path / "home").write_text("mine")
    with pytest.raises(LedgerUnusable):
        Ledger(tmp_path / "home" / "ledger.db").record(entry(1))
    assert (tmp_path / "home").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="Windows permissions work otherwise")
def test_where_nothing_can_be_written_the_ledger_can_still_be_read(tmp_path):
    home = tmp_path / "home"
    ledger = Ledger(home / "ledger.db")
    ledger.record(entry(1))
    home.chmod(0o555)
    (home / "ledger.db").chmod(0o444)
    root = os.geteuid() == 0
    if root:  # root may write anywhere; be somebody else for a moment
        for folder in (tmp_path, *tmp_path.parents):
            folder.chmod(folder.stat().st_mode | 0o055) if folder.stat().st_uid == 0 else None
        os.seteuid(65534)
    try:
        assert ledger.entries() == [entry(1)]
        with pytest.raises(LedgerUnusable):
            ledger.record(entry(2))
    finally:
        if root:
            os.seteuid(0)
        home.chmod(0o755)


def test_a_run_whose_process_died_is_interrupted_and_the_row_stays(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.1)
    began = Owner.this().began
    gone.kill()
    gone.wait()
    ledger = Ledger(tmp_path / "ledger.db")
    rows = {
        "mine": entry(1), "dead": entry(2, pid=gone.pid), "reused": entry(3, pid_began=began - 999),
        "elsewhere": entry(4, host="another", pid=gone.pid), "done": entry(5, pid=gone.pid, status="finished"),
    }  # fmt: skip
    for row in rows.values():
        ledger.record(row)
    shown = {e.id: e.status_now() for e in ledger.entries()}
    assert [shown[row.id] for row in rows.values()] == ["running", "interrupted", "interrupted", "running", "finished"]
    assert ledger.entries() == list(reversed(rows.values()))
