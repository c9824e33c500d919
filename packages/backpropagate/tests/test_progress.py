"""What is shown while something runs: a bar where somebody looks, plain lines in a log, or JSON; on stderr alone."""

import json
import os
import pty
import subprocess
import sys

import pytest

from backpropagate import progress as module
from backpropagate.progress import Screen
from bp_core.errors import BadValue
from bp_core.events import Checkpointed, Progress, Started, Stepped, Warned
from bp_core.rail import Memory


def stepped(step):
    return Stepped(step, 2.0, 0.1, 1.0, 100, 40, 0.5, Memory(5, 6, 7), 61.0)


def test_away_from_a_terminal_people_read_plain_lines(capsys):
    with Screen() as screen:
        screen.notify(Progress("tokenise", 0, 2))
        watch = screen.showing("run-1")
        for event in (Started(0, 2), stepped(1), stepped(2), Checkpointed(2, "/x"), Warned(2, "look")):
            watch(event)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "tokenise …",
        "training: 2 steps",
        "step 1/2 · loss 2.000 · 200 tokens/s · 0.0 GiB · 61 °C · 0:00 left",
        "step 2/2 · loss 2.000 · 200 tokens/s · 0.0 GiB · 61 °C · 0:00 left",
        "checkpoint after step 2",
        "Warning: look",
    ]


def test_another_log_format_is_refused(monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_LOG_FORMAT", "xml")
    with pytest.raises(BadValue, match="BACKPROPAGATE_LOG_FORMAT is 'xml'"):
        Screen()


@pytest.fixture
def lines(capsys, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_LOG_FORMAT", "json")

    def read():
        said = capsys.readouterr()
        assert said.out == ""
        return [json.loads(line) for line in said.err.splitlines()]

    return read


def test_as_json_events_are_lines_with_the_run(lines):
    with Screen() as screen:
        screen.notify(Progress("tokenise", 1, 2))
        watch = screen.showing("run-1")
        for event in (Started(0, 10), stepped(1), stepped(2), Checkpointed(2, "/x"), Warned(2, "look")):
            watch(event)
    found = lines()
    assert [line["event"] for line in found] == ["Progress", "Started", "Stepped", "Checkpointed", "Warned"]
    assert "run" not in found[0] and {line["run"] for line in found[1:]} == {"run-1"}
    assert all(line["time"] > 1e9 for line in found)
    assert found[2]["tokens_per_second"] == 200.0 and found[2]["seconds_left"] == 4.5


def test_steps_come_at_a_bounded_rate(lines, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with Screen() as screen:
        screen.watch(Started(0, 1000))
        for step in range(1, 101):
            now += 1.0
            screen.watch(stepped(step))
    assert [line["step"] for line in lines() if line["event"] == "Stepped"] == [1, 12, 23, 34, 45, 56, 67, 78, 89, 100]


def test_secrets_do_not_reach_the_log(lines):
    token = "hf_" + "a1B2" * 9
    with Screen() as screen:
        screen.watch(Warned(1, f"download with {token} failed"))
    assert token not in json.dumps(lines())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_there_is_a_bar_with_speed_and_time_left():
    code = (
        "from backpropagate.progress import Screen\nfrom test_progress import stepped\nfrom bp_core.events import *\n"
        "with Screen() as s:\n    w = s.showing('r'); w(Started(0, 100)); w(stepped(40)); w(Warned(40, 'odd [x]'))\n"
        "    s._bars.refresh()\n"
    )
    mine, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__), "TERM": "xterm", "COLUMNS": "140"}
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = os.read(mine, 100_000).decode()
    assert done.returncode == 0 and done.stdout == b""
    assert (
        "40/100 · loss 2.000 · 200 tokens/s" in shown and "61 °C · 0:30 left" in shown and "Warning: odd [x]" in shown
    )
