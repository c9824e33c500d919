"""SIGINT and SIGTERM, once and twice, at each stage of `backprop train`: nothing lost, no traceback, a way to go on."""

import os
import random
import re
import shlex
import signal
import sys
import time
from collections import Counter

from backpropagate.cli import app

from .runs import SETTINGS, STEPS, Child, ended, finish, same

TOLD = r"fix: Go on with: (?:uv run )?backprop (resume .*)"
STAGES = ("preparing data", "loading the model", "training", "writing a checkpoint", "publishing")


def stop_everywhere(count, model, rows, folder, reference, seed=0):
    """Stop `count` runs at random moments, in turn with each signal, once or twice; where the stops fell."""
    draw, fell = random.Random(seed), Counter()
    options = {**SETTINGS, "model": model, "data": rows, "steps": STEPS}
    seconds = None
    for number in range(count + 1):
        output, log = folder / f"stop-{number}", folder / "stop.log"
        words = ["train", "--output", str(output)]
        words += [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        began = time.monotonic()
        child = Child(command(words), log)
        if seconds is None:  # the first is only timed
            assert child.end() == 0, child.said()
            seconds = time.monotonic() - began
            continue
        assert child.wait_for(b"r"), child.said()
        time.sleep(0.05 + draw.random() * seconds)  # not while Python itself starts
        stage, sent = _stage(output), (signal.SIGINT, signal.SIGTERM)[number % 2]
        os.kill(child.pid, sent)
        if number % 4 >= 2:
            time.sleep(draw.random() * 0.05)
            os.kill(child.pid, sent)
        _check(child, child.end(), output, log)
        _go_on(child.said(), model, rows, output, log)
        same(output, reference)
        fell[stage] += 1
    return fell


def command(words):
    """Work for a child: `backprop` with these words."""

    def work(tell):
        sys.argv = ["backprop", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell(b"r")
        try:
            app.main()
        except SystemExit as end:
            return end.code

    return work


def _check(child, code, output, log):
    said = child.said()
    assert "Traceback" not in re.sub(r"Exception ignored in: .*\nTraceback", "", said), said
    assert code in (0, 130), f"{code}: {said}"
    if code == 130 and any(output.glob("runs/*/events.jsonl")) and not ended(output):
        assert re.search(TOLD, said), said


def _go_on(said, model, rows, output, log):
    """By the very command that was told, where one was."""
    if (told := re.search(TOLD, said)) and not ended(output):
        child = Child(command(shlex.split(told[1])), log)
        assert child.end() == 0, child.said()
    else:
        finish(model, rows, output, log)


def _stage(output):
    run = next((path.parent for path in output.glob("runs/*/run.json")), None)
    if run is None:
        return STAGES[0]
    events = (run / "events.jsonl").read_text() if (run / "events.jsonl").exists() else ""
    if "Started" not in events:
        return STAGES[1]
    if "Finished" in events:
        return STAGES[4]
    return STAGES[3] if any((run / "checkpoints").glob(".step-*")) else STAGES[2]
