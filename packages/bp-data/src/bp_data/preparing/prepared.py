"""Prepared data, and how it is written to a folder and read back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.choices import Method
from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.examples import Conversation, Sample
from bp_core.folders import write_json

from ..tokenizer.chat_tokenizer import ChatTokenizer
from .conversations import KeptConversation
from .example_arrays import Examples
from .packing import Rows, pack

_CONVERSATIONS = "conversations.json"
_ROWS = "rows.npy"
_ARRAYS = ("tokens", "trained", "ends", "desirable")


@dataclass(frozen=True)
class Report:
    """Counts of the rows and examples. `sha256` is of the contents; a pair of answers counts as one example.

    mixed: the location of the first row of each format but the most frequent one.
    longest: tokens of the longest row before cutting; `tokens` and `targets` (trained tokens) are totals after it.
    truncated: examples cut by `tokens_cut` tokens, with `turns_cut` incomplete answers; `terminators_lost` of them have
    no complete one left.
    dropped: rows without a trained token after cutting, without a fitting trace, or with two answers that are `alike`.
    thoughts_apart: examples more, because of rows whose earlier thoughts the template leaves out of history;
    thoughts_dropped: those of them that are too short or too long.
    left_out: parts of answers that the template does not write. ids_made_up: tool calls that got an id from us.
    split: raw texts longer than `max_length`, each now several examples.
    markup: raw texts with a chat template's markup inside.
    places: the first places of each of these, by its name.
    unused: rows by column that is not learned, though it may belong there; `unused_at` locates the first of each.
    schema_keys: rows by key of their tools' schemas that servers do not pass on.
    remarks: what the reader left out, or decided.
    packed: rows that the examples share, 0 without packing.
    desirable: rated answers that are good.
    traces: rows by what became of their reasoning traces; `opens_thought`: the template itself writes <think>.
    """

    rows: int
    formats: dict[str, int]
    mixed: dict[str, str]
    examples: int
    tokens: int
    targets: int
    longest: int
    truncated: int
    turns_cut: int
    terminators_lost: int
    dropped: int
    left_out: int
    packed: int
    sha256: str
    method: Method = "sft"
    desirable: int | None = None
    traces: dict[str, int] = dataclasses.field(default_factory=dict)
    opens_thought: bool = False
    tokens_cut: int = 0
    alike: int = 0
    ids_made_up: int = 0
    thoughts_apart: int = 0
    thoughts_dropped: int = 0
    split: int = 0
    markup: int = 0
    places: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unused: dict[str, int] = dataclasses.field(default_factory=dict)
    unused_at: dict[str, str] = dataclasses.field(default_factory=dict)
    schema_keys: dict[str, int] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    max_length: int = 0

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs: examples, template contract, samples for the export proof, report.

    `packed` has the example numbers of each row; None without packing. `conversations` are whole rows with tools or
    thoughts, a bounded number of them. `rows`, int64 [examples], has equal numbers for examples of one row; None where
    each is of a row of its own, or of pairs.
    """

    examples: Examples
    packed: Rows | None
    contract: Contract
    samples: list[Sample]
    report: Report
    conversations: tuple[KeptConversation, ...] = ()
    rows: Any = None

    def packing(self, max_length: int) -> Prepared:
        """The same data, packed into rows of `max_length` tokens."""
        packed = pack(self.examples.lengths, max_length)
        report = dataclasses.replace(self.report, packed=len(packed))
        return dataclasses.replace(self, packed=packed, report=report)

    def going_on_from(self, before: Contract, tokenizer: ChatTokenizer) -> Prepared:
        """The same data for a run that goes on from an adapter, or is merged with it: what that added to the base's
        template is kept, and so are its ends of a turn.
        """
        return dataclasses.replace(self, contract=_joined(self.contract, before, tokenizer))


def _joined(now: Contract, before: Contract, tokenizer: ChatTokenizer) -> Contract:
    texts = dict(zip((*before.terminators, *now.terminators), (*before.stop, *now.stop), strict=True))
    ends = tuple(sorted(texts))
    stop = tuple(texts[end] for end in ends)
    if not (now.template and before.template):  # one is of raw text, which says nothing of conversations
        return dataclasses.replace(now if now.template else before, terminators=ends, stop=stop)
    form = before.tools_template if now.tools_template == "none" else now.tools_template
    template = now.template
    thoughts = now.adds_thoughts or before.adds_thoughts
    if template != before.template:
        able = tokenizer.with_tools(form) if form != "none" else tokenizer
        template = able.written_by(tokenizer.template, tools=form != "none", thoughts=thoughts)
    return dataclasses.replace(
        now,
        template=template,
        terminators=ends,
        stop=stop,
        tools_template=form,
        tool_schema=now.tool_schema or before.tool_schema,
        adds_thoughts=thoughts,
    )


def write(prepared: Prepared, folder: Path) -> None:
    """Write everything but the packing into an empty folder."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(prepared.examples, name))
    if prepared.rows is not None:
        np.save(folder / _ROWS, prepared.rows)
    write_json(folder / CONTRACT_FILE, prepared.contract.as_dict())
    write_json(folder / "report.json", prepared.report.as_dict())
    write_json(folder / "samples.json", [dataclasses.asdict(sample) for sample in prepared.samples])
    write_json(folder / _CONVERSATIONS, [dataclasses.asdict(kept) for kept in prepared.conversations])


def read(folder: Path) -> Prepared:
    """Read what `write` wrote, with memory-mapped arrays."""
    contract = Contract.read(folder)
    assert contract, "the folder was checked before"
    arrays = [np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS]
    rows = _json(folder / "samples.json")
    samples = [Sample(r["text"], *(tuple(r[key]) for key in ("tokens", "trained", "prompt"))) for r in rows]
    kept = []
    for row in _json(folder / _CONVERSATIONS):
        kept.append(KeptConversation(row["key"], Conversation.from_dict(row["conversation"])))
    numbers = np.load(folder / _ROWS, mmap_mode="r") if (folder / _ROWS).is_file() else None
    report = _json(folder / "report.json")
    report["places"] = {kind: tuple(places) for kind, places in report["places"].items()}
    report["remarks"] = tuple(report["remarks"])
    return Prepared(Examples(*arrays), None, contract, samples, Report(**report), tuple(kept), numbers)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
