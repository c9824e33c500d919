"""The kinds of fault that a check can find, and the findings of one file: all counted, the first of each kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from .config import Severity

KEPT = 100  # findings of each kind kept with location and message; the others are only counted
_ORDER: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its meaning, what to do about it, and what a repair does, if anything."""

    name: str
    severity: Severity
    meaning: str
    advice: str
    repair: Literal["", "left out", "cleaned"] = ""


_OUT: Literal["left out"] = "left out"
_KINDS = (
    Kind("bad-encoding", "error", "A line is not text in the file's encoding.", "Save the file as UTF-8.", _OUT),
    Kind("broken-row", "error", "A row cannot be read, or holds a value of the wrong kind.", "Correct the row.", _OUT),
    Kind("broken-call", "error", "The arguments of a tool call are no JSON object.", "Write them as JSON.", _OUT),
    Kind("empty-file", "error", "A file of the folder has no rows.", "Remove the file, or fill it."),
    Kind("unknown-format", "error", "The keys of a row belong to no known format.", "Rename its keys.", _OUT),
    Kind("no-answer", "error", "A row has no assistant turn to learn.", "Add the answer, or remove the row.", _OUT),
    Kind("empty-answer", "error", "An answer is empty, or a turn is null.", "Fill it, or remove the row.", _OUT),
    Kind("template-refuses", "error", "The model's chat template refuses a row.", "Reorder its turns.", _OUT),
    Kind("leak", "error", "A row stands in the held-out data, too.", "Remove it on one side.", _OUT),
    Kind("secret", "error", "A key, a token or a password.", "Replace it, and revoke it where it came from."),
    Kind("near-leak", "warning", "A row is nearly one of the held-out data.", "Remove it on one side."),
    Kind("duplicate", "warning", "A row says what an earlier one says.", "Keep one of them.", _OUT),
    Kind("role-order", "warning", "Turns stand in an unusual order.", "Reorder them, if it is not meant so."),
    Kind("unused-column", "warning", "A column that may belong to the row is not learned.", "Use it, or ignore it."),
    Kind("missing-column", "warning", "A column or role that a setting names is in no row.", "Correct the setting."),
    Kind("unknown-tool", "warning", "A call names a tool that the row does not have.", "Correct the name, or add it."),
    Kind("wrong-arguments", "warning", "A call's arguments do not match the tool's schema.", "Correct call or schema."),
    Kind("stray-result", "warning", "A tool's result follows no call.", "Put it after its call, or remove it."),
    Kind("call-text", "warning", "An answer spells a tool call that cannot be read.", "Write it as tool_calls."),
    Kind("alike-answers", "warning", "The better and the worse answer are written alike.", "Remove the row.", _OUT),
    Kind("empty-turn", "warning", "A turn that is not the assistant's is empty.", "Fill it, or remove it."),
    Kind("type-drift", "warning", "A value is of another type than elsewhere.", "Write it as in the other rows."),
    Kind("too-long", "warning", "A row is longer than max_length and will be cut.", "Shorten it, or raise max_length."),
    Kind(
        "end-lost",
        "warning",
        "The cut takes the end of the only answer left: nothing teaches to stop.",
        "See too-long.",
    ),
    Kind("no-target", "warning", "The cut leaves nothing to learn.", "Shorten the prompt, or raise max_length."),
    Kind("not-written", "warning", "The chat template leaves out a part of an answer.", "Write it as that model does."),
    Kind("markup", "warning", "Text holds strings that chat templates write.", "Remove them, or quote them otherwise."),
    Kind("personal-data", "warning", "An e-mail address, or a number of a phone, card or account.", "Replace it."),
    Kind("mojibake", "warning", "Text was decoded with a wrong encoding (Ã© for é).", "Decode the source as UTF-8."),
    Kind("lost-character", "warning", "U+FFFD stands where a character was lost.", "Take the text from its source."),
    Kind("control-character", "warning", "A control character.", "Remove it.", "cleaned"),
    Kind("near-duplicate", "note", "A row is nearly an earlier one.", "Look at both."),
    Kind("invisible-character", "note", "A character without width or a change of direction.", "Remove it.", "cleaned"),
    Kind(
        "outer-space", "note", "A text of one line ends with white space (that of `text` may).", "Remove it.", "cleaned"
    ),
    Kind("mixed-scripts", "note", "A word mixes Latin and Cyrillic letters.", "Write it in one script."),
    Kind(
        "split-text", "note", "A raw text is longer than max_length and will be split.", "Nothing, if it is meant so."
    ),
    Kind(
        "made-up-id", "note", "Tool calls get ids that the chat template wants.", "Nothing; or write ids of your own."
    ),
    Kind(
        "several-thoughts",
        "note",
        "The template shows only the last thought of a row, so each becomes an example.",
        "Nothing; or --train-on last.",
    ),
    Kind("other-split", "note", "Of train, validation and test only train is read.", "Name the others to read them."),
    Kind("left-out-file", "note", "A file beside the data is not read.", "Nothing; or name it to read it."),
    Kind("text-unit", "note", "What one row of a text file is.", "Choose another --text-unit, if it is not meant so."),
    Kind("mixed-formats", "note", "The rows are of several formats.", "Nothing, if it is meant so."),
)
KINDS = {kind.name: kind for kind in _KINDS}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `place` is `file:line`; `fix` says what to do."""

    kind: str
    severity: Severity
    place: str
    message: str
    fix: str

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


class Findings:
    """The findings so far. `counts` counts all of them; iteration gives those that are kept, the worst first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._kept: dict[str, list[Finding]] = {name: [] for name in KINDS}

    def add(self, kind: str, place: str, message: str, fix: str | None = None) -> None:
        self.counts[kind] += 1
        if len(self._kept[kind]) < KEPT:
            severity, advice = KINDS[kind].severity, KINDS[kind].advice
            self._kept[kind].append(Finding(kind, severity, place, message, fix or advice))

    def more(self, kind: str, count: int) -> None:
        """Count findings beyond those that are kept."""
        if count:
            self.counts[kind] += count

    def of(self, kind: str) -> list[Finding]:
        return self._kept[kind]

    def worst(self) -> Severity | None:
        """The highest severity there is."""
        return max((KINDS[name].severity for name in self.counts), key=_ORDER.index, default=None)

    def __iter__(self) -> Iterator[Finding]:
        for kind in sorted(_KINDS, key=lambda kind: -_ORDER.index(kind.severity)):
            yield from self._kept[kind.name]


def at_least(severity: Severity, limit: Severity) -> bool:
    return _ORDER.index(severity) >= _ORDER.index(limit)
