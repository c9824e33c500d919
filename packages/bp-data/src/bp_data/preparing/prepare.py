"""From data to examples: read, convert, render, tokenise, mask, cut, with a report that counts every row."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from bp_core.choices import Method, ToolSchema, TrainOn
from bp_core.config import DataConfig, TrainConfig
from bp_core.events import Notify, Progress
from bp_core.settings import names

from ..formats.detect import convert
from ..formats.records import AnyRecord, Record
from ..formats.served_schema import with_schema
from ..masking.each_thought import with_each_thought
from ..masking.loss_mask import Masked, mark
from ..masking.methods import conversations
from ..masking.reasoning import Limits
from ..masking.render import Layout, lay_out
from ..reading.files import Data, Row, paths_of, read
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .builder import PreparedBuilder
from .cache import keep, load, place
from .prepared import Prepared

_CHUNK = 512  # rows tokenised at once, by the tokenizer's threads; progress is reported after each chunk


def prepare(
    data: Data,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    samples: int | None = None,
    packing: bool = False,
    reading: DataConfig | None = None,
    train_on: TrainOn = TrainConfig.train_on,
    method: Method = TrainConfig.method,
    traces: Limits | None = None,
    text_overlap: int = TrainConfig.text_overlap,
    tool_schema: ToolSchema = TrainConfig.tool_schema,
    evaluating: bool = False,
    cache: Path | None = None,
    on_progress: Notify | None = None,
) -> Prepared:
    """Make examples of the first `samples` rows of the data (all by default), each of at most `max_length` tokens.

    Longer conversations are cut after the last answer that fits, or inside the first; longer raw texts are split into
    pieces that repeat `text_overlap` tokens. Rows are read, converted and tokenised in chunks; only tokens and masks
    are kept. `reading` is the `config` of `read`, `evaluating` as there. With `packing` the examples share rows of
    `max_length` tokens. `method` decides what rows must be: examples, pairs of answers, or rated answers. `traces`
    limits the length of reasoning traces; other rows are dropped. `tool_schema` says how tools are written. `cache` is
    a folder for the results of large files.
    Raises the errors of reading and converting, MethodMismatch, TemplateUnusable, and NoTarget if nothing is left.
    """
    limits = (traces.shortest, traces.longest) if traces else None
    reading = reading or DataConfig()
    settings: dict[str, Any] = {name: getattr(reading, name) for name in names(DataConfig)}
    settings |= {"max_length": max_length, "samples": samples, "train_on": train_on, "text_overlap": text_overlap}
    settings |= {"method": method, "traces": limits, "evaluating": evaluating, "tool_schema": tool_schema}
    entry = place(cache, data, tokenizer, settings) if cache else None
    prepared = load(entry) if entry else None
    if prepared is None:
        builder = PreparedBuilder(tokenizer, max_length, method, traces, text_overlap, tool_schema)
        rows = read(data, reading, tell=builder.remarks.append, first=samples, evaluating=evaluating)
        total = len(range(len(data))[:samples]) if isinstance(data, Sized) and paths_of(data) is None else 0
        prepared = _prepared(rows, total, builder, train_on, on_progress)
        if cache and entry and entry == place(cache, data, tokenizer, settings):  # the file did not change meanwhile
            keep(entry, prepared)
    return prepared.packing(max_length) if packing else prepared


def _prepared(
    rows: Iterator[Row], total: int, builder: PreparedBuilder, train_on: TrainOn, notify: Notify | None
) -> Prepared:
    for records, masked in _tokenised(rows, builder, train_on):
        builder.add(records, masked)
        if notify:
            notify(Progress("tokenise", builder.rows, total))
    return builder.prepared()


def _tokenised(
    rows: Iterator[Row], builder: PreparedBuilder, train_on: TrainOn
) -> Iterator[tuple[list[AnyRecord], list[list[tuple[Record, Masked]]]]]:
    """The rows in chunks. While one is tokenised, in Rust without the GIL, the next is rendered."""
    with ThreadPoolExecutor(1) as thread:
        waiting: _Chunk | None = None
        while records := [convert(row, builder.thinks) for row in islice(rows, _CHUNK)]:
            parts = [_parts(record, builder, train_on) for record in records]
            chunk = _Chunk(records, parts, builder.tokenizer, train_on)
            chunk.tokenise(thread)
            if waiting:
                yield waiting.records, waiting.marked()
            waiting = chunk
        if waiting:
            yield waiting.records, waiting.marked()


def _parts(record: AnyRecord, builder: PreparedBuilder, train_on: TrainOn) -> list[Record]:
    """The conversations of a row, their tools in the schema that is learned."""
    found: list[Record] = []
    for part in conversations(record, builder.method):
        found += with_each_thought(with_schema(part, builder.tool_schema), builder.tokenizer, train_on)
    return found


class _Chunk:
    """A chunk of records, and their rendered conversations."""

    def __init__(
        self, records: list[AnyRecord], parts: list[list[Record]], tokenizer: ChatTokenizer, train_on: TrainOn
    ) -> None:
        self.records, self._parts, self._tokenizer = records, parts, tokenizer
        self._layouts: list[Layout] = [lay_out(part, tokenizer, train_on) for row in parts for part in row]
        self._texts = [layout.text for layout in self._layouts]

    def tokenise(self, thread: Executor) -> None:
        """Begin to tokenise the conversations."""
        self._encoded = thread.submit(self._tokenizer.encode_chunk, self._texts)

    def marked(self) -> list[list[tuple[Record, Masked]]]:
        """The conversations of each row with their masks."""
        tokens = self._tokenizer.located(self._texts, self._encoded.result())
        masks = iter([mark(*pair, self._tokenizer) for pair in zip(self._layouts, tokens, strict=True)])
        return [[(part, next(masks)) for part in row] for row in self._parts]
