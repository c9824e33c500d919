"""report.md and report.html in a run's folder: what was trained on what, how it went, what came of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.errors import OutOfMemory
from bp_core.events import Evaluated, Sampled, Stepped
from bp_core.folders import write_json
from bp_core.glossary import GLOSSARY, terms_in
from bp_core.recipe import AS_SET, at_default
from bp_core.redact import redact_all
from bp_core.units import counted, gigabytes, in_words, moment
from bp_eval.bootstrap import Interval
from bp_eval.improvement import Improvement, improvement
from bp_eval.measures import FEW
from bp_eval.questions import Answerer, Question
from bp_runs import Summary, history, read_events
from bp_runs.lock_file import Lock
from bp_runs.run_folder import RunFolder

from ..hints import command, near
from ..models.published import weights_in
from . import document
from .document import Answers, Block, Code, Facts, Folded, Heading, Kind, Lead, Note, Picture, Small, Table
from .line_chart import NARROW, loss_chart, value_chart

REPORT = "report"
LIMIT = 64  # tokens of an answer
_ANSWERS_FILE = "answers.json"
PROMPTS = 3
_SHARE = 0.05  # of the training's time that answers may take; the first prompt is always answered


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
    for question in questions[:PROMPTS]:
        over = time.perf_counter() - began > _SHARE * run.read()["seconds"]
        if stop_requested() or (answers and over):
            break
        texts = {"where": source, "question": question.asked, "text": question.text, "expected": question.expected}
        try:
            answers.append({**texts, "before": base(question), "after": tuned(question)})
        except OutOfMemory:  # the training fitted; these answers are only for the report
            break
    write_json(run.path / _ANSWERS_FILE, redact_all(answers))


def write(run: RunFolder) -> Path:
    """Write the report from the run's records, anew after each export. Raises OutputUnusable, DiskFull."""
    lock, record = Lock.read(run.path), run.read()
    events = list(read_events(run.path))
    summary = history.summed(run)[0]
    gained = improvement(record)
    blocks: list[Block] = [
        *_head(lock, record, summary),
        Lead(" ".join(_sentences(lock, record, summary, gained))),
        *_warnings(record, summary, gained),
        *_numbers(record, summary, gained),
        *curve(events),
        *before_and_after(run),
        *_while_training(events),
        *_notes(events),
        *_files(run, record),
        *_next_step(run, lock, record, summary),
        *_recipe(lock),
        *_surroundings(lock),
    ]
    words = [(term, GLOSSARY[term]) for term in terms_in(document.markdown(blocks))]
    blocks.append(Folded("The words of this report", [Table(("word", "meaning"), words)]))
    document.write(blocks, run.path, REPORT)
    return run.path / f"{REPORT}.md"


_STATES: dict[str, Kind] = {"finished": "ok", "failed": "bad", "interrupted": "warn", "running": "info"}


def _head(lock: Lock, record: Mapping[str, Any], summary: Summary) -> list[Block]:
    status = str(record["status"])
    where = f"Run {lock.run} · {moment(record.get('started', 0))} · {lock.hardware['device']}"
    steps = f"{status}, {summary.step} of {summary.steps} steps"
    return [Heading(_title(lock), 1), Small(where), Note(steps, _STATES.get(status, "info"), tag=True)]


def _title(lock: Lock) -> str:
    return f"{Path(str(lock.settings['model'])).name}, trained on {_data_name(lock)}"


def _data_name(lock: Lock) -> str:
    if not lock.data:
        return "rows given in Python"
    sources = [lock.data] if isinstance(lock.data, str) else lock.data
    return ", ".join(Path(source).name for source in sources)


def _sentences(lock: Lock, record: Mapping[str, Any], summary: Summary, gained: Improvement | None) -> Iterator[str]:
    """What was trained on what, what became of the loss, and what it cost."""
    counts, recipe = record.get("counts", {}), lock.recipe
    what = "All weights" if recipe["mode"] == "full" else f"A LoRA adapter (rank {recipe['rank']})"
    rows = trained_rows(counts, recipe.get("held_out"))
    kept_out = counts.get("evaluation_examples") or 0
    verb = "was" if kept_out == 1 else "were"
    beside = f"; {counted(kept_out, 'row')} {verb} kept out to evaluate on" if kept_out else ""
    yield f"{what} learned from {counted(rows, 'row')} of {_data_name(lock)}{beside}."
    if summary.first_loss is not None:
        first, last = number_text(summary.first_loss), number_text(summary.last_loss)
        yield f"The training loss went from {first} to {last} a token."
    if gained:
        yield (
            f"On the rows kept out it is {interval_text(gained.after, gained.rows)}, and was "
            f"{interval_text(gained.before, gained.rows)} before training: {gained.verdict}."
        )
    elif record.get("eval_loss") is not None:
        yield f"On the rows kept out it is {number_text(record['eval_loss'])}."
    if summary.seconds:
        memory = f" and at most {gigabytes(summary.peak_memory)} of memory" if summary.peak_memory else ""
        yield f"It took {in_words(summary.seconds)} of training{memory}."


def trained_rows(counts: Mapping[str, Any], share: float | None) -> int:
    """How many rows were learned from: those read, but for the ones held out of them, if a `share` was."""
    held_out = counts.get("evaluation_examples", 0) if share else 0
    return int(counts.get("examples", 0)) - int(held_out)


def _warnings(record: Mapping[str, Any], summary: Summary, gained: Improvement | None) -> Iterator[Block]:
    if summary.error_code:
        yield Note(f"{record['status']} ({summary.error_code}: {summary.error_message})", "bad")
    if gained and gained.is_worse:
        yield Note(f"The result is worse than the model before training: {gained.verdict}.", "bad")
    elif summary.first_loss is not None and (summary.last_loss or 0) > 1.05 * summary.first_loss:
        yield Note("The training loss rose: the learning rate may be too high.", "warn")


def _numbers(record: Mapping[str, Any], summary: Summary, gained: Improvement | None) -> list[Block]:
    speed = summary.as_dict()["tokens_per_second"]
    values = {
        "Training loss": f"{number_text(summary.first_loss)} → {number_text(summary.last_loss)}",
        "Loss on rows kept out": _held_out(record.get("eval_loss"), gained),
        "Published step": str(record.get("published_step") or ""),
        "Time": in_words(summary.seconds),
        "Speed": f"{speed:.0f} tokens/s" if speed else "",
        "Most memory": gigabytes(summary.peak_memory),
    }
    return [Facts([(name, value) for name, value in values.items() if value])]


def _held_out(evaluated: float | None, gained: Improvement | None) -> str:
    """Before and after on the same rows, measured alike; where there is no such pair, the run's own evaluation."""
    if gained:
        return f"{number_text(gained.before.estimate)} → {number_text(gained.after.estimate)}"
    return "" if evaluated is None else number_text(evaluated)


def curve(events: Sequence[Mapping[str, Any]], *, details: bool = True) -> list[Block]:
    """The losses as a picture, and those on rows that were held out as a table; with `details` learning rate and
    gradient norm, too. Nothing where no step was made."""
    train, evaluation = _values(events, Stepped.__name__, "loss"), _values(events, Evaluated.__name__, "loss")
    if not train:
        return []
    wide, narrow = loss_chart(train, evaluation), loss_chart(train, evaluation, NARROW)
    blocks: list[Block] = [Heading("Loss"), Picture("loss.svg", "Loss by step", wide, narrow)]
    if evaluation:
        blocks.append(Folded("The evaluations as a table", [_evaluations(events)]))
    if not details:
        return blocks
    others: list[Block] = []
    for name, key in (("learning rate", "learning_rate"), ("gradient norm", "grad_norm")):
        points = _values(events, Stepped.__name__, key)
        file = f"{key.replace('_', '-')}.svg"
        others.append(Picture(file, f"{name} by step", value_chart(name, points), value_chart(name, points, NARROW)))
    return [*blocks, Folded("Learning rate and gradient norm", others)]


def _evaluations(events: Sequence[Mapping[str, Any]]) -> Table:
    """Each evaluation, with what such losses have besides: a perplexity, or an accuracy."""
    found = {event["step"]: event for event in events if event["event"] == Evaluated.__name__}
    measures = ["loss"]
    for name in ("perplexity", "accuracy"):
        if any(event.get(name) is not None for event in found.values()):
            measures.append(name)
    rows = []
    for step, event in sorted(found.items()):
        when = str(step) if step else "0, before training"
        rows.append([when, *(number_text(event.get(name)) for name in measures)])
    return Table(("evaluated after step", *measures), rows)


def _values(events: Sequence[Mapping[str, Any]], kind: str, key: str) -> list[tuple[int, float]]:
    """By step; of a step done again after a kill the last counts. What is not finite cannot be drawn."""
    found = {event["step"]: event[key] for event in events if event["event"] == kind and event[key] is not None}
    return [(step, value) for step, value in sorted(found.items()) if math.isfinite(value)]


def _notes(events: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What a person was told while it ran: memory that ran out, pauses, updates skipped, errors."""
    told = [
        (moment(event["time"]), event["says"])
        for event in events
        if event.get("says") and event["event"] not in (Evaluated.__name__, Sampled.__name__)
    ]
    return [Heading("What happened"), Table(("at", "what"), told)] if told else []


def _while_training(events: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What was answered on the way, for `--sample-every`."""
    sampled = [event for event in events if event["event"] == Sampled.__name__]
    rows = [(str(event["step"]), event["question"], event["answer"]) for event in sampled]
    return [Heading("Answers while training"), Table(("after step", "question", "answer"), rows)] if rows else []


def before_and_after(run: RunFolder, *, expected: bool = True) -> list[Block]:
    """The answers kept by `ask`, with or without the `expected` ones of the data."""
    path = run.path / _ANSWERS_FILE
    answers: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    who = {"before training": "before", _TRAINED: "after"} | ({"in the data": "expected"} if expected else {})
    blocks: list[Block] = [Heading("Questions and answers")] if answers else []
    for answer in answers:
        given = [(name, answer[key]) for name, key in who.items()]
        blocks.append(Answers(answer.get("question") or answer["text"], given, answer["text"], _TRAINED))
    if answers:
        blocks.append(Small(f"Questions {answers[0]['where']}. Each answer is greedy, of at most {LIMIT} tokens."))
    return blocks


_TRAINED = "after training"


def _files(run: RunFolder, record: Mapping[str, Any]) -> list[Block]:
    """The adapter with its hashes, and what was exported with its proof."""
    rows: list[tuple[str, str, str]] = []
    adapter = run.path.parent.parent / ("model" if record["recipe"]["mode"] == "full" else "lora")
    if record.get("weights"):
        hashes = "\n".join(f"{name}: {sha256}" for name, sha256 in record["weights"].items())
        there = "the weights of this run" if _has_weights(adapter, record["weights"]) else "moved, or trained on since"
        rows.append((str(adapter), there, hashes))
    for export in history.exports_of(run):
        proof = export["parity"] or ""
        told = history.export_line(export).removeprefix(export["path"]).strip(" ()")
        rows.append((export["path"], f"{told}\n{proof}".strip(), export["sha256"] or ""))
    return [Heading("Files"), Table(("file", "proof", "SHA-256"), rows)] if rows else []


def _has_weights(folder: Path, weights: Mapping[str, str]) -> bool:
    """Whether a folder's manifest names these weights. The files themselves, maybe gigabytes, are not read for it."""
    try:
        return weights_in(folder) == weights
    except (OSError, ValueError):
        return False


def _next_step(run: RunFolder, lock: Lock, record: Mapping[str, Any], summary: Summary) -> list[Block]:
    """What a person does now: run what there is, make a file of it, or go on."""
    output = near(run.path.parent.parent)
    if record["status"] != "finished":
        return [Heading("Next step"), Code("Go on with this run:", command("resume", f"{lock.run} --output {output}"))]
    files = [export["path"] for export in history.exports_of(run) if export["path"].lower().endswith(".gguf")]
    steps = {"Talk to it:": command("chat", files[-1] if files else run.path.parent.parent / "lora")}
    if not files:
        steps = {"Make one file of it that runs anywhere, and prove it:": command("export", run.path.parent.parent)}
    steps["Measure it on rows of your own:"] = command("eval", f"{lock.run} --data my_rows.jsonl --against base")
    steps["Train again, exactly so:"] = command("replay", lock.run)
    return [Heading("Next step"), *(Code(label, line) for label, line in steps.items())]


def _recipe(lock: Lock) -> list[Block]:
    """What was set or computed; what is at its default is folded."""
    why = lock.recipe["why"]
    told: list[tuple[str, str, str]] = []
    defaults: list[tuple[str, str, str]] = []
    for name, value in lock.recipe.items():
        reason = why.get(name, AS_SET)
        if name == "why" or value is None or (name in _LEFT_OPEN and not value):
            continue
        (defaults if at_default(value, reason) else told).append((name, str(value) or "none", reason))
    head = ("setting", "value", "why")
    folded = Folded(f"{len(defaults)} settings are at their default", [Table(head, defaults)])
    return [Heading("Recipe"), Table(head, told), folded]


_LEFT_OPEN = ("epochs", "samples", "lora_preset")  # which other values of a recipe follow from


def _surroundings(lock: Lock) -> list[Block]:
    hashes = {f"SHA-256 of {name}": value for name, value in lock.hashes.items()}
    facts = {"data": lock.data_text, "model": lock.settings["model"], **lock.hardware, **lock.packages, **hashes}
    rows = [(name, str(value)) for name, value in facts.items() if value]
    return [Heading("Machine and versions"), Folded("Everything that decides the last bits", [Table(("", ""), rows)])]


def interval_text(found: Interval, rows: int) -> str:
    """A loss with its interval, which only enough rows have."""
    if rows < FEW:
        return number_text(found.estimate)
    return f"{number_text(found.estimate)} [{number_text(found.low)}, {number_text(found.high)}]"


def number_text(value: float | None) -> str:
    """A loss in a few characters."""
    return "not measured" if value is None else f"{value:.4g}"
