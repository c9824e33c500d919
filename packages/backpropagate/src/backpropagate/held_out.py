"""The rows to evaluate on: those that are given, or those that a run kept out of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bp_core.config import TrainConfig
from bp_core.contract import Contract
from bp_core.errors import BadValue, NothingToEvaluate
from bp_core.events import Notify
from bp_core.examples import Example
from bp_core.folders import home
from bp_data import ChatTokenizer, Prepared, prepare
from bp_data.files import Data, columns_in, lasting, require
from bp_data.hold_out import hold_out

from .targets import Target


@dataclass(frozen=True)
class Rows:
    """Rows as one model reads them. `source` says where they are from, `truncated` how many had to be cut."""

    source: str
    examples: Sequence[Example]
    contract: Contract
    tokenizer: ChatTokenizer
    truncated: int = 0


def check_data(data: Data | None, columns: str) -> None:
    """Raises FileMissing, and BadValue for columns without the data that they are in."""
    columns_in(columns)
    if data is not None:
        require(data)
    elif columns:
        raise BadValue("columns are those of --data, and none is given.")


def given(
    tokenizer: ChatTokenizer, data: Data, settings: Mapping[str, Any], samples: int | None, notify: Notify
) -> Rows:
    """The first `samples` rows of `data`, all by default, cut and masked by these settings of training."""
    prepared = _prepared(data, tokenizer, {**settings, "samples": samples}, notify)
    return _rows(lasting(data) or "rows given directly", prepared, prepared.examples, tokenizer)


def of_run(tokenizer: ChatTokenizer, target: Target, samples: int | None, notify: Notify) -> Rows:
    """The rows that the target's run evaluated on, or the first `samples` of them. Raises NothingToEvaluate."""
    settings = target.settings
    if target.run is None or not _holds_out(settings):
        why = "the run held no rows out" if target.run else "it is not known which rows it was not trained on"
        raise NothingToEvaluate(f"no data is given, and {why}.", where=target.name)
    facts = target.run.read()["facts"]
    if settings.get("eval_data"):
        data = settings["eval_data"]
        prepared = _same(data, facts["evaluation data"], tokenizer, {**settings, "samples": None}, notify)
        return _rows(data, prepared, prepared.examples[:samples], tokenizer)
    data = target.run.read().get("data")
    if data is None:
        raise NothingToEvaluate("the run was given its rows in Python, which are not kept.", where=target.name)
    prepared = _same(data, facts["data"], tokenizer, settings, notify)
    _, held_out = hold_out(prepared, settings["held_out"], settings["seed"])
    return _rows(f"held out of {data}", prepared, held_out[:samples], tokenizer)


def to_show(tokenizer: ChatTokenizer, target: Target, notify: Notify) -> Rows:
    """Rows to ask about: those held out, or where none were, some that were trained on. Raises NothingToEvaluate."""
    kept = target.run.samples() if target.run and not _holds_out(target.settings) else []
    contract = Contract.read(target.folder) if target.folder else None
    if not kept or not contract:
        return of_run(tokenizer, target, None, notify)
    return Rows("rows it was trained on", [Example(row.tokens, row.trained) for row in kept], contract, tokenizer)


def _holds_out(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("held_out") or settings.get("eval_data"))


def _same(data: str, sha256: str, tokenizer: ChatTokenizer, settings: Mapping[str, Any], notify: Notify) -> Prepared:
    """The data of a run, as it was then. Raises NothingToEvaluate, FileMissing."""
    require(data)
    prepared = _prepared(data, tokenizer, settings, notify)
    if prepared.report.sha256 != sha256:
        raise NothingToEvaluate("the data changed since, so which rows were held out cannot be told.", where=data)
    return prepared


def _prepared(data: Data, tokenizer: ChatTokenizer, settings: Mapping[str, Any], notify: Notify) -> Prepared:
    """The rows read as training reads them, where `settings` says nothing by its defaults."""
    names = ("max_length", "train_on", "columns", "samples")
    value = {name: settings.get(name, getattr(TrainConfig, name)) for name in names}
    value["columns"] = columns_in(value["columns"])
    return prepare(data, tokenizer, cache=home() / "cache" / "data", on_progress=notify, **value)


def _rows(source: str, prepared: Prepared, examples: Sequence[Example], tokenizer: ChatTokenizer) -> Rows:
    return Rows(source, examples, prepared.contract, tokenizer, prepared.report.truncated)
