"""Runs as a training leaves them, written without the training."""

import re
import time

from starlette.routing import Route

from bp_core.config import TrainConfig
from bp_core.events import Evaluated, Finished, Started, Stepped
from bp_core.rail import Memory
from bp_core.recipe import Recipe
from bp_runs import EventLog, history, lock_file
from bp_runs.run_folder import create

PORT = 7862
ADDRESS = f"http://127.0.0.1:{PORT}"
JSON = {"content-type": "application/json"}


def written_run(output, name="bakery", steps=20, status="finished"):
    recipe = dict(
        steps=steps, rank=8, alpha=16.0, learning_rate=1e-3, batch_size=4, micro_batch=4, max_length=64, warmup_steps=1
    )  # fmt: skip
    made = vars(Recipe(name=name, **recipe)) | {"why": {"learning_rate": "for a model 576 wide"}}
    run = create(output, recipe=made, settings={"model": "smollm2-135m"}, data="rows.jsonl", base=str(output), facts={})
    values = {"run": run.id, "data": "rows.jsonl", "settings": vars(TrainConfig()), "recipe": made}
    lock_file.Lock(**values, hashes={"data": "0" * 64}, packages={}, hardware={}).write(run.path)
    log = EventLog(run.path)
    log.watch(Started(0, steps))
    for step in range(1, steps + 1):
        log.watch(Stepped(step, 2 / step, 1e-3, 1.0, 40, 20, 0.5, Memory(1 << 30, 2 << 30, 8 << 30)))
    log.watch(Evaluated(steps, 0.5, 1.6, 20, True))
    if status == "finished":
        log.watch(Finished(steps, 0.1, 800, 400, 10.0, 2 << 30))
    run.write(status=status, started=time.time())
    summary, last = history.summed(run)
    history.ledger().record(history.entry_of(run, summary, status, last))
    return run


def wait_for_children(jobs):
    """Let the processes of jobs end, so that none outlives its test."""
    for job in jobs.all():
        job.stop()
    for child in jobs._children:
        child.wait(60)


def posts(app):
    """The addresses that change something, with names in them that there are not."""
    names = {"run": "20260101-000000-abcd", "job": "20260101-000000-abcd"}
    found = [route.path for route in app.routes if isinstance(route, Route) and "POST" in route.methods]
    return [re.sub(r"\{(\w+)[^}]*\}", lambda match: names[match[1]], path) for path in found]


def filled(path, run):
    names = {"run": run.id, "job": "20260101-000000-abcd", "address": "here/rows.jsonl"}
    return re.sub(r"\{(\w+)[^}]*\}", lambda match: names[match[1]], path)
