"""The commands of `backprop data`: show, check, split, convert."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from bp_core.choices import TrainOn
from bp_core.config import DataConfig, TrainConfig
from bp_core.errors import BadValue
from bp_data import ChatTokenizer, read
from bp_data import convert as convert_row
from bp_data.check import check as check_rows
from bp_data.check.config import CheckConfig
from bp_data.formats.records import demonstrations
from bp_data.formats.write import reshape
from bp_data.reading.context import Remark
from bp_data.reading.jsonl import line, new_lines
from bp_data.show import RowView
from bp_data.show import show as shown
from bp_data.split import split as split_file

from ..models import locate
from ..progress import Screen
from . import tables
from .data_check_tables import show_check
from .options import Json, option, presets, taken, with_options
from .quiet import quiet_libraries


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
    json: Json = False,
) -> None:
    """Show rows as the model will see them: the rendered text, what is learned of it, and its tokens."""
    quiet_libraries()
    with Screen() as screen:
        folder = locate.locate(model, screen.notify)
    tokenizer = ChatTokenizer.open(folder)
    read_rows = read(file, DataConfig(**settings), tell=_say)
    records = (convert_row(row) for row in islice(read_rows, skip, skip + rows))
    found = [shown(row, tokenizer, train_on) for record in records for row in demonstrations(record)]
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
    quiet_libraries()
    reading = taken(DataConfig, settings)
    config = CheckConfig(**settings)
    with Screen() as screen:
        tokenizer = ChatTokenizer.open(locate.locate(config.model, screen.notify)) if config.model else None
        report = check_rows(file, config, tokenizer, reading, screen.notify)
    tables.print_json(report.as_dict()) if json else show_check(report)
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
    done = split_file(file, held_out, seed=seed, folder=output, reading=DataConfig(**settings))
    if json:
        tables.print_json(done.as_dict())
        return
    print(f"{done.train}: {done.train_rows} rows\n{done.held_out}: {done.held_out_rows} rows")
    if done.repeated:
        print(f"{done.repeated} rows repeat another; each stands on the side of the first.", file=sys.stderr)


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
        text.append(f"⟦{visible}⟧" if trained and plain else visible, "bold green" if trained else "dim")
    counts = ", ".join(f"{part.role} {part.tokens}" for part in row.parts)
    head = f"{row.where} · {row.format} · {len(row.tokens)} tokens ({counts}), {sum(row.trained)} trained"
    console.print(Text(head, "bold"), soft_wrap=True)
    console.print(text, soft_wrap=True)
    console.print()
