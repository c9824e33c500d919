"""The commands that look at what came of a training: eval, compare, lm-eval."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_data import ChatTokenizer
from bp_eval import gates
from bp_eval.config import CompareConfig, EvalConfig, HarnessConfig

from ..evaluation import comparison
from ..evaluation import rows as held_out
from ..evaluation.evaluate import evaluate as measure
from ..evaluation.harness import run_tasks
from ..evaluation.rows import Rows
from ..hints import near
from ..models.targets import Target
from ..models.targets import target as find_target
from ..progress import Screen
from . import tables
from .evaluation_tables import show_comparison, show_evaluation, show_tasks
from .options import Columns, Json, run_ids, with_options
from .quiet import quiet_libraries

Trained = Annotated[
    str,
    typer.Argument(help="A run's id, an output, adapter or model folder, or a model name.", autocompletion=run_ids),
]
_DATA = "Rows with the right answers. Default: those that the run held out."


@with_options(EvalConfig)
def evaluate(
    settings: dict[str, Any],
    target: Trained,
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    columns: Columns = TrainConfig.columns,
    json: Json = False,
) -> None:
    """Measure loss and answers on rows that were not trained on, with 95 % intervals; --gate makes it a test."""
    quiet_libraries()
    config = EvalConfig(**settings)
    held_out.check_data(data, columns)
    with Screen() as screen:
        subject = find_target(target, config.dtype, screen.notify)

        def rows(tokenizer: ChatTokenizer) -> Rows:
            if data is None:
                return held_out.of_run(tokenizer, subject, config.samples, screen.notify)
            return held_out.given(tokenizer, data, _reading(subject, columns), config.samples, screen.notify)

        found = measure(subject, rows, config, screen.notify)
    if not json:
        show_evaluation(found)
    with tables.result(found.as_dict(), json):
        gates.require(found.gates)


@with_options(CompareConfig)
def compare(
    settings: dict[str, Any],
    target: Trained,
    prompt: Annotated[list[str] | None, typer.Option(help="A message to answer; may be repeated.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{_DATA[:-1]}, or else some that it was trained on.")] = None,
    columns: Columns = TrainConfig.columns,
    json: Json = False,
) -> None:
    """Show the answers of the base, of what was trained, and of the exported file, side by side."""
    quiet_libraries()
    config = CompareConfig(**settings)
    held_out.check_data(data, columns)
    prompts = prompt or []
    if prompts and data:
        raise BadValue("prompts and data are both given: use one of them.")
    with Screen() as screen:
        subject = find_target(target, config.dtype, screen.notify)

        def rows(tokenizer: ChatTokenizer) -> Rows:
            if data is None:
                return held_out.to_show(tokenizer, subject, screen.notify)
            return held_out.given(tokenizer, data, _reading(subject, columns), None, screen.notify)

        asked = comparison.prompts(prompts, subject) if prompts else comparison.rows_of(rows, config.answers)
        found = comparison.compare(subject, asked, config, screen.notify)
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
        found = run_tasks(find_target(target, config.dtype, screen.notify), tasks, config, screen.notify)
    tables.print_json(found.as_dict()) if json else show_tasks(found)


def _reading(subject: Target, columns: str) -> TrainConfig:
    """How to read rows that are given: as the run read its own, but for the names of the columns."""
    return replace(subject.settings, columns=columns)
