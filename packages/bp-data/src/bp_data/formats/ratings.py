"""Ratings of answers, in every notation that data sets have for good and bad."""

from __future__ import annotations

from collections.abc import Callable

from bp_core.errors import BadRow, UnknownFormat

from ..reading.columns import written, written_names
from .fields import Value, given, shown
from .records import Rated, Turn
from .tool_calls import read_tools
from .turns import without_loss_marks

RATED = "kto"  # the name of the format
LABELS = ("kto_tag", "label")  # columns of a rating
# Columns that hold a rating where their value is one, but that are not ours: such a row is not learned from unasked.
_NEAR_LABELS = {
    "labels", "verdict", "rating", "desirable", "is_desirable", "undesirable", "good", "is_good", "bad", "is_bad",
    "feedback", "preferred", "is_preferred", "accepted", "is_accepted", "chosen_label", "thumbs", "thumbs_up", "thumb",
    "upvoted", "liked", "like", "is_correct", "correct", "is_chosen", "approved", "acceptable", "kto_label", "kto_tags",
    "completion_label", "response_label", "answer_label", "is_positive", "reward_label",
}  # fmt: skip
_GOOD = (
    "true 1 1.0 +1 yes y t good great desirable chosen preferred positive pos accept accepted approve approved like "
    "liked thumbs_up thumbs-up thumbsup up upvote correct right pass passed win winner 👍 ✅"
)
_BAD = (
    "false 0 0.0 -0.0 -1 -1.0 no n f bad poor undesirable rejected dispreferred negative neg reject disapprove dislike "
    "disliked thumbs_down thumbs-down thumbsdown down downvote incorrect wrong fail failed lose loss loser 👎 ❌"
)
_VERDICTS = {**dict.fromkeys(_GOOD.split(), True), **dict.fromkeys(_BAD.split(), False)}


def verdict_of(value: object) -> bool | None:
    """A rating in any notation as a bool; None for other values, such as a topic."""
    if hasattr(value, "item") and hasattr(value, "dtype"):  # a scalar of numpy or torch
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        return None
    return _VERDICTS.get(str(value).strip().lower().replace(" ", "_"))


def label_of(value: Value) -> str | None:
    """The column that rates the row's answer, if one does."""
    if "kto_tag" in value:
        return "kto_tag"
    return "label" if verdict_of(value.get("label")) is not None else None


def refuse_near_label(value: Value, where: str) -> None:
    """Raise UnknownFormat for a row that is rated under another name than ours."""
    for key in value.keys() & _NEAR_LABELS:
        rating = value[key]
        if given(rating) and not _is_number(rating) and verdict_of(rating) is not None:
            fix = f"If it rates the answer: --columns {written({'label': key})}; "
            fix += f"if not: --ignore-columns {written_names([key])}"
            message = (
                f"{key!r} looks like a rating of the answer ({shown(rating)}), and an answer rated bad is not to be"
            )
            raise UnknownFormat(f"{message} learned as an example.", where=where, fix=fix)


def _is_number(value: object) -> bool:
    """Whether the value is a number, which on an unknown scale is no verdict."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def rated(
    read: Callable[[Value, str], list[Turn] | str], value: Value, where: str, check: Callable[..., None]
) -> Rated:
    """A conversation, which `read` reads, with a rating of its last answer; `check` raises where that is empty."""
    key = label_of(value) or "label"
    verdict = verdict_of(value[key])
    if verdict is None:
        raise BadRow(f"{key!r} must be true or false, not {shown(value[key])}.", where=where)
    content = read(value, where)
    if isinstance(content, str):
        raise BadRow("raw text cannot be rated.", where=where, fix="Give prompt and completion apart.")
    turns, _ = without_loss_marks(content)
    check(turns, "the row", where)
    return Rated(RATED, turns, verdict, where, read_tools(value, where))
