"""Tasks of lm-evaluation-harness (an optional extra), on our models."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.errors import BadValue, HubUnreachable, ModelUnusable, PackageMissing
from bp_core.events import Notify, Progress
from bp_core.rail import Rail
from bp_data import ChatTokenizer
from bp_eval.bootstrap import RESAMPLES
from bp_eval.config import HarnessConfig

from ..models import locate
from ..models.targets import Artifact
from .evaluate import opened

_LONGEST = 2048  # tokens, for models that do not tell theirs


@dataclass(frozen=True)
class HarnessResult:
    """What the tasks gave: by task and metric the value, and its standard error where the task has one."""

    target: str
    version: str
    tasks: Mapping[str, Mapping[str, tuple[float, float | None]]]

    def as_dict(self) -> dict[str, Any]:
        tasks: dict[str, dict[str, Any]] = {}
        for task, metrics in self.tasks.items():
            tasks[task] = {name: {"estimate": value, "stderr": error} for name, (value, error) in metrics.items()}
        return {"target": self.target, "lm_eval": self.version, "tasks": tasks}


def run_tasks(name: str, names: str, config: HarnessConfig, notify: Notify) -> HarnessResult:
    """Run the tasks, names of the harness or YAML files between commas.

    Raises PackageMissing, BadValue for an unknown task, HubUnreachable for one whose rows cannot be had.
    """
    source = Artifact.find(name)
    job = source.reading_job(config.dtype, notify, config.base)
    if importlib.util.find_spec("lm_eval") is None:
        raise PackageMissing('lm-eval is not installed; install it: pip install "backpropagate[lm-eval]".')
    lm_eval, manager = (importlib.import_module(name) for name in ("lm_eval", "lm_eval.tasks"))
    notify(Progress("load the tasks", 0, 0))
    wanted = [name.strip() for name in names.split(",")]
    by_name = any(not Path(name).is_file() for name in wanted)  # else the index of all tasks is not needed
    tasks = _tasks(manager.TaskManager(include_defaults=by_name), wanted)
    settings = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))  # ours stay as they are
    with opened(source.name, job, config.backend, notify) as rail:
        found = lm_eval.simple_evaluate(
            model=_model(rail, job.model, notify),
            tasks=tasks,
            num_fewshot=config.shots,
            limit=config.samples,
            apply_chat_template=config.chat,
            log_samples=False,
            bootstrap_iters=RESAMPLES,
            **settings,
        )
    return HarnessResult(source.name, importlib.metadata.version("lm-eval"), _numbers(found["results"]))


def _tasks(manager: Any, names: Sequence[str]) -> list[Any]:
    """The tasks with their rows. The harness's errors, and those of the libraries that it loads rows with, as ours."""
    try:
        return list(manager.load(list(names))["tasks"].values())
    except (KeyError, ValueError, TypeError) as error:
        fix = "`lm-eval ls tasks` lists the tasks; or name a YAML file that describes one."
        raise BadValue(f"lm-eval cannot load {', '.join(names)}: {_first_line(error)}", fix=fix) from error
    except OSError as error:
        raise HubUnreachable(f"the rows of {', '.join(names)} cannot be had: {_first_line(error)}") from error


def _model(rail: Rail, folder: Path, notify: Notify) -> Any:
    tokenizer = ChatTokenizer.open(folder)
    end = tokenizer.token(tokenizer.eos_token) if tokenizer.eos_token else None
    if end is None:
        raise ModelUnusable("its tokenizer names no eos_token, at which a task would stop.", where=str(folder))
    config = locate.description(folder)
    config = config.get("text_config", config)
    length = config.get("max_position_embeddings") or _LONGEST
    kind = importlib.import_module("bp_eval.lm_harness").RailModel
    return kind(rail, tokenizer, end, length, notify)


def _numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """lm_eval writes "acc,none" beside "acc_stderr,none"; none is the name of a filter of the answers."""
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, filter = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                name = metric if filter == "none" else f"{metric} ({filter})"
                error = values.get(f"{metric}_stderr,{filter}")
                found.setdefault(task, {})[name] = (value, error if isinstance(error, float) else None)
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
