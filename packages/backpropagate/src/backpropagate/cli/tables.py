"""What a person reads when something is done: tables on stdout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_core.errors import BackpropagateError
from bp_core.recipe import Recipe
from bp_core.units import gigabytes, short
from bp_export import Export, Parity
from bp_export.ollama import RegistrationResult
from bp_plan.plan import Plan
from bp_plan.preflight import Preflight

from ..hints import command, near
from ..training.planning import Outlook
from ..training.run import Run

# Of the forms of a model; another one is named after what its base is kept in.
_LABELS = {"base": "base model", "adapter": "trained", "merged": "merged, f16 GGUF", "final": "this file"}

# What would steer the terminal is shown instead: ␛ for an escape.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: "␡"}


def visible(text: str) -> str:
    """Text of unknown origin, safe to print on a terminal."""
    return text.translate(_VISIBLE)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, for scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@contextmanager
def result(value: Mapping[str, Any], json: bool) -> Iterator[None]:
    """Print the result as JSON, if it is asked for; where the block raises, it is printed together with the error."""
    try:
        yield
    except BackpropagateError as error:
        error.result = value
        raise
    if json:
        print_json(value)


def show_plan(plan: Plan) -> None:
    """The resolved recipe, each computed value with its reason, and what it will need."""
    console = Console()
    console.print(_recipe(plan.recipe, f"Plan: {plan.base} on {plan.device}"))
    told = {name: value for name, value in plan.data.items() if name != "sha256" and (value == 0 or value)}
    console.print("data: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    _show_needs(plan.preflight, plan.remarks, console)


def show_outlook(outlook: Outlook) -> None:
    """What training a model would need."""
    console, recipe = Console(), outlook.recipe
    trained = "all weights" if recipe.mode == "full" else f"rank {recipe.rank}"
    dtype = "" if recipe.dtype == "auto" else f"{recipe.dtype}, "
    console.print(
        f"[bold]{outlook.model}[/] on {outlook.device}: {trained}, {dtype}rows of "
        f"{recipe.max_length} tokens, all learned, {recipe.micro_batch} of {recipe.batch_size} at once"
        + (", activation checkpointing" if recipe.activation_checkpointing else ""),
        soft_wrap=True,
    )
    _show_needs(outlook.preflight, outlook.remarks, console)


def _recipe(recipe: Recipe, title: str) -> Table:
    table = Table("setting", "value", "why", title=title, title_justify="left")
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name != "why" and value is not None:
            table.add_row(field.name, f"{value}", recipe.why.get(field.name, "as set"))
    return table


def _show_needs(preflight: Preflight, remarks: Iterable[str], console: Console) -> None:
    if preflight.memory:
        table = Table("memory", "GiB", title="Needs", title_justify="left")
        for name, size in preflight.memory.as_dict().items():
            table.add_row(name, f"{size / 2**30:.2f}")
        console.print(table)
    for disk in preflight.disks:
        needs = ", ".join(f"{name} {gigabytes(size)}" for name, size in disk.needs.items())
        console.print(f"disk of {near(disk.path)}: {needs}; {gigabytes(disk.free)} free", soft_wrap=True)
    if preflight.later:
        later = ", ".join(f"{name} {gigabytes(size)}" for name, size in preflight.later.items())
        console.print(f"exports, if made: {later}")
    console.print(preflight.message(), soft_wrap=True)
    for remark in remarks:
        console.print(f"[yellow]Note:[/] {remark}", soft_wrap=True)


def show_run(run: Run) -> None:
    """How a training run went and what it left."""
    skipped = f"; {run.skipped} updates skipped" if run.skipped else ""
    table = facts(
        ("steps", f"{len(run.losses)}, {run.tokens} tokens ({run.targets} of them trained){skipped}"),
        ("loss", f"{run.losses[0]:.3f} → {run.losses[-1]:.3f}  {_curve(run.losses)}"),
        ("time", f"{run.seconds:.0f} s, {run.targets / run.seconds:.0f} trained tokens/s"),
        ("peak memory", gigabytes(run.peak_memory)),
        *_evaluation(run),
        ("model" if run.recipe.mode == "full" else "adapter", near(run.adapter)),
        ("records", near(run.folder)),
        ("report", near(run.folder / "report.html")),
        ("next", command("export", run.adapter)),
    )
    Console().print(table)


def show_export(export: Export) -> None:
    """What was written, and the proof that it is what was trained."""
    console = Console()
    if export.parity:
        _show_parity(export.parity, console)
    if export.parity and export.parity.accepted:
        warning = f"Not proven, handed over as you asked; {export.parity.verdict}."
        console.print(f"[red]{warning}[/]", soft_wrap=True)
    console.print(facts(("written", near(export.path)), ("size", gigabytes(export.bytes))))
    if export.modelfile:
        console.print(facts(("Modelfile", near(export.modelfile))))
    if export.ollama:
        show_registered(export.ollama)


def show_registered(done: RegistrationResult) -> None:
    """What Ollama has now, and what was seen of it there."""
    console, seen = Console(), done.seen
    rendered = {True: "as trained", False: "other than trained", None: "not seen"}[seen.rendered]
    table = facts(
        ("in Ollama", f"{done.name}, {done.server} (version {done.version})"),
        ("upload", "done" if done.uploaded else "not needed, it was there"),
        ("prompts", rendered),
        ("answer", escape(visible(seen.answer)[:200]) + ("" if seen.ended else " … (did not end)")),
        ("next", f"ollama run {done.name}"),
    )
    console.print(table)
    for note in seen.notes:
        console.print(f"[yellow]Note:[/] {note}", soft_wrap=True)


_TRUTHS = {
    "model": "Compared with the trained model, run in float32.",
    "tensors": "Compared with the merged weights, tensor by tensor; the trained model itself was not run.",
    "nothing": "Compared with nothing: give --adapter, or --base, to know whether it is the trained model.",
}


def show_proof(parity: Parity) -> None:
    """The result of `verify`, and what stood as truth."""
    console = Console()
    _show_parity(parity, console)
    console.print(_TRUTHS[parity.compared_with])


def _show_parity(parity: Parity, console: Console) -> None:
    """The checks of a proof, and the losses of the model on its way from base to file."""
    table = Table("check", "measured", "allowed", "", title="Proof", title_justify="left")
    for check in parity.checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        if check.warning:
            mark = "[yellow]![/]"
        table.add_row(check.name, short(check.measured), short(check.limit), f"{mark} {check.note}".rstrip())
    console.print(table)
    if parity.losses:
        losses = Table("loss on training rows", *(_LABELS.get(name, f"trained, on {name}") for name in parity.losses))
        losses.add_row("nats per target", *(f"{loss:.3f}" for loss in parity.losses.values()))
        console.print(losses)
    console.print(parity.formats)


def show_answers(rows: Iterable[tuple[str, str, str]]) -> None:
    """The same questions, answered before and after training."""
    table = Table("question", "before", "after, from the exported file", show_lines=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def facts(*rows: tuple[str, str]) -> Table:
    """A name and a value a line, without a frame."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    return table


def _evaluation(run: Run) -> list[tuple[str, str]]:
    if run.eval_loss is None:
        return []
    which = "the last" if run.published_step == run.recipe.steps else "the best"
    perplexity = "" if run.perplexity is None else f", perplexity {run.perplexity:.4g}"
    accuracy = "" if run.accuracy is None else f", accuracy {run.accuracy:.0%}"
    text = f"loss {run.eval_loss:.4f}{perplexity}{accuracy}; published is step {run.published_step}, {which}"
    return [("evaluation", text)]


def _curve(losses: tuple[float, ...], width: int = 24) -> str:
    """A sparkline of at most `width` averages."""
    size = max(1, -(-len(losses) // width))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / ((high - low) or 1))] for mean in means)
