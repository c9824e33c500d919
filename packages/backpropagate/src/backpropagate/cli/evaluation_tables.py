"""What a person reads after an evaluation, and answers side by side on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_eval.bootstrap import Interval
from bp_eval.gates import OF_ANSWERS, OF_LOSS, OF_PAIRS
from bp_eval.measures import FEW, Baseline, Evaluation

from ..evaluation.comparison import Comparison
from ..evaluation.harness import HarnessResult
from .tables import visible

_PROMPT = 300  # characters of a prompt on the screen: its end


def show_evaluation(found: Evaluation) -> None:
    """The numbers with their intervals, then every gate."""
    console = Console(highlight=False)
    cut = f", {found.truncated} of the rows read were cut to fit" if found.truncated else ""
    asked = f", answers to {len(found.questions)} of them" if found.questions else ", no answers"
    console.print(f"{found.rows} rows, {found.tokens} tokens with loss{asked}{cut}: {found.source}", soft_wrap=True)
    console.print(_measures(found))
    for remark in _remarks(found):
        console.print(f"[yellow]Note:[/] {remark}", soft_wrap=True)
    for judged in found.gates:
        mark = "[green]✓[/]" if judged.holds else "[red]✗[/]"
        console.print(f"{mark} {escape(judged.message())}", soft_wrap=True)


def show_comparison(found: Comparison) -> None:
    """Each question with its answers beneath one another; the page that is written has them side by side."""
    console = Console(highlight=False)
    console.print(f"questions: {len(found.questions)}, {found.source}", soft_wrap=True)
    for question, *answers in zip(found.questions, *found.answers.values(), strict=True):
        console.print(f"\n[dim]{escape(visible(question.text[-_PROMPT:].strip()))}[/]")
        table = Table(show_header=False, box=None, pad_edge=False)
        for who, answer in zip(found.answers, answers, strict=True):
            table.add_row(f"[bold]{who}[/]", escape(visible(answer)))
        console.print(table)


def show_tasks(found: HarnessResult) -> None:
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
    for name, measure in found.measures.items():
        compared = [_number(other.measures[name]), *_change(name, other)] if other else []
        table.add_row(name, _number(measure), *compared)
    return table


def _change(name: str, other: Baseline) -> tuple[str, str]:
    change = other.change[name]
    if not change.excludes(0.0):
        return _number(change, sign="+"), "not clear"
    better = (change.estimate < 0) == (name in OF_LOSS)
    return _number(change, sign="+"), "[green]better[/]" if better else "[red]worse[/]"


def _remarks(found: Evaluation) -> list[str]:
    answers = len(found.questions)
    counted = dict.fromkeys(OF_PAIRS, (found.rows, "pairs")) | dict.fromkeys(OF_ANSWERS, (answers, "answers"))
    remarks = [
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
