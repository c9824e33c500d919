"""What of the data is not learned, as one event and one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bp_core.events import Trimmed

from .prepared import Report

Loss = tuple[str, int, str]  # the kind, how many, and what to say of them


def trimmed(report: Report) -> Trimmed | None:
    """What is cut, dropped, left out, split or unused; None if nothing is, and the reader had no remarks."""
    losses = [loss for loss in _losses(report) if loss[1]]
    parts = [message + _at(report.places.get(kind, ())) for kind, _, message in losses]
    for column, rows in report.unused.items():
        where = _at([report.unused_at[column]])
        parts.append(f"column {column!r} of {_rows(rows)} is not learned{where}")
    parts += [f"{remark}" for remark in report.remarks]
    if not parts:
        return None
    counts = {kind: count for kind, count, _ in losses}
    if report.unused:
        counts["unused"] = sum(report.unused.values())
    places = {kind: list(report.places.get(kind, ())) for kind in counts}
    if report.unused:
        places["unused"] = [f"{column}: {where}" for column, where in report.unused_at.items()]
    return Trimmed(0, counts, places, f"{report.rows} rows; {'; '.join(parts)}.")


def _losses(report: Report) -> Iterator[Loss]:
    length = report.max_length
    yield (
        "truncated",
        report.truncated,
        f"{report.truncated} cut at {length} tokens, by {report.tokens_cut} tokens in all; answers cut or lost: "
        f"{report.turns_cut}, without an end: {report.terminators_lost}",
    )
    yield "dropped", report.dropped, f"{report.dropped} dropped, {_why_dropped(report)}"
    yield "split", report.split, f"{report.split} long texts split into pieces of {length} tokens"
    yield "markup", report.markup, f"{report.markup} raw texts hold a chat template's markup, and are learned whole"
    yield (
        "thoughts_apart",
        report.thoughts_apart,
        f"{report.thoughts_apart} examples more, so that each thought of a conversation is learned, which the chat "
        "template shows only in the last answer (--train-on last learns that one alone)",
    )
    dropped = report.thoughts_dropped
    yield "thoughts_dropped", dropped, f"{dropped} of these examples without a fitting reasoning trace"
    yield "left_out", report.left_out, f"{report.left_out} parts of answers are not written by the chat template"
    yield "ids_made_up", report.ids_made_up, f"{report.ids_made_up} tool calls got an id that the chat template wants"


def _why_dropped(report: Report) -> str:
    reasons = []
    if report.alike:
        reasons.append(f"{report.alike} with two answers that render alike")
    traces = sum(count for verdict, count in report.traces.items() if verdict != "kept")
    if traces:
        reasons.append(f"{traces} without a fitting reasoning trace")
    rest = report.dropped - report.alike - traces
    if rest:
        reasons.append(f"{rest} with nothing to learn within {report.max_length} tokens")
    return ", ".join(reasons)


def _at(places: Sequence[str]) -> str:
    return f" ({', '.join(places[:3])}{', …' if len(places) > 3 else ''})" if places else ""


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"
