"""The commands that look at what came of a training: eval, compare, lm-eval."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bp_core.config import DataConfig
from bp_eval import gates
from bp_eval.config import CompareConfig, EvalConfig, HarnessConfig

from ..evaluation.comparison import compare as compare_answers
from ..evaluation.evaluate import evaluate as measure
from ..evaluation.harness import run_tasks
from ..hints import near
from ..progress import Screen
from . import tables
from .evaluation_tables import show_comparison, show_evaluation, show_tasks
from .options import NAME, Json, run_ids, taken, with_options
from .quiet import quiet_libraries

Trained = Annotated[str, typer.Argument(help=f"{NAME} Or a model name.", autocompletion=run_ids)]
_DATA = "Rows with the right answers. Default: those that the run held out."


@with_options(EvalConfig, also=(DataConfig,))
def evaluate(
    settings: dict[str, Any],
    target: Trained,
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    json: Json = False,
) -> None:
    """Measure loss and answers on rows that were not trained on, with 95 % intervals; --gate makes it a test."""
    quiet_libraries()
    reading = taken(DataConfig, settings)
    config = EvalConfig(**settings)
    with Screen() as screen:
        found = measure(target, data, config, screen.notify, **dataclasses.asdict(reading))
    if not json:
        show_evaluation(found)
    with tables.result(found.as_dict(), json):
        gates.require(found.gates)


@with_options(CompareConfig, also=(DataConfig,))
def compare(
    settings: dict[str, Any],
    target: Trained,
    prompt: Annotated[list[str] | None, typer.Option(help="A message to answer; may be repeated.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{_DATA[:-1]}, or else some that it was trained on.")] = None,
    json: Json = False,
) -> None:
    """Show the answers of the base, of what was trained, and of the exported file, side by side."""
    quiet_libraries()
    reading = taken(DataConfig, settings)
    config = CompareConfig(**settings)
    with Screen() as screen:
        found = compare_answers(target, prompt or (), data, config, screen.notify, **dataclasses.asdict(reading))
    tables.print_json(found.as_dict()) if json else show_comparison(found)
    for path in found.write(Path(config.output)) if config.output else []:
        print(f"written: {near(path)}", file=sys.stderr)


@with_options(HarnessConfig)
def lm_eval(
    settings: dict[str, Any],
    target: Trained,
    tasks: Annotated[str, typer.Argument(help="Names of tasks, or YAML files that describe some, with commas.")],
    json: Json = False,
) -> None:
    """Run tasks of lm-evaluation-harness; they come with the extra `lm-eval` of backpropagate."""
    quiet_libraries()
    config = HarnessConfig(**settings)
    with Screen() as screen:
        found = run_tasks(target, tasks, config, screen.notify)
    tables.print_json(found.as_dict()) if json else show_tasks(found)
