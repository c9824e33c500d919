"""The verbs that look at what came of a training: eval, compare, lm-eval."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_data import ChatTokenizer
from bp_eval import gates
from bp_eval.config import CompareConfig, EvalConfig, HarnessConfig

from ..evaluation import comparison
from ..evaluation import rows as held_out
from ..evaluation.evaluate import evaluate
from ..evaluation.harness import run_tasks
from ..evaluation.rows import Rows
from ..hints import near
from ..models.targets import Target, target
from ..progress import Screen
from . import tables
from .evaluation_tables import show_comparison, show_evaluation, show_tasks
from .quiet import quiet_libraries


def evaluation(settings: Mapping[str, Any], name: str, data: str | None, columns: str, *, json: bool) -> None:
    quiet_libraries()
    config = EvalConfig(**settings)
    held_out.check_data(data, columns)
    with Screen() as screen:
        subject = target(name, config.dtype, screen.notify)

        def rows(tokenizer: ChatTokenizer) -> Rows:
            if data is None:
                return held_out.of_run(tokenizer, subject, config.samples, screen.notify)
            return held_out.given(tokenizer, data, _reading(subject, columns), config.samples, screen.notify)

        found = evaluate(subject, rows, config, screen.notify)
    tables.print_json(found.as_dict()) if json else show_evaluation(found)
    gates.require(found.gates)


def compare(
    settings: Mapping[str, Any], name: str, prompts: Sequence[str], data: str | None, columns: str, *, json: bool
) -> None:
    quiet_libraries()
    config = CompareConfig(**settings)
    held_out.check_data(data, columns)
    if prompts and data:
        raise BadValue("prompts and data are both given: use one of them.")
    with Screen() as screen:
        subject = target(name, config.dtype, screen.notify)

        def rows(tokenizer: ChatTokenizer) -> Rows:
            if data is None:
                return held_out.to_show(tokenizer, subject, screen.notify)
            return held_out.given(tokenizer, data, _reading(subject, columns), None, screen.notify)

        asked = comparison.prompts(prompts, subject) if prompts else comparison.rows_of(rows, config.answers)
        found = comparison.compare(subject, asked, config, screen.notify)
    tables.print_json(found.as_dict()) if json else show_comparison(found)
    for path in found.write(Path(config.output)) if config.output else []:
        print(f"written: {near(path)}", file=sys.stderr)


def lm_eval(settings: Mapping[str, Any], name: str, tasks: str, *, json: bool) -> None:
    quiet_libraries()
    config = HarnessConfig(**settings)
    with Screen() as screen:
        found = run_tasks(target(name, config.dtype, screen.notify), tasks, config, screen.notify)
    tables.print_json(found.as_dict()) if json else show_tasks(found)


def _reading(subject: Target, columns: str) -> TrainConfig:
    """How to read rows that are given: as the run read its own, but for the names of the columns."""
    return replace(subject.settings, columns=columns)
