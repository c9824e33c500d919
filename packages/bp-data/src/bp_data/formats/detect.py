"""Detecting the format of each row, and converting it to an internal form."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from bp_core.errors import BadRow, NoTarget, UnknownFormat
from bp_core.thought_marks import OPEN

from ..reading.files import Row
from .call_texts import parse_marked_calls
from .conversations import PAIRS, alpaca, first_given, is_rendered, openai, pair, raw, sharegpt, xlam
from .fields import Value, given, given_list, listed, string
from .preferences import (
    BESIDE_MESSAGES,
    COMPARED,
    PREFERENCE,
    beside_messages,
    check_answer,
    preference,
    says_something,
)
from .ratings import LABELS, RATED, label_of, rated, refuse_near_label
from .records import AnyRecord, Record, Turn, demonstrations
from .suggestions import refuse_compared, suggest
from .tool_calls import read_tools, without_undeclared_nulls
from .turns import without_loss_marks
from .unused import REASONING, THOUGHTS, unused_columns

Keys = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Format:
    """A data format: the keys that identify it (any one of the sets), and how rows become turns or raw text."""

    name: str
    keys: Keys
    read: Callable[[Value, str], list[Turn] | str]


# The first that fits counts: the keys of later formats are often readable copies.
FORMATS = (
    Format("openai", (("messages",),), openai),
    Format("sharegpt", (("conversations",),), sharegpt),
    Format("alpaca", (("instruction", "output"),), alpaca),
    Format("prompt", PAIRS, pair),
    Format("xlam", (("query", "answers", "tools"),), xlam),
    Format("text", (("text",),), raw),
)
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_MEDIA_KEYS = frozenset(_MEDIA)
_COMPARED = frozenset(COMPARED)
_UNKNOWN = "unknown"
_NEAR = 0.75  # similarity of a misspelt name, as in difflib


@dataclass(frozen=True)
class FormatCount:
    """One format in a file: its rows, their share of all, and the location of the first."""

    format: str
    rows: int
    share: float
    first: str


@dataclass(frozen=True)
class DetectedFormats:
    """The formats in a file, the most frequent first; "unknown" for rows of no known format."""

    rows: int
    formats: tuple[FormatCount, ...]

    @property
    def confidence(self) -> float:
        """The share of rows in the most frequent format."""
        return self.formats[0].share if self.formats else 0.0


def detect(rows: Iterable[Row]) -> DetectedFormats:
    """The formats of the rows, from their keys as in `convert`, without checking the values."""
    return summary((format_name(row), row.where) for row in rows)


def summary(named: Iterable[tuple[str, str]]) -> DetectedFormats:
    """Count formats, given the format name and location of each row."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for name, where in named:
        counts[name] += 1
        first.setdefault(name, where)
    total = counts.total()
    return DetectedFormats(
        total, tuple(FormatCount(n, rows, rows / total, first[n]) for n, rows in counts.most_common())
    )


def format_name(row: Row) -> str:
    """The name of the row's format, or "unknown"."""
    value = _present(row)
    name, format = _identify(value)
    text = value.get("text") if format and format.read is raw else None
    return "rendered" if isinstance(text, str) and is_rendered(text) else name


def convert(row: Row, thoughts: bool = False) -> AnyRecord:
    """Convert a row to its internal form. With `thoughts` a column such as `rationale` becomes the answer's reasoning.

    Raises UnknownFormat, BadRow, NoTarget.
    """
    value = _present(row)
    if len(value) < len(row.value):
        _refuse_null(row, value)
    record = _converted(value, row.where, thoughts)
    if isinstance(record, Record) and not isinstance(record.content, str):
        refuse_compared(value, record.unused, row.where, lambda renamed: convert(Row(renamed, row.where)))
        refuse_near_label(value, row.where)
    missing = [name for name in LABELS if name in row.value and name not in value]
    return replace(record, unused=(*record.unused, *missing)) if missing else record


def _converted(value: Value, where: str, thoughts: bool) -> AnyRecord:
    _refuse_media(value, where)
    name, format = _identify(value)
    if name == PREFERENCE:
        if value.keys() >= _COMPARED:
            return _with_unused(preference(value, where), value, "preference")
        return _with_unused(beside_messages(value, where), value, "beside")
    if format is None:
        raise _unknown_format(value, where, thoughts)
    if name == RATED:
        answer = rated(format.read, value, where, check_answer)
        return _with_unused(answer, value, format.name)
    return _with_unused(_demonstration(format, value, where, thoughts), value, format.name)


def _with_unused(record: AnyRecord, value: Value, format: str) -> AnyRecord:
    """The record with the names of the columns that are not in it."""
    texts = (text for part in demonstrations(record) for text in _contents(part))
    unused = unused_columns(value, format, texts, not isinstance(record, Record))
    return replace(record, unused=unused) if unused else record


def _contents(record: Record) -> list[str]:
    if isinstance(record.content, str):
        return [record.content]
    thoughts = [turn[REASONING] for turn in record.content if REASONING in turn]
    return [turn["content"] for turn in record.content if turn["content"]] + thoughts


def _identify(value: Value) -> tuple[str, Format | None]:
    """The name of the row's format, and the Format that reads its conversation, if any."""
    if value.keys() >= _COMPARED or ("messages" in value and any(given(value.get(key)) for key in BESIDE_MESSAGES)):
        return PREFERENCE, None
    format = _format_of(tuple(value))
    if format is None:
        return _UNKNOWN, None
    # A `label` may also be something else than a rating, such as a topic.
    is_rated = "kto_tag" in value or (format.read is not raw and label_of(value) is not None)
    return RATED if is_rated else format.name, format


@lru_cache(maxsize=1024)
def _format_of(names: tuple[str, ...]) -> Format | None:
    """The first format that has its keys among the names; the rows of a file mostly have the same."""
    return next((each for each in FORMATS if any(set(keys) <= set(names) for keys in each.keys)), None)


def _unknown_format(value: Value, where: str, thoughts: bool) -> UnknownFormat:
    """The error for a row of no known format, with columns that would make it one."""
    refuse_compared(value, (), where, lambda renamed: convert(Row(renamed, where)))
    keys = [str(key) for key in value]
    columns = suggest(value, lambda renamed: convert(Row(renamed, where), thoughts))
    fix = f"Name the columns: --columns {columns}" if columns else None
    return UnknownFormat(_unknown(keys), where=where, fix=fix)


def _refuse_null(row: Row, value: Value) -> None:
    """Raise NoTarget for a row that would be of a known format but for columns that are null."""
    if _identify(value)[0] != _UNKNOWN:
        return
    for keys in [*(keys for format in FORMATS for keys in format.keys), COMPARED]:
        null = [key for key in keys if key in row.value and key not in value]
        if null and set(keys) <= row.value.keys():
            raise NoTarget(f"{null[0]!r} is null.", where=row.where, fix="Fill it, or remove the row.")


def _demonstration(format: Format, value: Value, where: str, thoughts: bool) -> Record:
    content = format.read(value, where)
    if isinstance(content, str):
        if not content.strip():
            raise NoTarget("the text is empty.", where=where)
        return Record(format.name, content, where)
    turns, tools = parse_marked_calls(_with_thoughts(content, value, where, thoughts), read_tools(value, where))
    turns, untrained = without_loss_marks(without_undeclared_nulls(turns, tools))
    _check_target(turns, untrained, where)
    return Record("rendered" if format.read is raw else format.name, turns, where, untrained, tools)


def _with_thoughts(turns: list[Turn], value: Value, where: str, asked: bool) -> list[Turn]:
    """The turns, the last answer with the reasoning that a column has for it."""
    names = (REASONING, *THOUGHTS) if asked else (REASONING,)
    name = first_given(value, names)
    if name is None or turns[-1]["role"] != "assistant":
        return turns
    last = turns[-1]
    if REASONING in last or OPEN in last["content"]:
        return turns
    return [*turns[:-1], {**last, REASONING: string(value, name, where)}]


def _present(row: Row) -> Value:
    """The row without missing values: merged tables fill gaps with null, and pandas with NaN."""
    value = {}
    for key, item in row.value.items():
        if item is not None and not (type(item) is float and item != item):
            value[key if isinstance(key, str) else str(key)] = item
    return value


def _refuse_media(value: Value, where: str) -> None:
    """Raise BadRow for rows with images or other media: their text must not be trained without them."""
    if _MEDIA_KEYS.isdisjoint(value):
        return
    for key in _MEDIA:
        if given_list(value.get(key)):
            fix = f"Only text is learned; remove {key!r} and what the turns say of it, or the row."
            raise BadRow(f"the row has {key!r}.", where=where, fix=fix)


def _check_target(turns: list[Turn], untrained: tuple[int, ...], where: str) -> None:
    answers = [number for number, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
    if not answers:
        raise NoTarget("there is no assistant turn.", where=where)
    answers = [number for number in answers if number - 1 not in untrained]
    if not answers:
        raise NoTarget("every assistant turn is marked as untrained.", where=where)
    for number in answers:
        if not says_something(turns[number - 1]):
            raise NoTarget(f"the answer in turn {number} is empty.", where=where)


def _unknown(keys: list[str]) -> str:
    known = list(dict.fromkeys([key for format in FORMATS for names in format.keys for key in names] + [*COMPARED]))
    hints = []
    for key in map(str, keys):
        near = difflib.get_close_matches(key.lower(), known, 1, _NEAR)
        if near and near[0] != key:
            hints.append(f"did you mean {near[0]!r} instead of {key!r}?")
    return " ".join([f"the keys {listed(keys)} belong to no known format.", *hints])
