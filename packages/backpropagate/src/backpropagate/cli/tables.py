"""What a person reads when something is done: tables on stdout."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_core.errors import BackpropagateError
from bp_core.recipe import AS_SET, Recipe, at_default
from bp_core.units import counted, gigabytes, in_words, short
from bp_export import Export, Parity
from bp_export.ollama import RegistrationResult
from bp_export.parity import Trial
from bp_export.programs import Placed
from bp_plan.plan import Plan
from bp_plan.preflight import Preflight

from ..hints import command, near
from ..reports.run_report import trained_rows
from ..training.planning import Outlook
from ..training.run import Run
from .output import print_json as print_json
from .output import visible as visible

# Of the forms of a model; another one is named after what its base is kept in.
_LABELS = {"base": "base model", "adapter": "trained", "merged": "merged, f16 GGUF", "final": "this file"}


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
    console.print(f"Data: {data_in_words(plan.data, plan.recipe)}", soft_wrap=True, highlight=False)
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
    table = Table(title=title, title_justify="left")
    defaults = 0
    for name in ("setting", "value", "why"):
        table.add_column(name, overflow="fold")
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        reason = recipe.why.get(field.name, AS_SET)
        if field.name == "why" or value is None:
            continue
        if at_default(value, reason):
            defaults += 1
        else:
            table.add_row(field.name, f"{value}", reason)
    table.caption = f"{defaults} other settings are at their default; --json shows all."
    table.caption_justify = "left"
    return table


# What parts of the memory estimate are called by those who do not know the estimate.
_MEMORY = {
    "weights": "model weights",
    "work": "work space of a step",
    "slack": "reserve",
    "context": "driver and libraries",
}


def data_in_words(counts: Mapping[str, Any], recipe: Recipe) -> str:
    """What was read, how much of it is learned, and what was lost on the way."""
    formats = ", ".join(counts.get("formats", {}))
    held_out = counts.get("evaluation_examples") or 0
    parts = [
        f"{counted(counts['rows'], 'row')} ({formats}), {counted(trained_rows(counts, recipe.held_out), 'example')}"
    ]
    if counts.get("packed"):
        parts.append(f"sharing {counted(counts['packed'], 'row')}")
    if held_out:
        parts.append(f"{held_out} kept out to evaluate on")
    parts.append(f"{counts['tokens']:,} tokens, {counts['targets']:,} of them trained; the longest row has")
    parts[-1] += f" {counts['longest']:,}"
    if counts.get("truncated"):
        lost = counts.get("terminators_lost", 0)
        ends = f", of which {lost} lose the end of the answer" if lost else ""
        parts.append(f"{counts['truncated']} cut at {recipe.max_length} tokens{ends}")
    if counts.get("dropped"):
        parts.append(
            f"{counts['dropped']} left out, with nothing to learn in them (first: {counts['places']['dropped'][0]})"
        )
    return "; ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) < 3 else parts) + "."


def _show_needs(preflight: Preflight, remarks: Iterable[str], console: Console) -> None:
    if preflight.memory:
        table = Table("memory", "GiB", title="Needs", title_justify="left")
        for name, size in preflight.memory.as_dict().items():
            table.add_row(_MEMORY.get(name, name), f"{size / 2**30:.2f}")
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
    skipped = f"; {counted(run.skipped, 'update')} skipped" if run.skipped else ""
    losses = []  # the record of its steps may be lost, while what was trained is whole
    if run.losses:
        losses = [("loss", f"{run.losses[0]:.3f} → {run.losses[-1]:.3f}  {_curve(run.losses)}")]
    rate = f", {run.targets / run.seconds:.0f} trained tokens/s" if run.seconds else ""
    print_facts(
        Console(),
        ("steps", f"{len(run.losses)}, {run.tokens} tokens ({run.targets} of them trained){skipped}"),
        *losses,
        ("time", f"{in_words(run.seconds)}{rate}"),
        ("peak memory", gigabytes(run.peak_memory)),
        *_evaluation(run),
        ("model" if run.recipe.mode == "full" else "adapter", near(run.adapter)),
        ("records", near(run.folder)),
        ("report", near(run.folder / "report.html")),
        ("next", command("export", run.adapter)),
    )


def show_export(export: Export) -> None:
    """What was written, and the proof that it is what was trained."""
    console = Console()
    if export.parity:
        _show_parity(export.parity, console)
        show_trials(export.parity.trials, console)
    if export.parity and export.parity.accepted:
        warning = f"Not proven, handed over as you asked; {export.parity.verdict}."
        console.print(f"[red]{warning}[/]", soft_wrap=True)
    print_facts(console, ("written", near(export.path)), ("size", gigabytes(export.bytes)))
    for what, place in export.origins.items():
        print_facts(console, (what, f"from {place}"))
    if export.importance_path:
        print_facts(console, ("importance matrix", near(export.importance_path)))
    if export.modelfile:
        print_facts(console, ("Modelfile", near(export.modelfile)))
    if export.placed:
        show_placed(export.placed)
    if export.ollama:
        show_registered(export.ollama)


def show_placed(placed: Placed) -> None:
    """Where a program finds the model, and the line that starts it."""
    console = Console()
    if placed.path:
        print_facts(console, (f"for {placed.program}", near(placed.path)))
    print_facts(console, ("next", placed.command))
    if placed.note:
        console.print(f"[yellow]Note:[/] {escape(placed.note)}", soft_wrap=True)


def show_trials(trials: Iterable[Trial], console: Console) -> None:
    """The number formats that were tried, from small to large."""
    table = Table("format", "size", "divergence", "loss", "strength", "", title="Tried", title_justify="left")
    for trial in trials:
        kept = "[green]keeps what was learned[/]" if trial.kept else "loses too much"
        numbers = [short(value) for value in (trial.divergence, trial.loss, trial.strength)]
        table.add_row(trial.quantization, gigabytes(trial.bytes), *numbers, kept)
    if table.row_count:
        console.print(table)


def show_registered(done: RegistrationResult) -> None:
    """What Ollama has now, and what was seen of it there."""
    console, seen = Console(), done.seen
    rendered = {True: "as trained", False: "other than trained", None: "not seen"}[seen.rendered]
    ending = {True: "", False: " … (did not end)", None: "not seen"}[seen.ended]
    facts = [
        ("in Ollama", f"{done.name}, {done.server} (version {done.version})"),
        ("upload", "done" if done.uploaded else "not needed, it was there"),
        ("prompts", rendered),
    ]
    if seen.tools is not None:
        facts.append(("tools", "as trained" if seen.tools else "do not arrive as trained"))
    if seen.thinking is not None:
        facts.append(("thoughts", "told from answers" if seen.thinking else "stay part of the answer"))
    facts += [("answer", visible(seen.answer)[:200] + ending), ("next", f"ollama run {done.name}")]
    print_facts(console, *facts)
    for draft in done.removed:
        console.print(f"removed {draft}, which an earlier registration had to leave", soft_wrap=True)
    for note in seen.notes:
        console.print(f"[yellow]Note:[/] {escape(visible(note))}", soft_wrap=True)


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
        losses.add_row("per trained token", *(f"{loss:.3f}" for loss in parity.losses.values()))
        console.print(losses)
    if parity.types:
        console.print(parity.formats)


def show_answers(rows: Iterable[tuple[str, str, str]]) -> None:
    """The same questions, answered before and after training."""
    table = Table("question", "before", "after, from the exported file", show_lines=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_facts(console: Console, *rows: tuple[str, str]) -> None:
    """A name and a value a line. Nothing is cut or broken, so that paths and commands can be copied."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        console.print(f"[bold]{name:{width}}[/]{escape(value)}", soft_wrap=True, highlight=False)


def facts(*rows: tuple[str, str]) -> Table:
    """A name and a longer text a line, without a frame."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    return table


def _evaluation(run: Run) -> list[tuple[str, str]]:
    if run.eval_loss is None:
        return []
    which = "the last" if run.published_step == run.recipe.steps else "the best of those evaluated"
    perplexity = "" if run.perplexity is None else f", perplexity {run.perplexity:.4g}"
    accuracy = "" if run.accuracy is None else f", accuracy {run.accuracy:.0%}"
    text = f"loss {run.eval_loss:.4f}{perplexity}{accuracy}; published is step {run.published_step}, {which}"
    lines = [("evaluation", text)]
    if run.base_loss is not None and run.against_base:
        lines.append(("before it", f"loss {run.base_loss:.4f} before training: {run.against_base}"))
    return lines


def _curve(losses: tuple[float, ...], width: int = 24) -> str:
    """A sparkline of at most `width` averages."""
    size = max(1, -(-len(losses) // width))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / ((high - low) or 1))] for mean in means)
