"""Jobs: folders that outlive the server, their queue, their errors."""

import errno
import gzip
import json
import os
import time

import pytest

from bp_core.errors import DeviceBusy, TargetNotFound
from bp_core.folders import write_json
from bp_runs.claim import Owner
from bp_ui import verbs
from bp_ui.job import main
from bp_ui.jobs import ERROR, EXIT, OWNER, Jobs


@pytest.fixture
def jobs(home):
    jobs = Jobs(home / "jobs")
    yield jobs
    for child in jobs._children:
        child.wait(60)


def made(jobs, verb="train", **files):
    """A job that nobody does."""
    job = jobs._create(verb, f"my {verb}", {}, jobs.place)
    for name, value in files.items():
        write_json(job.folder / f"{name}.json", value)
    return job


def ended(job, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (job.folder / EXIT).exists():
        time.sleep(0.1)
    return job.state()


GONE = vars(Owner.this()) | {"pid": 2**22 + 1}


def test_how_a_job_stands_is_read_off_its_folder(jobs):
    here = vars(Owner.this())
    assert made(jobs).state() == "waiting"
    assert made(jobs, owner=here).state() == "waiting"
    assert made(jobs, owner=here, begun={}).state() == "running"
    assert made(jobs, owner=GONE, begun={}).state() == "interrupted"
    assert made(jobs, owner=GONE, exit={"code": 0}).state() == "finished"
    assert made(jobs, owner=GONE, exit={"code": 2}).state() == "failed"
    assert made(jobs, owner=GONE, exit={"code": 130}).state() == "interrupted"
    late = made(jobs)
    write_json(late.folder / "job.json", json.loads((late.folder / "job.json").read_text()) | {"time": 0})
    assert jobs.find(late.id).state() == "interrupted", "its process never came"


def test_the_order_of_jobs_is_that_of_their_ids(jobs):
    ids = [made(jobs).id for _ in range(5)]
    assert ids == sorted(ids) and [job.id for job in jobs.all()] == ids[::-1]


def test_a_second_job_for_the_device_is_refused_or_waits(jobs, home):
    first = made(jobs, owner=vars(Owner.this()), begun={})
    with pytest.raises(DeviceBusy, match="my train uses the device") as refused:
        jobs.start("export", "my export", {}, home.parent / "work")
    assert refused.value.result == {"job": first.id}
    second = jobs.start("export", "my export", {"target": "nothing", "settings": {}}, home.parent / "work", queue=True)
    until = time.monotonic() + 30
    while time.monotonic() < until and not (second.folder / OWNER).exists():
        time.sleep(0.1)
    assert second.state() == "waiting"
    write_json(first.folder / EXIT, {"code": 0})
    assert ended(second) == "failed" and second.error["code"] == "INPUT_TARGET_NOT_FOUND"


def test_a_job_that_waits_can_be_cancelled(jobs, home):
    made(jobs, owner=vars(Owner.this()), begun={})
    job = jobs.start("train", "another", {}, home.parent / "work", queue=True)
    until = time.monotonic() + 30
    while time.monotonic() < until and not (job.folder / OWNER).exists():
        time.sleep(0.1)
    job.stop()
    assert ended(job) == "interrupted"


def test_not_more_than_a_few_jobs_are_open(jobs, home):
    for _ in range(20):
        made(jobs, "check", owner=vars(Owner.this()))
    with pytest.raises(DeviceBusy, match="20 jobs are open"):
        jobs.start("check", "one more", {}, home)


@pytest.mark.parametrize("name", ["", "..", "x", "20260101-000000-abcd"])
def test_a_job_that_there_is_not_is_not_found(jobs, name):
    with pytest.raises(TargetNotFound):
        jobs.find(name)


def test_a_file_that_vanished_is_told_as_the_command_line_tells_it(jobs, monkeypatch):
    job = made(jobs)

    def vanished(verb, arguments):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "lora/contract.json")

    monkeypatch.setattr(verbs, "do", vanished)
    assert main(job.folder) == 1
    error = json.loads((job.folder / ERROR).read_text())
    assert error["code"] == "INPUT_FILE_NOT_FOUND" and error["where"] == "lora/contract.json"


def test_a_file_that_expands_without_end_is_an_error_of_the_file(browser, app, tmp_path):
    with gzip.open(tmp_path / "work" / "bomb.jsonl.gz", "wb", compresslevel=6) as file:
        file.write(b'{"text": "')
        for _ in range(100):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n')
    answer = browser.post("/data-check", json={"address": "here/bomb.jsonl.gz"}).json()
    job = app.state.site.jobs.find(answer["job"])
    assert ended(job) == "failed" and job.error["code"] == "INPUT_FILE_TOO_LARGE"
    shown = browser.get("/data/here/bomb.jsonl.gz").text
    assert "INPUT_FILE_TOO_LARGE" in shown
    assert browser.get(f"/jobs/{job.id}/state").json()["error"]["code"] == "INPUT_FILE_TOO_LARGE"
