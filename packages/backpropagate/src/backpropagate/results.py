"""What a person reads when something is done: tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bp_core.config import QUANTIZED
from bp_export import Export, Parity

from .commands import command, near
from .quantity import gigabytes
from .training import Plan, Run

_LABELS = {
    **{kind: f"trained, on {kind}" for kind in QUANTIZED.values()},
    **{"base": "base model", "adapter": "trained", "merged": "merged, f16 GGUF", "final": "this file"},
}


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, for scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_plan(plan: Plan) -> None:
    """The resolved recipe, each computed value with its reason."""
    table = Table("setting", "value", "why", title=f"Plan: {plan.base} on {plan.device}", title_justify="left")
    recipe = plan.as_dict()["recipe"]
    for name, value in recipe.items():
        if name != "why":
            table.add_row(name, f"{value}", plan.recipe.why.get(name, "as set"))
    console = Console()
    console.print(table)
    console.print("data: " + ", ".join(f"{name} {value}" for name, value in plan.data.items() if "sha256" not in name))


def show_run(run: Run) -> None:
    """How a training run went and what it left."""
    table = _facts(
        ("steps", f"{len(run.losses)}, {run.tokens} tokens ({run.targets} of them targets){_skipped(run)}"),
        ("loss", f"{run.losses[0]:.3f} → {run.losses[-1]:.3f}  {_curve(run.losses)}"),
        ("time", f"{run.seconds:.0f} s, {run.targets / run.seconds:.0f} targets/s"),
        ("peak memory", gigabytes(run.peak_memory)),
        *([("evaluation", _evaluation(run))] if run.eval_loss is not None else []),
        ("model" if run.recipe.mode == "full" else "adapter", near(run.adapter)),
        ("records", near(run.folder)),
        ("next", command("export", run.adapter)),
    )
    Console().print(table)


def show_export(export: Export) -> None:
    """What was written, and the proof that it is what was trained."""
    console = Console()
    if export.parity:
        show_parity(export.parity, console)
    console.print(_facts(("written", near(export.path)), ("size", gigabytes(export.bytes))))


def show_parity(parity: Parity, console: Console) -> None:
    """The checks of a proof, and the losses of the model on its way from base to file."""
    table = Table("check", "measured", "allowed", "", title="Proof", title_justify="left")
    for check in parity.checks:
        mark = "[yellow]![/]" if check.warning else "[green]✓[/]" if check.passed else "[red]✗[/]"
        table.add_row(check.name, _short(check.measured), _short(check.limit), f"{mark} {check.note}".rstrip())
    console.print(table)
    losses = Table("loss on training rows", *(_LABELS[name] for name in parity.losses))
    losses.add_row("nats per target", *(f"{loss:.3f}" for loss in parity.losses.values()))
    console.print(losses)
    total = sum(parity.types.values())
    types = ", ".join(f"{count * 100 // total}% {name}" for name, count in parity.types.items())
    console.print(f"number formats in the file, by tensor: {types}")


def show_answers(rows: Iterable[tuple[str, str, str]]) -> None:
    """The same questions, answered before and after training."""
    table = Table("question", "before", "after, from the exported file", show_lines=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _facts(*rows: tuple[str, str]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    return table


def _skipped(run: Run) -> str:
    return f"; {run.skipped} updates skipped" if run.skipped else ""


def _evaluation(run: Run) -> str:
    which = "the last" if run.published_step == run.recipe.steps else "the best"
    return f"loss {run.eval_loss:.4f}, perplexity {run.perplexity:.4g}; published is step {run.published_step}, {which}"


def _curve(losses: tuple[float, ...], width: int = 24) -> str:
    """A sparkline of at most `width` averages."""
    size = max(1, -(-len(losses) // width))
    means = [sum(part) / len(part) for part in (losses[i : i + size] for i in range(0, len(losses), size))]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / ((high - low) or 1))] for mean in means)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(_short(item) for item in value)
    return "" if value is None else str(value)
