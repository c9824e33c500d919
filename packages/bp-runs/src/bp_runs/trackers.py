"""Trackers (TensorBoard, wandb, …): each reads a run's events.jsonl in a process of its own, so it cannot harm the run.

`python -m bp_runs.trackers NAME RUN_FOLDER OFFSET` reads from byte OFFSET until its standard input is closed, by the
training process or by its end.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from bp_core.errors import Interrupted
from bp_core.events import Evaluated, Failed, Finished, Started, Stepped

from .event_log import EVENTS_FILE
from .lock_file import Lock
from .summary import FAILED, FINISHED, INTERRUPTED

PROJECT = "backpropagate"
_SECONDS_BETWEEN_READS = 0.5
_GROUPS = {Stepped.__name__: "train", Evaluated.__name__: "eval"}  # events whose numbers are tracked


class Tracker(Protocol):
    """What is used of a tracker. `finish` takes the status: finished, failed or interrupted."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def finish(self, status: str) -> None: ...


@dataclass(frozen=True)
class Kind:
    """A kind of tracker: the module it needs, the package to install, where it writes, and how it is opened."""

    module: str
    package: str
    place: str
    open: Callable[[str, Path, Mapping[str, Any]], Tracker]


class _TensorBoard:
    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._writer = import_module("tensorboard.summary").Writer(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, status: str) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """Online if the user is logged in, else offline; `wandb sync` sends the folder later."""

    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        wandb = import_module("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run,
            name=run,
            dir=folder,
            config=dict(settings),
            resume="allow",
            mode=mode,
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == FINISHED else 1)


class _MLflow:
    """At MLFLOW_TRACKING_URI or MLflow's default. A resumed run is found by its tag."""

    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._entities = import_module("mlflow.entities")
        self._client = import_module("mlflow.tracking").MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        tag = f"{PROJECT}.run"
        found = self._client.search_runs([experiment], f"tags.`{tag}` = '{run}'")
        made = found[0] if found else self._client.create_run(experiment, tags={tag: run}, run_name=run)
        self._id = made.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        if not found:
            parameters = [self._entities.Param(key, str(value)) for key, value in settings.items()]
            self._client.log_batch(self._id, params=parameters)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def finish(self, status: str) -> None:
        names = {FINISHED: "FINISHED", INTERRUPTED: "KILLED", FAILED: "FAILED"}
        self._client.set_terminated(self._id, names[status])


class _Trackio:
    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        trackio = import_module("trackio")
        self._run = trackio.init(project=PROJECT, name=run, config=dict(settings), resume="allow", embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, status: str) -> None:
        self._run.finish()


KINDS = {
    "tensorboard": Kind("tensorboard", "tensorboard", "<run folder>/tensorboard", _TensorBoard),
    "wandb": Kind("wandb", "wandb", "<run folder>/wandb", _WeightsAndBiases),
    "mlflow": Kind("mlflow", "mlflow", "MLFLOW_TRACKING_URI", _MLflow),
    "trackio": Kind("trackio", "trackio", "trackio's own folder", _Trackio),
}
# These write to the run's own folder and nowhere else; the others may send what they get to a server.
LOCAL = ("tensorboard",)


def follow(kind: Kind, folder: Path, offset: int, closed: threading.Event) -> None:
    """Send the events after byte `offset` of the run in `folder` to a tracker until `closed` is set."""
    lock = Lock.read(folder)
    settings = {name: value for name, value in lock.recipe.items() if name != "why"}
    tracker = kind.open(lock.run, folder, settings | {"data_sha256": lock.hashes["data"]})
    status = INTERRUPTED
    for event in events(folder / EVENTS_FILE, offset, closed):
        status = status_after(event, status)
        if values := numbers(event):
            tracker.log(event["step"], values)
    tracker.finish(status)


def events(path: Path, offset: int, closed: threading.Event) -> Iterator[dict[str, Any]]:
    """The events of a growing file, as they are written; the last ones after `closed` is set."""
    while not path.is_file() and not closed.wait(_SECONDS_BETWEEN_READS):
        pass
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(offset)
        last = b""
        while True:
            over = closed.is_set()
            for line in iter(file.readline, b""):
                last += line
                if last.endswith(b"\n"):
                    yield json.loads(last)
                    last = b""
            if over:
                return
            closed.wait(_SECONDS_BETWEEN_READS)


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event, by tracker name: train/loss, train/memory_used and so on."""
    group = _GROUPS.get(event["event"])
    if group is None:
        return {}
    flat: dict[str, Any] = {}
    for name, value in event.items():
        parts = value.items() if isinstance(value, Mapping) else ()
        flat |= {f"{name}_{part}": number for part, number in parts} or {name: value}
    if event.get("seconds"):
        flat["tokens_per_second"] = event.get("tokens", 0) / event["seconds"]
    kept: dict[str, float] = {}
    for name, value in flat.items():
        if isinstance(value, int | float) and name not in ("step", "time") and math.isfinite(value):
            kept[f"{group}/{name}"] = float(value)
    return kept


def status_after(event: Mapping[str, Any], status: str) -> str:
    """The run's status after an event, given that before it."""
    if event["event"] == Failed.__name__:
        return INTERRUPTED if event["code"] == Interrupted.code else FAILED
    return {Finished.__name__: FINISHED, Started.__name__: INTERRUPTED}.get(event["event"], status)


def main(name: str, folder: str, offset: str) -> None:
    closed = threading.Event()

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # sys.stdin.read would hold a lock at interpreter exit
            pass
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    follow(KINDS[name], Path(folder), int(offset), closed)


if __name__ == "__main__":
    main(*sys.argv[1:])
