"""What a person reads after a check: findings by kind, lengths as bars, tokens with loss."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from bp_data.check import KINDS, Report

from .tables import visible

_PLACES = 3  # of a kind, shown; --json has more
_BAR = 40
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def show_check(report: Report) -> None:
    """Print the report."""
    console = Console(highlight=False)
    for name in dict.fromkeys(finding.kind for finding in report.findings):
        console.print(_kind(report, name), soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)
    _show_lengths(report, console)
    if report.repaired:
        done = report.repaired
        console.print(f"{done.path}: {done.rows} rows, {done.cleaned} of them cleaned", soft_wrap=True)
        console.print(f"{done.changes}: {_counted(done.left_out) or 'nothing'} left out", soft_wrap=True)


def _kind(report: Report, name: str) -> Text:
    """Two lines: how many findings of this kind and the first of them; then where others are, and what to do."""
    first, *others = report.findings.of(name)
    count = report.findings.counts[name]
    line = Text(f"{first.severity:8}", _COLOURS[first.severity])
    line.append(f"{name:20}{count:>7}  {visible(f'{first.place}: {first.message}')}\n", "default")
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
        over = f"{tokens.over} rows longer than {tokens.max_length}"
        console.print(f"{tokens.lengths.total} tokens, {tokens.trained} with loss ({share:.0%}); {over}")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
