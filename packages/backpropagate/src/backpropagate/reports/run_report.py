"""report.md and report.html in a run's folder: what was trained on what, how it went, what came of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.errors import OutOfMemory
from bp_core.events import Evaluated, Stepped
from bp_core.folders import write_json
from bp_core.redact import redact_all
from bp_core.units import gigabytes, moment
from bp_eval.questions import Answerer, Question
from bp_runs import Summary, history, read_events
from bp_runs.lock_file import Lock
from bp_runs.run_folder import RunFolder

from . import document
from .document import Block, Code, Heading, Picture, Table
from .line_chart import loss_chart

REPORT = "report"
LIMIT = 64  # tokens of an answer
_ANSWERS_FILE = "answers.json"
_PROMPTS = 3
_SHARE = 0.05  # of the training's time that answers may take; the first prompt is always answered
_SHOWN = 1200  # characters of a prompt: its end, where the question is


def ask(
    run: RunFolder,
    source: str,
    questions: Sequence[Question],
    answers_of: tuple[Answerer, Answerer],
    stop_requested: Callable[[], bool],
) -> None:
    """Keep the answers of the base and of what was trained to a few questions from `source`, for the run's report."""
    base, tuned = answers_of
    began = time.perf_counter()
    answers: list[dict[str, str]] = []
    for question in questions[:_PROMPTS]:
        over = time.perf_counter() - began > _SHARE * run.read()["seconds"]
        if stop_requested() or (answers and over):
            break
        texts = {"where": source, "text": question.text, "expected": question.expected}
        try:
            answers.append({**texts, "before": base(question), "after": tuned(question)})
        except OutOfMemory:  # the training fitted; these answers are only for the report
            break
    write_json(run.path / _ANSWERS_FILE, redact_all(answers))


def write(run: RunFolder) -> Path:
    """Write the report from the run's records, anew after each export. Raises OutputUnusable, DiskFull."""
    lock = Lock.read(run.path)
    events = list(read_events(run.path))
    blocks: list[Block] = [
        Heading(f"Run {run.id}", 1),
        *_overview(lock, run.read(), history.summed(run)[0]),
        *curve(events),
        *_notes(events),
        *before_and_after(run),
        *_exports(history.exports_of(run)),
        *_recipe(lock),
        *_surroundings(lock),
    ]
    document.write(blocks, run.path, REPORT)
    return run.path / f"{REPORT}.md"


def _overview(lock: Lock, record: Mapping[str, Any], summary: Summary) -> list[Block]:
    speed = summary.as_dict()["tokens_per_second"]
    counts = {name: value for name, value in record.get("counts", {}).items() if value and "sha256" not in name}
    data = ", ".join(f"{name} {value}" for name, value in counts.items())
    error = f" ({summary.error_code}: {summary.error_message})" if summary.error_code else ""
    rows = [
        ("status", f"{record['status']}{error}"),
        ("began", moment(record.get("started", 0))),
        ("base model", str(lock.settings["model"])),
        ("data", f"{lock.data or 'rows given in Python'}: {data}"),
        ("steps", f"{summary.step} of {summary.steps}"),
        ("loss", f"{number_text(summary.first_loss)} → {number_text(summary.last_loss)}"),
        ("time in steps", f"{summary.seconds:.1f} s" + (f", {speed:.0f} tokens/s" if speed else "")),
        ("peak memory", gigabytes(summary.peak_memory)),
        ("device", str(lock.hardware["device"])),
    ]
    return [Table(("", ""), rows)]


def curve(events: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The losses as a picture, and those on rows that were held out as a table. Nothing where no step was made."""
    train, evaluation = _losses(events, Stepped.__name__), _losses(events, Evaluated.__name__)
    if not train:
        return []
    blocks: list[Block] = [Heading("Loss"), Picture("loss.svg", "Loss by step", loss_chart(train, evaluation))]
    return [*blocks, _evaluations(events)] if evaluation else blocks


def _evaluations(events: Sequence[Mapping[str, Any]]) -> Table:
    """Each evaluation, with what such losses have besides: a perplexity, or an accuracy."""
    found = {event["step"]: event for event in events if event["event"] == Evaluated.__name__}
    measures = ["loss"]
    for name in ("perplexity", "accuracy"):
        if any(event.get(name) is not None for event in found.values()):
            measures.append(name)
    rows = []
    for step, event in sorted(found.items()):
        rows.append([str(step), *(number_text(event.get(name)) for name in measures)])
    return Table(("evaluated after step", *measures), rows)


def _losses(events: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[int, float]]:
    """By step; of a step done again after a kill the last counts. What is not finite cannot be drawn."""
    found = {event["step"]: event["loss"] for event in events if event["event"] == kind and event["loss"] is not None}
    return [(step, loss) for step, loss in sorted(found.items()) if math.isfinite(loss)]


def _notes(events: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What a person was told while it ran: memory that ran out, pauses, updates skipped, errors."""
    told = [
        (moment(event["time"]), event["says"])
        for event in events
        if event.get("says") and event["event"] != Evaluated.__name__
    ]
    return [Heading("What happened"), Table(("at", ""), told)] if told else []


def before_and_after(run: RunFolder, *, expected: bool = True) -> list[Block]:
    """The answers kept by `ask`, with or without the `expected` ones of the data."""
    path = run.path / _ANSWERS_FILE
    answers: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    columns = {"before": "before", "after": "after"} | ({"in the data": "expected"} if expected else {})
    blocks: list[Block] = [Heading("Before and after")] if answers else []
    for number, answer in enumerate(answers, 1):
        blocks.append(Code(f"Prompt {number}, {answer['where']}:", answer["text"][-_SHOWN:]))
        blocks.append(Table(list(columns), [[answer[key] for key in columns.values()]]))
    return blocks


def _exports(exports: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not exports:
        return []
    rows = [(history.export_line(export), export["sha256"] or "", export["parity"] or "") for export in exports]
    return [Heading("Files"), Table(("file", "SHA-256", "proof"), rows)]


def _recipe(lock: Lock) -> list[Block]:
    why = lock.recipe["why"]
    rows = [(name, str(value), why.get(name, "as set")) for name, value in lock.recipe.items() if name != "why"]
    return [Heading("Recipe"), Table(("setting", "value", "why"), rows)]


def _surroundings(lock: Lock) -> list[Block]:
    facts = {**lock.hardware, **lock.packages, **{f"SHA-256 of {name}": value for name, value in lock.hashes.items()}}
    again = f"Do it again: backprop replay {lock.run}"
    return [Heading("Machine and versions"), Table(("", ""), [(k, str(v)) for k, v in facts.items() if v]), again]


def number_text(value: float | None) -> str:
    """A loss in a few characters."""
    return "not measured" if value is None else f"{value:.4g}"
