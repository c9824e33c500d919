"""What a file is asked through llama-server: rows with tools or thoughts that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bp_core.choices import ToolSchema
from bp_core.config import TrainConfig
from bp_core.errors import NothingToEvaluate
from bp_core.examples import Conversation, spread
from bp_data import convert, read
from bp_data.formats.records import Record
from bp_data.formats.served_schema import with_schema
from bp_data.reading.files import Data, require
from bp_export.proof.served import ServedProof
from bp_export.replies import ServedQuestion, served_questions

from ..models.targets import Artifact

_BY_HAND = "Ask rows of a file: backprop verify FILE --data ROWS"


def questions_in(data: str, count: int) -> list[ServedQuestion]:
    """Up to `count` questions of rows with tools or thoughts. Raises FileMissing, NothingToEvaluate."""
    require(data)
    found = served_questions(_conversations(data, TrainConfig(), "as-is"))
    if not found:
        fix = "Give rows with tools or thoughts, or leave out --data."
        raise NothingToEvaluate("no row has tools or thoughts.", where=data, fix=fix)
    return spread(found, count)


def served_proof(source: Artifact, count: int) -> ServedProof | None:
    """What an export asks of the finished file; None where neither tools nor thoughts were learned, or `count` is 0."""
    questions = served_questions(_held_out(source)) if count else []
    if questions:
        return ServedProof(spread(questions, count))
    contract = source.contract
    if not count or contract is None or not (contract.tool_schema or contract.adds_thoughts):
        return None
    return ServedProof(missing=f"{_why_none(source)}. {_BY_HAND}")


def _held_out(source: Artifact) -> Iterable[Conversation]:
    """The rows with tools or thoughts that were held out of what made it."""
    if session := source.session:
        files = sorted(session.glob("data/*/held-out.jsonl"))
        config = source.settings
        return [talk for file in files for talk in _conversations(file, config, config.tool_schema)]
    return (source.run.held_out() or []) if source.run else []


def _conversations(data: Data, config: TrainConfig, schema: ToolSchema) -> Iterator[Conversation]:
    """The demonstrations in the data, their tools in this schema."""
    for row in read(data, config, evaluating=True):
        record = convert(row)
        if isinstance(record, Record) and not isinstance(record.content, str):
            yield Conversation(record.content, with_schema(record, schema).tools)


def _why_none(source: Artifact) -> str:
    if source.run is None:
        return "the run that trained it is not here, so no held-out rows are known"
    settings = source.settings
    if source.session is None and not (settings.held_out or settings.eval_data):
        return "the run held no rows out (--held-out 0.05, or --eval-data)"
    if source.session is None and source.run.held_out() is None:
        return "the run was made by an older version, which kept no held-out rows"
    return "no held-out row has tools or thoughts"
