"""The kind of rows that each method learns from, and their conversations."""

from __future__ import annotations

from typing import Any

from bp_core.choices import PAIRED, Method
from bp_core.errors import MethodMismatch, NoTarget

from ..formats.records import AnyRecord, Preference, Rated, Record, demonstrations

_KINDS = {Record: "examples", Preference: "pairs of a chosen and a rejected answer", Rated: "rated answers"}
_FIXES = {
    Record: "Use --method sft; or give each row a chosen and a rejected answer, or a prompt, a completion and a label.",
    Preference: "Use --method orpo or simpo; or keep the good answers only, with --columns completion=chosen.",
    Rated: "Use --method kto; or keep the good answers only, as prompt/completion or messages. If the label is no "
    "rating: --ignore-columns label",
}


def conversations(record: AnyRecord, method: Method) -> list[Record]:
    """The conversations to tokenise: one, or the chosen and the rejected one. Raises MethodMismatch."""
    wanted: type[AnyRecord] = Preference if method in PAIRED else Record
    if method == "kto":
        wanted = Rated
    if not isinstance(record, wanted):
        message = f"method {method} learns from {_KINDS[wanted]}; this row is of {_KINDS[type(record)]}."
        raise MethodMismatch(message, where=record.where, fix=_FIXES[type(record)])
    return list(demonstrations(record))


def desirable(record: AnyRecord) -> bool:
    """The rating of a rated answer; True for other records."""
    return not isinstance(record, Rated) or record.desirable


def check_both_verdicts(desirable: Any) -> None:
    """Raise NoTarget if all ratings are equal. desirable: uint8 [examples]."""
    if len(set(desirable.tolist())) == 1:
        which = "good" if desirable[0] else "bad"
        raise NoTarget(
            f"all answers are rated {which}; kto learns from what sets good ones apart from bad ones.",
            fix="Give rows of both kinds; if all are good, use --method sft.",
        )
