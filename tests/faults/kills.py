"""kill -9 at random moments; every run is resumed and must end with the bytes of one that was never killed."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from bp_runs import history

from .runs import Child, begun, ended, finish, same, training


def kill_often(count, model, rows, folder, reference, seed=0):
    """Kill `count` times; where the kills fell, by stage."""
    draw, fell = random.Random(seed), Counter()
    before, during = _durations(model, rows, folder)
    number = 0
    while fell.total() < count:
        number += 1
        output, log = folder / f"kill-{number}", folder / "kill.log"
        for _ in range(draw.choice([1, 1, 2, 3])):
            stage = _kill_once(training(model, rows, output, begun(output)), output, log, draw, before, during)
            if stage is None:  # it had ended: nothing was killed, so runs are shorter than was thought
                during *= 0.9
                break
            fell[stage] += 1
            if ended(output):
                break
        finish(model, rows, output, log)
        same(output, reference)
    told = {entry.folder: entry.status for entry in history.entries()}
    for path in folder.glob("kill-*/runs/*/"):
        assert told[str(path)] == "finished", f"the ledger says of {path}: {told[str(path)]}"
    return fell


def _durations(model, rows, folder):
    """Seconds of a whole run before and after training starts."""
    child = Child(training(model, rows, folder / "timed", resume=False), folder / "timed.log")
    began = time.monotonic()
    assert child.wait_for(b"S"), child.said()
    started = time.monotonic()
    assert child.end() == 0, child.said()
    return started - began, time.monotonic() - started


def _kill_once(work, output, log, draw, before, during):
    """Start, kill at a random moment; the stage it fell into, None if the run had ended."""
    child = Child(work, log)
    if draw.random() < 0.1:
        time.sleep(draw.random() * before)
    elif child.wait_for(b"S"):
        time.sleep(draw.random() * during)
    os.kill(child.pid, signal.SIGKILL)
    code = child.end()
    if code == 0:
        return None
    assert code == -signal.SIGKILL, child.said()
    return _stage(Path(output), child.told)


def _stage(output, told):
    run = next((path.parent for path in output.glob("runs/*/run.json")), None)
    if run is None or b"S" not in told:
        return "before training"
    if b"F" in told:
        return "publishing and the end"
    if any((run / "checkpoints").glob(".step-*")):
        return "writing a checkpoint"
    return "a step, an evaluation, a record"
