"""Collecting examples, counts, a hash and proof samples from rows, one chunk at a time."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bp_core.choices import PAIRED, Method, ToolSchema
from bp_core.config import TrainConfig
from bp_core.contract import Bos, Contract
from bp_core.errors import NoTarget, TemplateUnusable

from ..formats.records import AnyRecord, Preference, Record, Turn, content_of
from ..formats.rendered_text import MARKERS
from ..formats.served_schema import dropped_keys
from ..masking.loss_mask import Masked, check_prompts
from ..masking.methods import check_both_verdicts, desirable
from ..masking.reasoning import VERDICTS, Limits, Verdict, check_written, judge, opens_thought
from ..reading.context import Remark
from ..tokenizer.chat_tokenizer import ChatTokenizer
from ..tokenizer.thoughts_template import has_thoughts, knows_thoughts
from ..tokenizer.tools_template import has_tools
from .conversations import ConversationCandidates
from .example_arrays import Collector, Examples
from .prepared import Prepared, Report
from .proof_samples import Candidates

_PLACES = 5  # locations reported of rows that were dropped
# One conversation, or one for each thought in it; or the chosen and the rejected one.
Row = Sequence[tuple[Record, Masked]]


class PreparedBuilder:
    """Accumulates rows into a Prepared data set."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        max_length: int,
        method: Method,
        traces: Limits | None,
        overlap: int = 0,
        tool_schema: ToolSchema = TrainConfig.tool_schema,
    ) -> None:
        self.tokenizer, self._max_length, self.method, self._overlap = tokenizer, max_length, method, overlap
        self.tool_schema: ToolSchema = tool_schema
        self.remarks: list[Remark] = []
        self._places: dict[str, list[str]] = {}
        self._unused: Counter[str] = Counter()
        self._unused_at: dict[str, str] = {}
        self._limits, self._opened = traces, traces is not None and opens_thought(tokenizer)
        self._traces: Counter[Verdict] = Counter()
        self._examples = Collector()
        self._formats: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._templates: list[str] = []  # the model's own
        self._has_tools = self._adds_tools = self._has_thoughts = False
        self._schema_keys: Counter[str] = Counter()
        self._bos: dict[bool, set[Bos]] = {True: set(), False: set()}  # of conversations, and of raw texts
        self._terminators: set[int] = set()
        self._longest = self._truncated = self._turns_cut = self._terminators_lost = self._left_out = 0
        self._markup = 0
        self._thoughts_apart = self._thoughts_dropped = 0
        self._rows = array("q")  # the row of each example
        self._kept = self._alike = self._split = self._ids_made_up = self._tokens_cut = 0
        self._digest = hashlib.sha256()
        self._candidates = Candidates(max_length)
        self._conversations = ConversationCandidates()

    @property
    def thinks(self) -> bool:
        """Whether reasoning traces are learned, and so taken from columns of their own too."""
        return self._limits is not None

    @property
    def rows(self) -> int:
        return self._formats.total()

    def add(self, records: Sequence[AnyRecord], rows: Sequence[Row]) -> None:
        """Add rows in the order of the data: each one's record and its tokenised conversations."""
        for record, row, verdicts in zip(records, rows, self._verdicts(rows), strict=True):
            self._formats[record.format] += 1
            self._first.setdefault(record.format, record.where)
            self._digest.update(_canonical(record))
            self._note(row)
            self._note_schema(record)
            self._note_unused(record)
            fitting = [part for part, verdict in zip(row, verdicts, strict=True) if verdict == "kept"]
            self._note_thoughts(record, row, fitting)
            if fitting and self._keep(record, fitting):
                self._kept += 1
            else:
                self._place("dropped", record.where)

    def _place(self, kind: str, where: str) -> None:
        """Keep the first places of each kind of loss."""
        places = self._places.setdefault(kind, [])
        if len(places) < _PLACES and where not in places:
            places.append(where)

    def _note_unused(self, record: AnyRecord) -> None:
        for name in record.unused:
            self._unused[name] += 1
            self._unused_at.setdefault(name, record.where)

    def _verdicts(self, rows: Sequence[Row]) -> list[list[Verdict]]:
        """The verdicts on the reasoning traces of each row's conversations; "kept" for all without limits.

        Of two answers that are compared the better one's counts for both.
        """
        if self._limits is None:
            return [["kept"] * len(row) for row in rows]
        judged = [row[:1] if self.method in PAIRED else row for row in rows]
        records = [record for row in judged for record, _ in row]
        found = iter(judge(records, self.tokenizer, self._limits, self._opened))
        verdicts: list[list[Verdict]] = []
        for row, of_row in zip(rows, judged, strict=True):
            each = [next(found) for _ in of_row]
            self._traces["kept" if "kept" in each else each[-1]] += 1
            for verdict, (record, masked) in zip(each, of_row, strict=True):
                if verdict == "kept":
                    check_written(record, masked.text)
            verdicts.append(each * len(row) if self.method in PAIRED else each)
        return verdicts

    def _note_thoughts(self, record: AnyRecord, row: Row, fitting: Row) -> None:
        """Count the examples that a row's earlier thoughts become, and those of them that do not fit."""
        if self.method in PAIRED or len(row) < 2:
            return
        self._thoughts_apart += len(row) - 1
        self._place("thoughts_apart", record.where)
        if fitting and len(fitting) < len(row):
            self._thoughts_dropped += len(row) - len(fitting)
            self._place("thoughts_dropped", record.where)

    def _note(self, row: Row) -> None:
        """Note what the contract needs."""
        for record, masked in row:
            self._bos[not isinstance(record.content, str)].add(masked.bos)
            if not isinstance(record.content, str):
                self._note_template(record, record.content)
            if masked.left_out:
                self._left_out += masked.left_out
                self._place("left_out", record.where)
            if masked.ids_made_up:
                self._ids_made_up += masked.ids_made_up
                self._place("ids_made_up", record.where)

    def _note_template(self, record: Record, turns: list[Turn]) -> None:
        own = self.tokenizer.own_template(record.tools)
        if own not in self._templates:
            self._templates.append(own)
        self._has_tools |= bool(record.tools)
        self._adds_tools |= has_tools(turns, record.tools)
        self._has_thoughts |= has_thoughts(turns)

    def _note_schema(self, record: AnyRecord) -> None:
        for key in dropped_keys(record.tools):
            self._schema_keys[key] += 1
            self._place("schema_keys", record.where)

    def _keep(self, record: AnyRecord, row: Row) -> bool:
        """Add the examples of a row, cut to max_length, that have a trained token left; of a pair both or none."""
        if isinstance(record, Preference):
            check_prompts(record, *(masked for _, masked in row))
            if row[0][1].tokens == row[1][1].tokens:
                self._alike += 1
                self._place("alike", record.where)
                return False
        if isinstance(record, Record) and isinstance(record.content, str):
            return self._keep_text(record, row[0][1])
        self._longest = max(self._longest, *(len(masked.tokens) for _, masked in row))
        lengths = [masked.cut(self._max_length) for _, masked in row]
        targets = [1 in masked.trained[:length] for (_, masked), length in zip(row, lengths, strict=True)]
        for (_, masked), length, has_target in zip(row, lengths, targets, strict=True):
            self._count_cut(masked, length, has_target, record.where)
        paired = self.method in PAIRED
        for (_, masked), length, has_target in zip(row, lengths, targets, strict=True):
            if all(targets) if paired else has_target:
                self._terminators.update(masked.tokens[end] for end in masked.ends)
                self._examples.add(masked.tokens[:length], masked.trained[:length], desirable(record))
                self._rows.append(self.rows)
        if desirable(record):
            place = 0 if paired else -1  # the better answer; or the whole conversation
            whole, masked = row[place]
            self._candidates.add([masked])
            if targets[place] and lengths[place] == len(masked.tokens):
                self._conversations.add(whole, masked.tokens)
        return all(targets) if paired else any(targets)

    def _keep_text(self, record: Record, text: Masked) -> bool:
        """Add a raw text, in as many pieces as it needs."""
        self._longest = max(self._longest, len(text.tokens))
        if any(marker in text.text for marker in MARKERS):
            self._markup += 1
            self._place("markup", record.where)
        parts = text.pieces(self._max_length, self._overlap, self.tokenizer.prefix)
        if len(parts) > 1:
            self._split += 1
            self._place("split", record.where)
        for tokens, trained in parts:
            self._examples.add(tokens, trained)
            self._rows.append(-len(self._rows) - 1)  # pieces are held out one by one
        self._terminators.update(text.tokens[end] for end in text.ends)
        self._candidates.add([text])
        return True

    def _count_cut(self, row: Masked, length: int, has_target: bool, where: str) -> None:
        if length < len(row.tokens):
            self._truncated += 1
            self._tokens_cut += len(row.tokens) - length
            self._place("truncated", where)
            self._turns_cut += sum(end >= length for end in row.ends)
            self._terminators_lost += not any(end < length for end in row.ends) and has_target

    def prepared(self) -> Prepared:
        """Raises NoTarget if no example was left, TemplateUnusable as `_contract`."""
        if not self._examples and self.rows and self._traces["none"] == self.rows:
            message = f"none of the {self.rows} rows has a reasoning trace (<think> … </think>)."
            raise NoTarget(message, fix="Leave reasoning_trace out, or use rows with traces.")
        if not self._examples:
            message = f"no row has a trained token within max_length {self._max_length}."
            raise NoTarget(message, fix="Raise max_length, or shorten the prompts.")
        samples, examples = self._candidates.choose(self.tokenizer), self._examples.examples()
        if self.method == "kto":
            check_both_verdicts(examples.desirable)
        contract, report = self._contract(), self._report(examples)
        rows = np.frombuffer(self._rows, np.int64) if self._thoughts_apart else None
        return Prepared(examples, None, contract, samples, report, self._conversations.kept(), rows)

    def _contract(self) -> Contract:
        """The contract that holds for all rows. Raises TemplateUnusable if only some rows have the BOS written in."""
        policies = self._bos[True] or self._bos[False]
        if "template" in policies and len(policies) > 1:
            raise TemplateUnusable("the chat template writes the BOS token in some rows but not in others.")
        tokenizer = self.tokenizer
        bos: Bos = "tokenizer" if tokenizer.prefix else "none"
        if "template" in policies:
            bos = "template"
        terminators = tuple(sorted(self._terminators))
        stop = tuple(tokenizer.decode([token]) for token in terminators)
        own = self._templates[0] if self._templates else ""
        if len(self._templates) > 1:  # with tools and without: a chat begins with the default one
            own = tokenizer.template
        written = tokenizer.written_by(own, tools=self._adds_tools, thoughts=self._has_thoughts)
        return Contract(
            written,
            bos,
            terminators,
            stop,
            tools_template=tokenizer.tools_template if self._adds_tools else "none",
            tool_schema=self.tool_schema if self._has_tools else "",
            adds_thoughts=self._has_thoughts and not knows_thoughts(own),
        )

    def _report(self, examples: Examples) -> Report:
        return Report(
            method=self.method,
            rows=self.rows,
            formats=dict(self._formats),
            mixed={name: self._first[name] for name, _ in self._formats.most_common()[1:]},
            examples=len(examples) // (2 if self.method in PAIRED else 1),
            tokens=len(examples.tokens),
            targets=examples.trained_tokens,
            longest=self._longest,
            truncated=self._truncated,
            turns_cut=self._turns_cut,
            terminators_lost=self._terminators_lost,
            dropped=self.rows - self._kept,
            tokens_cut=self._tokens_cut,
            split=self._split,
            markup=self._markup,
            alike=self._alike,
            ids_made_up=self._ids_made_up,
            places={kind: tuple(places) for kind, places in self._places.items()},
            unused=dict(self._unused),
            unused_at=self._unused_at,
            schema_keys=dict(self._schema_keys),
            remarks=tuple(f"{remark.where}: {remark.message}" for remark in self.remarks),
            max_length=self._max_length,
            left_out=self._left_out,
            thoughts_apart=self._thoughts_apart,
            thoughts_dropped=self._thoughts_dropped,
            desirable=int(examples.desirable.sum()) if self.method == "kto" else None,
            traces={name: self._traces[name] for name in VERDICTS} if self._limits else {},
            opens_thought=self._opened,
            packed=0,
            sha256=self._digest.hexdigest(),
        )


_JSON = json.JSONEncoder(ensure_ascii=False)


def _canonical(record: AnyRecord) -> bytes:
    """The row's content as bytes, independent of line ends, blank lines and key order in the file."""
    untrained = json.dumps(record.untrained) if isinstance(record, Record) and record.untrained else ""
    return (_JSON.encode(content_of(record)) + untrained + "\n").encode()
