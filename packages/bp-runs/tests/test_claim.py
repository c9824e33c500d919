import json
import os
import signal
import subprocess
import sys

import pytest

from bp_core.errors import RunAlive
from bp_runs import Claim

HOLD = """
import sys, time
from pathlib import Path
from bp_runs import Claim
with Claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the run in `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_another_process_trains_is_not_taken_over(tmp_path, other):
    with pytest.raises(RunAlive, match=f"process {other.pid} on"), Claim(tmp_path):
        pass
    assert other.poll() is None


def test_one_that_was_killed_is(tmp_path, other):
    other.kill()
    other.wait()
    with Claim(tmp_path):
        assert json.loads((tmp_path / "alive.json").read_text())["pid"] == os.getpid()
    with Claim(tmp_path):  # and given back it is free at once
        pass


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no stopped processes on Windows")
def test_a_clock_that_jumps_fools_nobody(tmp_path, other):
    os.kill(other.pid, signal.SIGSTOP)  # it cannot beat
    os.utime(tmp_path / "alive.json", (1, 1))
    with pytest.raises(RunAlive), Claim(tmp_path):
        pass


def test_another_machine_is_believed_as_long_as_it_beats(tmp_path):
    (tmp_path / "alive.json").write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with pytest.raises(RunAlive, match="process 7 on elsewhere"), Claim(tmp_path):
        pass
    os.utime(tmp_path / "alive.json", (1, 1))
    with Claim(tmp_path):
        pass


def test_the_file_that_says_so_is_named(tmp_path):
    alive = tmp_path / "alive.json"
    alive.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with pytest.raises(RunAlive) as caught, Claim(tmp_path):
        pass
    assert caught.value.where == str(alive) and "remove this file" in caught.value.fix


def test_a_beat_in_the_future_is_nobodys(tmp_path):
    alive = tmp_path / "alive.json"
    alive.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    os.utime(alive, (2**31, 2**31))
    with Claim(tmp_path):
        assert json.loads(alive.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("torn", ["", "{", '{"host": "x"}', "[]"])
def test_a_file_without_a_name_in_it_holds_nobody_back(tmp_path, torn):
    (tmp_path / "alive.json").write_text(torn)
    with Claim(tmp_path):
        pass
