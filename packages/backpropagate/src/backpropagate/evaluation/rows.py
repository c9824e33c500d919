"""The rows to evaluate on: those that are given, or those that a run kept out of its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.choices import PAIRED, Method
from bp_core.config import TrainConfig
from bp_core.contract import Contract
from bp_core.errors import BadValue, NothingToEvaluate
from bp_core.events import Notify
from bp_core.examples import Example, spread
from bp_data import ChatTokenizer, Prepared, convert, prepare, read
from bp_data.formats.records import Preference, Rated
from bp_data.preparing.hold_out import hold_out
from bp_data.preparing.overlap import overlap
from bp_data.reading.columns import columns_in
from bp_data.reading.files import Data, lasting, lasting_text, require
from bp_eval.questions import Question, last_answer, question_before

from ..models.targets import Artifact
from ..training.prepare import reading
from ..training.remarks import FLATTERED

_MOST_COMPARED = 20_000  # training rows that given ones are looked for in


@dataclass(frozen=True)
class Rows:
    """Rows as one model reads them. `source` says where they are from, `truncated` how many had to be cut.

    Of answers that are compared or rated only the good ones are in `examples`. `rejected` has, of pairs, the other
    answer to each.
    """

    source: str
    examples: Sequence[Example]
    contract: Contract
    tokenizer: ChatTokenizer
    truncated: int = 0
    rejected: Sequence[Example] = ()


def check_data(data: Data | None, columns: str) -> None:
    """Raises FileMissing, and BadValue for columns without the data that they are in."""
    columns_in(columns)
    if data is not None:
        require(data)
    elif columns:
        raise BadValue("columns are those of --data, and none is given.")


def given(tokenizer: ChatTokenizer, data: Data, config: TrainConfig, samples: int | None, notify: Notify) -> Rows:
    """The first `samples` rows of `data`, all by default, cut and masked as `config` would for training."""
    rows: Data = list(data) if isinstance(data, Iterator) else data
    settings: dict[str, Any] = {"method": _method(rows, config), "traces": None, "evaluating": True}
    prepared = _prepared(rows, tokenizer, config, notify, samples=samples, **settings)
    return _rows(lasting_text(rows) or "rows given directly", prepared, prepared.examples, tokenizer)


def trained_on(source: Artifact, rows: Rows, notify: Notify) -> list[str]:
    """What to say where given rows are among those that the model was trained on, as far as its data is still there."""
    record, config = source.record, source.settings
    data = record.get("data")
    count = record.get("counts", {}).get("rows", 0)
    sources = [data] if isinstance(data, str) else data or []
    there = bool(sources) and all(Path(source).exists() for source in sources)
    if not there or count > _MOST_COMPARED:
        return []
    prepared = _prepared(
        sources[0] if len(sources) == 1 else sources, rows.tokenizer, config, notify, samples=config.samples
    )
    if prepared.report.sha256 != record.get("facts", {}).get("data"):
        return []
    learned = hold_out(prepared, config.held_out, config.seed)[0] if config.held_out else prepared
    found = overlap(learned.examples, rows.examples, rows.tokenizer.decode)
    if found.equal == found.rows:
        return [f"it was trained on all of these rows ({found.rows}): the numbers tell what it remembers, not more."]
    notes = []
    if found.equal:
        notes.append(f"it was trained on {found.equal} of these {found.rows} rows; {FLATTERED}")
    if found.near:
        notes.append(f"of these {found.rows} rows, {found.near} nearly equal one that it was trained on; {FLATTERED}")
    return notes


def of_run(tokenizer: ChatTokenizer, source: Artifact, samples: int | None, notify: Notify) -> Rows:
    """The rows that the source's run evaluated on, or the first `samples` of them; of a session of many stages those
    held out of each. Raises NothingToEvaluate."""
    config = source.settings
    if session := source.session:
        files = sorted(session.glob("data/*/held-out.jsonl"))
        rows = [row.value for file in files for row in read(file)]
        return replace(given(tokenizer, rows, config, samples, notify), source=f"held out of {len(files)} stages")
    if source.run is None or not _holds_out(config):
        why = "the run held no rows out" if source.run else "it is not known which rows it was not trained on"
        raise NothingToEvaluate(f"no data is given, and {why}.", where=source.name)
    record = source.record
    if config.eval_data:
        prepared = _prepared(config.eval_data, tokenizer, config, notify, evaluating=True)
        _require_same(prepared, record["facts"]["evaluation data"], config.eval_data)
        return _rows(config.eval_data, prepared, prepared.examples, tokenizer, samples)
    data = record.get("data")
    if data is None:
        raise NothingToEvaluate("the run was given its rows in Python, which are not kept.", where=source.name)
    prepared = _prepared(data, tokenizer, config, notify, samples=config.samples)
    name = lasting_text(data) or ""
    _require_same(prepared, record["facts"]["data"], name)
    _, held_out = hold_out(prepared, config.held_out or 0.0, config.seed)
    return _rows(f"held out of {name}", prepared, held_out, tokenizer, samples)


def to_show(tokenizer: ChatTokenizer, source: Artifact, notify: Notify) -> Rows:
    """Rows to ask about: those held out, or where none were, some that were trained on. Raises NothingToEvaluate."""
    kept = source.run.samples() if source.run and not _holds_out(source.settings) else []
    contract = source.contract
    if not kept or not contract:
        return of_run(tokenizer, source, None, notify)
    return Rows("rows it was trained on", [Example(row.tokens, row.trained) for row in kept], contract, tokenizer)


def _holds_out(config: TrainConfig) -> bool:
    return bool(config.held_out or config.eval_data)


def _method(data: Data, config: TrainConfig) -> Method:
    """The method that would learn from such rows, as the first one tells. Standard input can be read only once."""
    if isinstance(data, str | Path) and lasting(data) is None:
        return "sft"
    record = convert(next(read(data, config, evaluating=True)))
    if isinstance(record, Preference):
        return "orpo"
    return "kto" if isinstance(record, Rated) else "sft"


def _require_same(prepared: Prepared, sha256: str, data: str) -> None:
    if prepared.report.sha256 != sha256:
        raise NothingToEvaluate("the data changed since, so which rows were held out cannot be told.", where=data)


def _prepared(data: Data, tokenizer: ChatTokenizer, config: TrainConfig, notify: Notify, **settings: Any) -> Prepared:
    """The rows as training reads them."""
    require(data)
    return prepare(data, tokenizer, **reading(config, notify) | settings)


def _rows(
    source: str, prepared: Prepared, found: Sequence[Example], tokenizer: ChatTokenizer, samples: int | None = None
) -> Rows:
    if prepared.report.method in PAIRED:
        good, bad = found[::2], found[1::2]
    else:
        good, bad = [row for row in found if row.desirable], []
    return Rows(source, good[:samples], prepared.contract, tokenizer, prepared.report.truncated, bad[:samples])


def questions_in(rows: Rows, count: int) -> list[Question]:
    """Up to `count` questions, spread over the rows. A row asks for its last answer; raw text asks for nothing."""
    decode, stop = rows.tokenizer.decode, rows.tokenizer.stop_ids(rows.contract)
    spans = ((*last_answer(row), row.tokens) for row in rows_to_ask(rows, count))
    return [question_before(*span, decode, stop) for span in spans]


def rows_to_ask(rows: Rows, count: int) -> list[Example]:
    """Up to `count` rows with a question before their last answer, spread over all."""
    return spread([row for row in rows.examples if last_answer(row)[0] > 1], count)
