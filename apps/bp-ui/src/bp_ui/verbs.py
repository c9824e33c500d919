"""What a job can do: each verb is the function behind the command of that name, with its arguments as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from backpropagate.evaluation.evaluate import evaluate as measure
from backpropagate.export.export import export as write_export
from backpropagate.hub.push import gather
from backpropagate.models import locate
from backpropagate.multi_run.session import multi_run as run_stages
from backpropagate.multi_run.session import resumed
from backpropagate.privacy import disable_telemetry
from backpropagate.progress import progress_line
from backpropagate.replay import resume as resume_run
from backpropagate.trainer import Trainer
from bp_core.config import DataConfig, TrainConfig
from bp_core.environment import from_environment
from bp_core.errors import BadValue
from bp_core.events import Progress
from bp_data import ChatTokenizer
from bp_data.check import check as check_rows
from bp_data.check.config import CheckConfig
from bp_data.split import split as split_file
from bp_eval.config import EvalConfig
from bp_export.config import ExportConfig, PushConfig
from bp_multirun.config import MultiRunConfig

from .memory_limit import limit_memory

Arguments = Mapping[str, Any]
_SECONDS_BETWEEN_LINES = 0.5


def do(verb: str, arguments: Arguments) -> dict[str, Any]:
    """The result of a verb, as JSON. Raises what the function behind it raises."""
    disable_telemetry()
    return _VERBS[verb](arguments)


class ProgressLines:
    """Tells progress as JSON lines on stderr, at most twice a second for a stage."""

    def __init__(self) -> None:
        self._stage, self._told = "", 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        over = progress.total and progress.done >= progress.total
        if progress.stage == self._stage and not over and now - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._stage, self._told = progress.stage, now
        line = {"time": round(time.time(), 3), **progress_line(progress)}
        print(json.dumps(line), file=sys.stderr, flush=True)


def train(arguments: Arguments) -> dict[str, Any]:
    trainer = Trainer(**arguments["settings"])
    return trainer.train(_one_or_many(arguments["data"]), start=arguments.get("start")).as_dict()


def resume(arguments: Arguments) -> dict[str, Any]:
    return resume_run(arguments["run"], None, steps=None, allow_changes=False).as_dict()


def multi_run(arguments: Arguments) -> dict[str, Any]:
    """Stage after stage; of a session that was begun, with `resume`, the rest."""
    if arguments.get("resume"):
        training, merging, data = resumed(arguments["resume"], {}, [])
    else:
        training, merging, data = arguments["settings"], arguments["merging"], arguments["data"]
    config, multi = session_settings(training, merging)
    return run_stages(config, multi, data, Trainer).as_dict()


def session_settings(training: Arguments, merging: Arguments) -> tuple[TrainConfig, MultiRunConfig]:
    """The settings of a session from those that are set; the environment gives others, as on the command line."""
    multi = from_environment("multi-run", MultiRunConfig) | dict(merging)
    return Trainer(**training).config, MultiRunConfig(**multi)


def export(arguments: Arguments) -> dict[str, Any]:
    done = write_export(arguments["target"], ExportConfig(**arguments["settings"]), ProgressLines())
    told = {"path": str(done.path), "format": done.format, "quantization": done.quantization, "bytes": done.bytes}
    parity = done.parity.as_dict() if done.parity else None
    return told | {"parity": parity, "ollama": done.ollama.as_dict() if done.ollama else None}


def evaluate(arguments: Arguments) -> dict[str, Any]:
    config = EvalConfig(**arguments["settings"])
    return measure(arguments["target"], arguments.get("data"), config, ProgressLines()).as_dict()


def check(arguments: Arguments) -> dict[str, Any]:
    limit_memory()
    tell, config = ProgressLines(), CheckConfig(**arguments["settings"])
    tokenizer = None
    if config.model:
        tokenizer = ChatTokenizer.open(locate.locate(config.model, tell)).with_tools(config.tools_template)
    return check_rows(arguments["file"], config, tokenizer, DataConfig(**arguments["reading"]), tell).as_dict()


def split(arguments: Arguments) -> dict[str, Any]:
    limit_memory()
    return split_file(arguments["file"], arguments["held_out"], reading=DataConfig(**arguments["reading"])).as_dict()


def download(arguments: Arguments) -> dict[str, Any]:
    return {"folder": str(locate.locate(arguments["model"], ProgressLines()))}


def push(arguments: Arguments) -> dict[str, Any]:
    shipment = gather(arguments["target"], arguments["repo"], PushConfig(**arguments["settings"]))
    if arguments["dry_run"]:
        return shipment.as_dict() | {"card": shipment.card}
    done = shipment.push()
    return shipment.as_dict() | {"url": done.url, "commit": done.commit}


def _one_or_many(data: list[str]) -> str | list[str]:
    if not data:
        raise BadValue("no data is chosen.", fix="Choose a file of examples.")
    return data[0] if len(data) == 1 else data


_VERBS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "train": train,
    "resume": resume,
    "multi-run": multi_run,
    "export": export,
    "evaluate": evaluate,
    "check": check,
    "split": split,
    "download": download,
    "push": push,
}
