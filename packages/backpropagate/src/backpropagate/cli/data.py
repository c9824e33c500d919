"""The commands of `backprop data`: show, check, split, convert."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from bp_core.choices import ToolSchema, ToolsTemplate, TrainOn
from bp_core.config import DataConfig, TrainConfig
from bp_core.errors import BadValue
from bp_core.units import counted
from bp_data import ChatTokenizer, read
from bp_data import convert as convert_row
from bp_data.check import KINDS, Report
from bp_data.check import check as check_rows
from bp_data.check.config import CheckConfig
from bp_data.formats.records import demonstrations
from bp_data.formats.served_schema import with_schema
from bp_data.formats.write import reshape
from bp_data.masking.each_thought import with_each_thought
from bp_data.reading.context import Remark
from bp_data.reading.jsonl import line, new_lines
from bp_data.show import RowView
from bp_data.show import show as shown
from bp_data.split import split as split_file

from ..models import locate
from ..progress import Screen
from . import tables
from .options import Json, option, presets, taken, with_options

_PLACES = 3  # of a kind, shown; --json has more
_BAR = 40
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@with_options(DataConfig)
def show(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The data file.")],
    model: Annotated[
        str, typer.Option(help="The model whose tokenizer and chat template to use.", autocompletion=presets)
    ] = TrainConfig.model,
    rows: Annotated[int, typer.Option("--rows", "-n", help="How many rows.", min=1)] = 3,
    skip: Annotated[int, typer.Option(help="Leave out the first so many.", min=0)] = 0,
    train_on: Annotated[TrainOn, option(TrainConfig, "train_on")] = TrainConfig.train_on,
    tools_template: Annotated[ToolsTemplate, option(TrainConfig, "tools_template")] = TrainConfig.tools_template,
    tool_schema: Annotated[ToolSchema, option(TrainConfig, "tool_schema")] = TrainConfig.tool_schema,
    json: Json = False,
) -> None:
    """Show rows as the model will see them: the rendered text, what is learned of it, and its tokens."""
    with Screen() as screen:
        folder = locate.locate(model, screen.notify)
    tokenizer = ChatTokenizer.open(folder).with_tools(tools_template)
    read_rows = read(file, DataConfig(**settings), tell=_say)
    records = (convert_row(row) for row in islice(read_rows, skip, skip + rows))
    written = (with_schema(row, tool_schema) for record in records for row in demonstrations(record))
    rows_shown = (part for row in written for part in with_each_thought(row, tokenizer, train_on))
    found = [shown(row, tokenizer, train_on) for row in rows_shown]
    if not found:
        raise BadValue(f"there are no rows after the first {skip}.", where=file, fix="Use a smaller --skip.")
    if json:
        tables.print_json({"rows": [row.as_dict() for row in found]})
        return
    console = Console(highlight=False)
    for row in found:
        _print_row(row, console)


@with_options(CheckConfig, also=(DataConfig,))
def check(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The data file.")],
    json: Json = False,
) -> None:
    """Find what is wrong in a data file, each fault with its line; exits with 1 if there is an error."""
    reading = taken(DataConfig, settings)
    config = CheckConfig(**settings)
    with Screen() as screen:
        tokenizer = None
        if config.model:
            folder = locate.locate(config.model, screen.notify)
            tokenizer = ChatTokenizer.open(folder).with_tools(config.tools_template)
        report = check_rows(file, config, tokenizer, reading, screen.notify)
    tables.print_json(report.as_dict()) if json else _show_check(report)
    raise typer.Exit(1 if report.fails(config.fail_on) else 0)


@with_options(DataConfig)
def split(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The data file.")],
    held_out: Annotated[float, typer.Option(help="Share of the different conversations to hold out, 0 to 1.")],
    seed: Annotated[int, typer.Option(help="Another seed holds out others.")] = 42,
    output: Annotated[str | None, typer.Option(help="Folder for the two files. Default: beside the file.")] = None,
    json: Json = False,
) -> None:
    """Divide a file into rows to train on and rows held out; the same conversation is never in both."""
    done = split_file(file, held_out, seed=seed, folder=output, reading=DataConfig(**settings), tell=_say)
    if json:
        tables.print_json(done.as_dict())
        return
    print(f"{done.train}: {counted(done.train_rows, 'row')}\n{done.held_out}: {counted(done.held_out_rows, 'row')}")
    if done.repeated:
        print(
            f"{counted(done.repeated, 'row')} said more than once; each stands on the side of the first.",
            file=sys.stderr,
        )


@with_options(DataConfig)
def convert(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The data file.")],
    to: Annotated[str, typer.Option(help="The format: openai, sharegpt or alpaca.")],
    output: Annotated[str | None, typer.Option(help="The file to write. Default: stdout.")] = None,
) -> None:
    """Write a file's conversations in another format, as JSON lines."""
    lines = (line(row) for row in reshape(read(file, DataConfig(**settings), tell=_say), to))
    if output is None:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return
    with new_lines(Path(output)) as target:
        target.writelines(lines)


def _say(remark: Remark) -> None:
    """Show a remark of the reader on stderr."""
    print(f"{remark.where}: {remark.message}", file=sys.stderr)


def _print_row(row: RowView, console: Console) -> None:
    """The row's text, trained stretches in green, or between ⟦ and ⟧ where there is no colour."""
    plain = console.color_system is None or console.no_color
    text = Text()
    for stretch, trained in row.stretches():
        visible = tables.visible(stretch)
        if trained and plain:
            visible = f"⟦{visible}⟧"
        text.append(visible, "bold green" if trained else "dim")
    counts = ", ".join(f"{part.role} {part.tokens}" for part in row.parts)
    head = f"{row.where} · {row.format} · {len(row.tokens)} tokens ({counts}), {sum(row.trained)} trained"
    console.print(Text(head, "bold"), soft_wrap=True)
    console.print(text, soft_wrap=True)
    console.print()


def _show_check(report: Report) -> None:
    """Print the report."""
    console = Console(highlight=False)
    for name in dict.fromkeys(finding.kind for finding in report.findings):
        console.print(_findings(report, name), soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)
    _show_lengths(report, console)
    if report.repaired:
        done = report.repaired
        console.print(f"{done.path}: {counted(done.rows, 'row')}, {done.cleaned} of them cleaned", soft_wrap=True)
        console.print(f"{done.changes}: {_counted(done.left_out) or 'nothing'} left out", soft_wrap=True)


def _findings(report: Report, name: str) -> Text:
    """Two lines: how many findings of this kind and the first of them; then where others are, and what to do."""
    first, *others = report.findings.of(name)
    count = report.findings.counts[name]
    line = Text(f"{first.severity:8}", _COLOURS[first.severity])
    line.append(f"{name:20}{count:>7}  {tables.visible(f'{first.place}: {first.message}')}\n", "default")
    places = ", ".join(dict.fromkeys(finding.place for finding in others[: _PLACES - 1]))
    more = f" and {count - _PLACES} more" if count > _PLACES else ""
    line.append(" " * 37 + (f"also {places}{more} " if others else "") + f"→ {first.fix}", "dim")
    return line


def _summary(report: Report) -> Text:
    by_severity = {severity: 0 for severity in _COLOURS}
    for name, count in report.findings.counts.items():
        by_severity[KINDS[name].severity] += count
    found = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in by_severity.items() if count)
    unread = f", {report.unread} not read" if report.unread else ""
    return Text(
        f"{report.rows} row{'s' * (report.rows != 1)} ({_counted(report.formats)}){unread}: {found or 'nothing found'}",
        "bold",
    )


def _show_lengths(report: Report, console: Console) -> None:
    tokens = report.tokens
    lengths, unit = (tokens.lengths, "tokens") if tokens else (report.characters, "characters")
    bars = lengths.bars()
    most = max((bar.rows for bar in bars), default=0)
    for bar in bars:
        width = -(-bar.rows * _BAR // most)
        console.print(f"{bar.low:>8} to {bar.high:<8} {unit}  {'█' * width} {bar.rows}", soft_wrap=True)
    if tokens and tokens.lengths.total:
        share = tokens.trained / tokens.lengths.total
        over = f"{counted(tokens.over, 'row')} longer than {tokens.max_length}"
        console.print(f"{tokens.lengths.total} tokens, {tokens.trained} with loss ({share:.0%}); {over}")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
