"""The commands that look at what came of a training: eval, compare, lm-eval."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_core.config import DataConfig
from bp_core.units import counted
from bp_eval import gates
from bp_eval.bootstrap import Interval
from bp_eval.config import CompareConfig, EvalConfig, HarnessConfig
from bp_eval.gates import LOWER_IS_BETTER, NEITHER, NO_CALL, OF_ANSWERS, OF_PAIRS, OF_THOUGHTS, OF_TOOLS
from bp_eval.measures import FEW, Baseline, Evaluation

from ..evaluation.comparison import Comparison
from ..evaluation.comparison import compare as compare_answers
from ..evaluation.evaluate import evaluate as measure
from ..evaluation.harness import HarnessResult, run_tasks
from ..hints import near
from ..progress import Screen
from . import tables
from .options import NAME, Json, run_ids, taken, with_options

Trained = Annotated[str, typer.Argument(help=f"{NAME} Or a model name.", autocompletion=run_ids)]
_PROMPT = 300  # characters of a prompt on the screen: its end
_TOOL_ROWS = ("rows with a call", "rows without a call")
_DATA = "Rows with the right answers. Default: those that the run held out."


@with_options(EvalConfig, also=(DataConfig,))
def evaluate(
    settings: dict[str, Any],
    target: Trained,
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    json: Json = False,
) -> None:
    """Measure loss and answers on rows that were not trained on, with 95 % intervals; --gate makes it a test."""
    reading = taken(DataConfig, settings)
    config = EvalConfig(**settings)
    with Screen() as screen:
        found = measure(target, data, config, screen.notify, **dataclasses.asdict(reading))
    if not json:
        _show_evaluation(found)
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
    reading = taken(DataConfig, settings)
    config = CompareConfig(**settings)
    with Screen() as screen:
        found = compare_answers(target, prompt or (), data, config, screen.notify, **dataclasses.asdict(reading))
    tables.print_json(found.as_dict()) if json else _show_comparison(found)
    if config.output:
        for path in found.write(Path(config.output)):
            print(f"written: {near(path)}", file=sys.stderr)


@with_options(HarnessConfig)
def lm_eval(
    settings: dict[str, Any],
    target: Trained,
    tasks: Annotated[str, typer.Argument(help="Names of tasks, or YAML files that describe some, with commas.")],
    json: Json = False,
) -> None:
    """Run tasks of lm-evaluation-harness; they come with the extra `lm-eval` of backpropagate."""
    config = HarnessConfig(**settings)
    with Screen() as screen:
        found = run_tasks(target, tasks, config, screen.notify)
    tables.print_json(found.as_dict()) if json else _show_tasks(found)


def _show_evaluation(found: Evaluation) -> None:
    """The numbers with their intervals, then every gate."""
    console = Console(highlight=False)
    cut = f", {found.truncated} of the rows read were cut to fit" if found.truncated else ""
    asked = f", answers to {len(found.questions)} of them" if found.questions else ", no answers"
    console.print(
        f"{counted(found.rows, 'row')}, {counted(found.tokens, 'token')} with loss{asked}{cut}: {found.source}",
        soft_wrap=True,
    )
    console.print(_measures(found))
    for remark in _remarks(found):
        console.print(f"[yellow]Note:[/] {remark}", soft_wrap=True)
    for judged in found.gates:
        mark = "[green]✓[/]" if judged.holds else "[red]✗[/]"
        console.print(f"{mark} {escape(judged.message())}", soft_wrap=True)


def _show_comparison(found: Comparison) -> None:
    """Each question with its answers beneath one another; the page that is written has them side by side."""
    console = Console(highlight=False)
    console.print(f"questions: {len(found.questions)}, {found.source}", soft_wrap=True)
    for question, *answers in zip(found.questions, *found.answers.values(), strict=True):
        asked = question.asked or question.text[-_PROMPT:]
        console.print(f"\n[bold]{escape(tables.visible(asked.strip()))}[/]")
        texts = [escape(tables.visible(answer)) for answer in answers]
        console.print(tables.facts(*zip(found.answers, texts, strict=True)))


def _show_tasks(found: HarnessResult) -> None:
    """What each task of lm-evaluation-harness gave."""
    table = Table("task", "metric", escape(found.target), "standard error")
    for task, metrics in found.tasks.items():
        for name, (value, error) in metrics.items():
            table.add_row(task, name, f"{value:.4g}", "" if error is None else f"± {error:.2g}")
    Console(highlight=False).print(table)


def _measures(found: Evaluation) -> Table:
    other = found.against
    heads = [escape(found.target), *([escape(other.name), "change", ""] if other else [])]
    table = Table("", *heads, title="estimate [95 % interval]", title_justify="left")
    for name, interval in found.measures.items():
        few = _rows_of(name, found) < FEW
        compared = [_number(other.measures[name]), *_change(name, other, few)] if other else []
        table.add_row(name, _number(interval), *compared)
    return table


def _rows_of(name: str, found: Evaluation) -> int:
    """How many rows, or answers, a measure is over."""
    if name in OF_TOOLS and found.tools:
        without = len(found.tools.questions) - found.tools.with_call
        return without if name == NO_CALL else found.tools.with_call
    return len(found.questions) if name in OF_ANSWERS + OF_THOUGHTS else found.rows


def _change(name: str, other: Baseline, few: bool) -> tuple[str, str]:
    change = other.change[name]
    if few:
        return _number(change, sign="+"), "too few rows to say"
    if not change.excludes(0.0):
        return _number(change, sign="+"), "not clear"
    if name in NEITHER:
        return _number(change, sign="+"), "other"
    better = (change.estimate < 0) == (name in LOWER_IS_BETTER)
    return _number(change, sign="+"), "[green]better[/]" if better else "[red]worse[/]"


def _remarks(found: Evaluation) -> list[str]:
    answers = len(found.questions)
    counted = dict.fromkeys(OF_PAIRS, (found.rows, "pairs")) | dict.fromkeys(OF_ANSWERS, (answers, "answers"))
    counted |= {name: (_rows_of(name, found), _TOOL_ROWS[name == NO_CALL]) for name in OF_TOOLS}
    remarks = list(found.notes)
    remarks += [
        f"intervals from {count} {what} are too narrow; from {FEW} on they can be relied on."
        for what, count in {"rows": found.rows, "answers": answers}.items()
        if 0 < count < FEW
    ]
    for count, what in dict.fromkeys(counted.values()):
        same = [name for name in counted if counted[name] == (count, what) and _spreadless(found.measures.get(name))]
        if same:  # Hanley and Lippman-Hand 1983, the rule of three
            remarks.append(
                f"{', '.join(same)}: the same for all {count} {what}, which shows no spread; "
                f"of others up to {min(1, 3 / count):.0%} may differ."
            )
    return remarks


def _spreadless(share: Interval | None) -> bool:
    return share is not None and share.low == share.high and share.low in (0, 1)


def _number(found: Interval, sign: str = "") -> str:
    between = escape(f"[{found.low:{sign}.4g}, {found.high:{sign}.4g}]")
    return f"{found.estimate:{sign}.4g}\n[dim]{between}[/]"
