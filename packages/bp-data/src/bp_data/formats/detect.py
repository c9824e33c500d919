"""Detecting the format of each row, and converting it to an internal form."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bp_core.errors import BadRow, NoTarget, UnknownFormat

from ..reading.files import Row
from .conversations import PAIRS, alpaca, is_rendered, openai, pair, raw, sharegpt
from .fields import Value, given, listed
from .preferences import PREFERENCE, RATED, preference, rated, says_something, verdict_of
from .records import AnyRecord, Record, Turn
from .tool_calls import parse_marked_calls, read_tools
from .turns import without_loss_marks

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
    Format("text", (("text",),), raw),
)
_COMPARED = ("chosen", "rejected")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_UNKNOWN = "unknown"
_NEAR = 0.75  # similarity of a misspelt name, as in difflib
# Other names of the two columns, used only for suggestions.
_ALIASES = {
    "prompt": ("prompt", "question", "query", "input", "instruction", "problem", "user", "text_input"),
    "completion": ("completion", "response", "answer", "reply", "output", "solution", "assistant", "target"),
}


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

    @property
    def minorities(self) -> tuple[FormatCount, ...]:
        return self.formats[1:]


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


def convert(row: Row) -> AnyRecord:
    """Convert a row to its internal form. Raises UnknownFormat, BadRow, NoTarget."""
    value = _present(row)
    _refuse_media(value, row.where)
    name, format = _identify(value)
    if name == PREFERENCE:
        return preference(value, row.where)
    if format is None:
        columns = _suggestion(value)
        fix = f"Name the columns: --columns {columns}" if columns else None
        raise UnknownFormat(_unknown(list(row.value)), where=row.where, fix=fix)
    if name == RATED:
        return rated(format.read, value, row.where)
    return _demonstration(format, value, row.where)


def _identify(value: Value) -> tuple[str, Format | None]:
    """The name of the row's format, and the Format that reads its conversation, if any."""
    if all(key in value for key in _COMPARED):
        return PREFERENCE, None
    format = next((each for each in FORMATS if any(all(key in value for key in keys) for keys in each.keys)), None)
    if format is None:
        return _UNKNOWN, None
    return RATED if _is_rated(format, value) else format.name, format


def _demonstration(format: Format, value: Value, where: str) -> Record:
    content = format.read(value, where)
    if isinstance(content, str):
        if not content.strip():
            raise NoTarget("the text is empty.", where=where)
        return Record(format.name, content, where)
    turns, tools = parse_marked_calls(content, read_tools(value, where))
    turns, untrained = without_loss_marks(turns)
    _check_target(turns, untrained, where)
    return Record("rendered" if format.read is raw else format.name, turns, where, untrained, tools)


def _present(row: Row) -> Value:
    return {key: item for key, item in row.value.items() if item is not None}  # merged tables fill gaps with null


def _refuse_media(value: Value, where: str) -> None:
    """Raise BadRow for rows with images or other media: their text must not be trained without them."""
    for key in _MEDIA:
        if given(value.get(key)):
            fix = f"Only text is learned; remove {key!r} and what the turns say of it, or the row."
            raise BadRow(f"the row has {key!r}.", where=where, fix=fix)


def _is_rated(format: Format, value: Value) -> bool:
    """Whether the row has a rating. A `label` may also be something else, such as a topic."""
    return "kto_tag" in value or (format.read is not raw and verdict_of(value.get("label")) is not None)


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
    known = list(dict.fromkeys([key for format in FORMATS for names in format.keys for key in names] + [*_COMPARED]))
    hints = []
    for key in map(str, keys):
        near = difflib.get_close_matches(key.lower(), known, 1, _NEAR)
        if near and near[0] != key:
            hints.append(f"did you mean {near[0]!r} instead of {key!r}?")
    return " ".join([f"the keys {listed(keys)} belong to no known format.", *hints])


def _suggestion(value: Value) -> str:
    """A value for --columns that would make the row a known format, from similar column names; "" if none."""
    keys = [str(key) for key in value]
    for wanted in [*(names for format in FORMATS for names in format.keys), _COMPARED]:
        found = {name: _nearest(name, keys) for name in wanted}
        if all(found.values()) and len(set(found.values())) == len(found):
            return ",".join(f"{name}={column}" for name, column in found.items())
    return ""


def _nearest(name: str, keys: list[str]) -> str | None:
    lower = {key.lower(): key for key in reversed(keys)}
    alias = next((lower[other] for other in _ALIASES.get(name, (name,)) if other in lower), None)
    near = difflib.get_close_matches(name, lower, 1, _NEAR)
    return alias or (lower[near[0]] if near else None)
