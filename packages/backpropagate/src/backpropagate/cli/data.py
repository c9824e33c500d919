"""The verbs of `backprop data`: each calls bp_data and shows what came of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bp_core.choices import TrainOn
from bp_core.errors import BadValue
from bp_data import ChatTokenizer, convert, read
from bp_data.check import check
from bp_data.check.config import CheckConfig
from bp_data.formats.records import demonstrations
from bp_data.formats.write import reshape
from bp_data.reading.files import columns_in
from bp_data.reading.jsonl import line, new_lines
from bp_data.show import Shown
from bp_data.show import show as shown
from bp_data.split import split as split_file

from ..models import locate
from ..progress import Screen
from . import tables
from .data_check_tables import show_check
from .quiet import quiet_libraries


def show(file: str, model: str, rows: int, skip: int, columns: str, train_on: TrainOn, *, json: bool) -> None:
    quiet_libraries()
    with Screen() as screen:
        folder = locate.locate(model, screen.notify)
    tokenizer = ChatTokenizer.open(folder)
    records = (convert(row) for row in islice(read(file, columns_in(columns)), skip, skip + rows))
    found = [shown(row, tokenizer, train_on) for record in records for row in demonstrations(record)]
    if not found:
        raise BadValue(f"there are no rows after the first {skip}.", where=file, fix="Use a smaller --skip.")
    if json:
        tables.print_json({"rows": [row.as_dict() for row in found]})
        return
    console = Console(highlight=False)
    for row in found:
        _print_row(row, console)


def check_file(settings: Mapping[str, Any], file: str, columns: str, *, json: bool) -> int:
    """Returns the exit code: 1 if there are findings at or above `fail_on`."""
    quiet_libraries()
    config = CheckConfig(**settings)
    with Screen() as screen:
        tokenizer = ChatTokenizer.open(locate.locate(config.model, screen.notify)) if config.model else None
        report = check(file, config, tokenizer, columns_in(columns), screen.notify)
    tables.print_json(report.as_dict()) if json else show_check(report)
    return 1 if report.fails(config.fail_on) else 0


def split(file: str, held_out: float, seed: int, output: str | None, columns: str, *, json: bool) -> None:
    done = split_file(file, held_out, seed=seed, folder=output, columns=columns_in(columns))
    if json:
        tables.print_json(done.as_dict())
        return
    print(f"{done.train}: {done.train_rows} rows\n{done.held_out}: {done.held_out_rows} rows")
    if done.repeated:
        print(f"{done.repeated} rows repeat another; each stands on the side of the first.", file=sys.stderr)


def convert_file(file: str, to: str, output: str | None, columns: str) -> None:
    lines = (line(row) for row in reshape(read(file, columns_in(columns)), to))
    if output is None:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return
    with new_lines(Path(output)) as target:
        target.writelines(lines)


def _print_row(row: Shown, console: Console) -> None:
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
